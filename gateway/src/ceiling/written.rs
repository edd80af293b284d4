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
    catalog::definition::ACTIONS,
    config::{
        Problem, Source, UpstreamId,
        read::{Reading, read},
    },
    state::{Rate, Rates},
};

// Every key is optional here, so that one that is missing is a problem among others and not the end of reading.

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct File {
    #[serde(default)]
    ceilings: Vec<Spanned<Written>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct Written {
    name: Option<Spanned<String>>,
    #[serde(default)]
    per: Vec<Per>,
    #[serde(rename = "match")]
    matching: Option<Spanned<WrittenMatching>>,
    rate: Option<Spanned<WrittenRate>>,
    in_flight: Option<Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct WrittenMatching {
    upstream: Option<Spanned<String>>,
    tool: Option<String>,
    method: Option<Spanned<String>>,
    tag: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct WrittenRate {
    count: Option<Spanned<u32>>,
    per: Option<Spanned<String>>,
    burst: Option<Spanned<u32>>,
}

impl Ceilings {
    /// Reads ceilings from text; no text, no ceilings. `rates` outlives them, so that a reload forgets no call.
    ///
    /// # Errors
    /// Everything wrong in the text, at once.
    pub fn parse(source: Option<&Source>, rates: Arc<Rates>) -> Result<Self, Vec<Problem>> {
        let Some(source) = source else { return Ok(Self { ceilings: Vec::new(), rates }) };
        let Reading { file, problems, removed, .. } = read::<File>(source.place(), source.text())?;
        let mut reader = Reader { source, names: BTreeSet::new(), removed, problems };
        let ceilings = file.ceilings.into_iter().filter_map(|written| reader.ceiling(written)).collect();
        reader.problems.sort_by_cached_key(Problem::order);
        if reader.problems.is_empty() { Ok(Self { ceilings, rates }) } else { Err(reader.problems) }
    }
}

/// Reads one file and keeps what is wrong with it.
struct Reader<'a> {
    source: &'a Source,
    names: BTreeSet<String>,
    /// Tables, by their place, and keys in them that are wrong, not missing.
    removed: BTreeSet<(usize, String)>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn ceiling(&mut self, written: Spanned<Written>) -> Option<Ceiling> {
        let whole = written.span();
        let Written { name, per, matching, rate, in_flight } = written.into_inner();
        let before = self.problems.len();
        let unbounded = rate.is_none() && in_flight.is_none();
        if unbounded && !self.removed(&whole, "rate") && !self.removed(&whole, "in_flight") {
            self.wrong(whole.clone(), "a ceiling needs `rate`, `in_flight` or both", RATE);
        }
        if let Some(max) = in_flight.as_ref().filter(|max| *max.get_ref() == 0) {
            self.wrong(max.span(), "no call at all would be let through", "forbid them in a policy instead");
        }
        let name = self.name(&whole, name);
        let rate = rate.and_then(|rate| self.rate(rate));
        let place = matching.as_ref().map(|matching| SourceSpan::from(matching.span()));
        let matching = self.matching(matching.map(Spanned::into_inner).unwrap_or_default());
        let name = name.filter(|_| self.problems.len() == before)?;
        let in_flight = in_flight.map(Spanned::into_inner);
        Some(Ceiling { name: Arc::from(name), per: distinct(per), matching, place, rate, in_flight })
    }

    fn name(&mut self, whole: &Range<usize>, name: Option<Spanned<String>>) -> Option<String> {
        let help = "it stands in refusals and in the audit";
        let Some(name) = name else {
            if !self.removed(whole, "name") {
                self.wrong(whole.clone(), "a ceiling needs a `name`", help);
            }
            return None;
        };
        if name.get_ref().is_empty() || name.get_ref().chars().any(char::is_control) {
            self.wrong(name.span(), "a ceiling needs a name", help);
        } else if !self.names.insert(name.get_ref().clone()) {
            self.wrong(name.span(), "the name is taken by another ceiling", "give each ceiling its own");
        }
        Some(name.into_inner())
    }

    fn matching(&mut self, written: WrittenMatching) -> Matching {
        let WrittenMatching { upstream, tool, method, tag } = written;
        if let Some(method) = method.as_ref().filter(|method| !ACTIONS.contains(&method.get_ref().as_str())) {
            self.wrong(method.span(), "not a method that is counted", &format!("one of {}", ACTIONS.join(", ")));
        }
        if let Some(id) = upstream.as_ref().filter(|id| UpstreamId::parse(id.get_ref()).is_none()) {
            self.wrong(
                id.span(),
                "not the id of an upstream",
                "ids are lower-case letters, digits and `-`, at most 24",
            );
        }
        let (upstream, method) = (upstream.map(Spanned::into_inner), method.map(Spanned::into_inner));
        Matching { upstream, tool, method, tag }
    }

    fn rate(&mut self, written: Spanned<WrittenRate>) -> Option<Rate> {
        let whole = written.span();
        let WrittenRate { count, per, burst } = written.into_inner();
        for (key, missing) in [("count", count.is_none()), ("per", per.is_none()), ("burst", burst.is_none())] {
            if missing && !self.removed(&whole, key) {
                self.wrong(whole.clone(), &format!("a rate needs `{key}`"), RATE);
            }
        }
        for number in [&count, &burst].into_iter().flatten().filter(|number| *number.get_ref() == 0) {
            self.wrong(number.span(), "no call at all would be let through", "at least 1");
        }
        let per = per?;
        let Some(span) = span(per.get_ref()) else {
            self.wrong(per.span(), "not a span of time", "a number and `s`, `m`, `h` or `d`, as in `1m`");
            return None;
        };
        let interval = span.checked_div(count?.into_inner())?.max(Duration::from_nanos(1));
        Some(Rate { interval, burst: burst?.into_inner() })
    }

    fn removed(&self, table: &Range<usize>, key: &str) -> bool {
        self.removed.contains(&(table.start, key.to_owned()))
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

/// How a rate is written.
const RATE: &str = "`rate = { count = 60, per = \"1m\", burst = 10 }`";
