//! What does `ceilings.toml` say?
//!
//! The outside form of ceilings, and its checks. Unknown members are errors, because a misspelt `match` would count
//! every call. It does not count.

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use miette::SourceSpan;
use serde::Deserialize;
use toml::Spanned;

use super::{Ceiling, Ceilings, Matching, Per};
use crate::{
    config::{Problem, Source, UpstreamId},
    state::{Rate, Rates},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    ceilings: Vec<Spanned<Written>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Spanned<String>,
    #[serde(default)]
    per: Vec<Per>,
    #[serde(default, rename = "match")]
    matching: WrittenMatching,
    rate: Option<WrittenRate>,
    in_flight: Option<Spanned<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMatching {
    upstream: Option<Spanned<String>>,
    tool: Option<String>,
    tag: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRate {
    count: Spanned<u32>,
    per: Spanned<String>,
    burst: Spanned<u32>,
}

impl Ceilings {
    /// Reads ceilings from text; no text, no ceilings. `rates` outlives them, so that a reload forgets no call.
    ///
    /// # Errors
    /// Everything wrong in the text, at once.
    pub fn parse(source: Option<&Source>, rates: Arc<Rates>) -> Result<Self, Vec<Problem>> {
        let Some(source) = source else { return Ok(Self { ceilings: Vec::new(), rates }) };
        let file: File = toml::from_str(source.text()).map_err(|fault| vec![source.toml(&fault)])?;
        let mut reader = Reader { source, names: BTreeSet::new(), problems: Vec::new() };
        let ceilings = file.ceilings.into_iter().filter_map(|written| reader.ceiling(written)).collect();
        if reader.problems.is_empty() { Ok(Self { ceilings, rates }) } else { Err(reader.problems) }
    }
}

/// Reads one file and keeps what is wrong with it.
struct Reader<'a> {
    source: &'a Source,
    names: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn ceiling(&mut self, written: Spanned<Written>) -> Option<Ceiling> {
        let whole = written.span();
        let Written { name, per, matching, rate, in_flight } = written.into_inner();
        let before = self.problems.len();
        if name.get_ref().is_empty() || name.get_ref().chars().any(char::is_control) {
            self.wrong(name.span(), "a ceiling needs a name", "it stands in refusals and in the audit");
        } else if !self.names.insert(name.get_ref().clone()) {
            self.wrong(name.span(), "the name is taken by another ceiling", "give each ceiling its own");
        }
        if rate.is_none() && in_flight.is_none() {
            self.wrong(
                whole,
                "a ceiling needs `rate`, `in_flight` or both",
                "`rate = { count = 60, per = \"1m\", burst = 10 }`",
            );
        }
        if let Some(max) = in_flight.as_ref().filter(|max| *max.get_ref() == 0) {
            self.wrong(max.span(), "no call at all would be let through", "forbid them in a policy instead");
        }
        let rate = rate.and_then(|rate| self.rate(&rate));
        if let Some(id) = matching.upstream.as_ref().filter(|id| UpstreamId::parse(id.get_ref()).is_none()) {
            self.wrong(
                id.span(),
                "not the id of an upstream",
                "ids are lower-case letters, digits and `-`, at most 24",
            );
        }
        (self.problems.len() == before).then(|| Ceiling {
            name: Arc::from(name.into_inner()),
            per: distinct(per),
            matching: Matching {
                upstream: matching.upstream.map(Spanned::into_inner),
                tool: matching.tool,
                tag: matching.tag,
            },
            rate,
            in_flight: in_flight.map(Spanned::into_inner),
        })
    }

    fn rate(&mut self, written: &WrittenRate) -> Option<Rate> {
        for number in [&written.count, &written.burst] {
            if *number.get_ref() == 0 {
                self.wrong(number.span(), "no call at all would be let through", "at least 1");
            }
        }
        let Some(per) = span(written.per.get_ref()) else {
            self.wrong(written.per.span(), "not a span of time", "a number and `s`, `m`, `h` or `d`, as in `1m`");
            return None;
        };
        let interval = per.checked_div(*written.count.get_ref())?.max(Duration::from_nanos(1));
        Some(Rate { interval, burst: *written.burst.get_ref() })
    }

    fn wrong(&mut self, span: Range<usize>, message: &str, help: &str) {
        self.problems.push(self.source.problem(message).under(Some(SourceSpan::from(span))).help(help));
    }
}

/// The order of `per` has no meaning, so it must not change the keys.
fn distinct(mut per: Vec<Per>) -> Vec<Per> {
    per.sort_unstable();
    per.dedup();
    per
}

/// `30s`, `1m`, `12h`, `1d`: more than nothing, at most a year.
fn span(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(unit_seconds)?;
    (1..=SPAN_SECONDS_MAX).contains(&seconds).then(|| Duration::from_secs(seconds))
}

const SPAN_SECONDS_MAX: u64 = 366 * 86_400;
