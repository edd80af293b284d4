//! `tollgate audit show`.

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
};

use clap::Args;

use super::{Answer, Failure, explain};
use crate::{
    audit::show::{EVENTS, OUTCOMES, Query, show},
    clock::{self, Timestamp},
};

/// Print who called what and what came of it, one JSON object a line.
///
/// Joins each call with its outcome and prints those that match everything that is given.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The journal's folder.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The user's `sub`.
    #[arg(long, value_name = "SUB")]
    user: Option<String>,
    /// The agent's client id, or one of those that act through it.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// The tool, by its own or its federated name.
    #[arg(long, value_name = "NAME")]
    tool: Option<String>,
    /// The upstream.
    #[arg(long, value_name = "ID")]
    upstream: Option<String>,
    /// The tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// From this time on: RFC 3339, a date, or how long ago, as in `2h` or `7d`.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time, written in the same ways.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How it ended, as the journal says it; `refused` for refusals, `open` for calls without an outcome.
    #[arg(long, value_name = "OUTCOME", value_parser = OUTCOMES)]
    outcome: Option<String>,
    /// The record's `id`, as it stands here, and on the span of the request as `tollgate.audit.id`.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The kind of record; `intent` is a call [default: calls and refusals].
    #[arg(long, value_name = "EVENT", value_parser = EVENTS)]
    event: Option<String>,
}

pub(super) fn act(arguments: &Arguments, out: &mut impl Write) -> Result<Answer, Failure> {
    let now = clock::now();
    let time = |text: &Option<String>| text.as_deref().map(|text| time(text, now)).transpose();
    let query = Query {
        user: arguments.user.clone(),
        agent: arguments.agent.clone(),
        tool: arguments.tool.clone(),
        upstream: arguments.upstream.clone(),
        tenant: arguments.tenant.clone(),
        from: time(&arguments.since)?,
        to: time(&arguments.until)?,
        outcome: arguments.outcome.clone(),
        id: arguments.id.clone(),
        event: arguments.event.clone(),
    };
    let mut out = BufWriter::new(out);
    show(&arguments.directory, &query, &mut out)?;
    out.flush()?;
    Ok(Answer::Yes)
}

/// A point in time, a date at its first moment in UTC, or a span back from `now`.
fn time(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if text.parse::<jiff::civil::Date>().is_ok() && !text.contains(':') {
        return explain::instant(&format!("{text}T00:00:00Z"));
    }
    let units = text.strip_suffix(['s', 'm', 'h', 'd']).and_then(|count| count.parse::<u64>().ok());
    if let (Some(count), Some(unit)) = (units, text.chars().last()) {
        let second: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            _ => 86_400,
        };
        let back = count.saturating_mul(second).saturating_mul(1_000);
        return Ok(Timestamp::from_unix_ms(now.unix_ms().saturating_sub(back)));
    }
    let help = "write it as `2026-01-05T12:00:00Z`, as a date, `2026-01-05`, or as how long ago, `2h` or `7d`";
    explain::instant(text).map_err(|_not_one| Failure::Words(format!("`{text}` is not a point in time; {help}")))
}

const AFTER_HELP: &str = "\
Examples:
  tollgate audit show /var/lib/tollgate/audit --user alice --since 2h
  tollgate audit show DIR --outcome refused --since 2026-01-05 | jq -r .refused.code | sort | uniq -c";

#[cfg(test)]
mod tests {
    use super::{Timestamp, time};

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = Timestamp::from_unix_seconds(1_767_614_400);
        let check = |text: &str, seconds: u64| assert_eq!(time(text, now).unwrap().unix_seconds(), seconds, "{text}");
        check("2026-01-05T12:00:00Z", 1_767_614_400);
        check("2026-01-05T13:00:00+01:00", 1_767_614_400);
        check("2026-01-05", 1_767_571_200);
        check("90s", 1_767_614_310);
        check("2h", 1_767_607_200);
        check("1d", 1_767_528_000);
        let told = time("yesterday", now).unwrap_err().to_string();
        for form in ["`2026-01-05T12:00:00Z`", "`2026-01-05`", "`2h`"] {
            assert!(told.contains(form), "{told}");
        }
    }
}
