//! What is wrong with `[upstreams.*]` and the rules for their tools, prompts and resources?
//!
//! It does not look at how an upstream is reached and how credentials are obtained; those have checks of their own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use toml::Spanned;

use super::{Checker, Place, door::durability, values::DAY_MS};
use crate::{
    config::{
        checked::{Grant, Input, TargetRule, Transport, Upstream, UpstreamId},
        written,
    },
    refusal::Era,
};

impl Checker<'_> {
    pub(super) fn upstreams(
        &mut self,
        written: &BTreeMap<Spanned<String>, Spanned<written::Upstream>>,
    ) -> BTreeMap<UpstreamId, Arc<Upstream>> {
        if written.is_empty() && !self.removed.contains(&(0, "upstreams".to_owned())) {
            let help = "add `[upstreams.crm]` with `url` and `grant`: there is nothing to be a gateway to";
            self.problem("no upstream", 0..0, "nothing behind the door", help);
        }
        let mut upstreams = BTreeMap::new();
        for (name, table) in written {
            let id = UpstreamId::parse(name.get_ref());
            if id.is_none() {
                let message = format!("`{}` is not an upstream id", name.get_ref().escape_debug());
                let help = "use 1 to 24 of `a-z`, `0-9` and `-`: it stands before the names of its tools";
                self.problem(message, name.span(), "this id", help);
            }
            let upstream = self.upstream(name.get_ref(), id.as_ref(), table);
            if let (Some(id), Some(upstream)) = (id, upstream) {
                upstreams.insert(id, Arc::new(upstream));
            }
        }
        upstreams
    }

    fn upstream(
        &mut self,
        name: &str,
        id: Option<&UpstreamId>,
        table: &Spanned<written::Upstream>,
    ) -> Option<Upstream> {
        let written = table.get_ref();
        let place = Place { name: format!("`[upstreams.{name}]`"), span: table.span() };
        let transport = self.transport(written, &place);
        let is_program = written.command.is_some() || self.removed.contains(&(place.span.start, "command".to_owned()));
        let grant = match &written.grant {
            None if is_program => Some(Grant::Nothing),
            grant => self
                .required(grant, &place, "grant", "grant = { strategy = \"exchange\", … }")
                .and_then(|grant| self.grant(grant, "grant")),
        };
        let discovery = match &written.discovery {
            Some(discovery) => self.discovery(discovery).map(Some),
            None => Some(None),
        };
        let era = match written.era.as_ref().map(Spanned::get_ref) {
            None | Some(written::Era::Auto) => None,
            Some(written::Era::Modern) => Some(Era::Modern),
            Some(written::Era::Legacy) => Some(Era::Legacy),
        };
        let timeout = self.deadline(&written.timeout_ms, 30_000);
        let refresh = self.seconds(&written.refresh_s, &(1..=86_400), 300);
        let input = self.input(written.input.as_deref());
        let trust_public_cache = written.trust_public_cache.as_ref().is_some_and(|key| *key.get_ref());
        let around = Around { grant: grant.as_ref(), trust_public_cache };
        let mut rules =
            |written: &Option<Vec<_>>, names| self.rules(written.as_deref().unwrap_or_default(), &around, names);
        let tools = rules(&written.tools, &TOOLS);
        let prompts = rules(&written.prompts, &PROMPTS);
        let resources = rules(&written.resources, &RESOURCES);
        self.fits_transport(written, transport.as_ref(), grant.as_ref());
        Some(Upstream {
            id: id?.clone(),
            // HTTP+SSE is a transport of the legacy era alone, so there is nothing to find out.
            era: if matches!(transport, Some(Transport::Sse(_))) { Some(Era::Legacy) } else { era },
            transport: transport?,
            timeout,
            grant: grant?,
            discovery: discovery?,
            refresh,
            input,
            instructions: written.instructions.as_ref().is_some_and(|key| *key.get_ref()),
            cache_reads: written.cache_reads.as_ref().is_none_or(|key| *key.get_ref()),
            trust_public_cache,
            tools,
            prompts,
            resources,
        })
    }

    /// What an upstream may ask of clients; everything where nothing is written.
    fn input(&mut self, written: Option<&[Spanned<String>]>) -> Input {
        if written.is_none() {
            return Input::default();
        }
        let is_feature = |word: &str| matches!(word, "elicitation" | "sampling" | "roots");
        let grammar = "`elicitation`, `sampling` or `roots`; an empty list for nothing";
        let words = self.words(written, "something that an upstream may ask of clients", is_feature, grammar);
        let named = |feature: &str| words.iter().any(|word| word == feature);
        Input { elicitation: named("elicitation"), sampling: named("sampling"), roots: named("roots") }
    }

    /// The catalogue is read in nobody's name, so there is no token to exchange.
    fn discovery(&mut self, written: &Spanned<written::Grant>) -> Option<Grant> {
        let grant = self.grant(written, "discovery")?;
        match grant {
            Grant::Exchange(_) | Grant::IdJag(_) | Grant::UserGrant(_) => {
                let span = written.get_ref().strategy.as_ref().map_or_else(|| written.span(), Spanned::span);
                let help =
                    "use `client_credentials`, `static_secret` or `none`: the catalogue is read without a caller";
                self.problem("`discovery` cannot exchange a caller's token", span, "there is no caller", help);
                None
            }
            Grant::ClientCredentials(_) | Grant::StaticSecret { .. } | Grant::Nothing => Some(grant),
        }
    }

    fn rules(
        &mut self,
        written: &[Spanned<written::TargetRule>],
        around: &Around<'_>,
        names: &Names,
    ) -> Vec<TargetRule> {
        let mut rules = Vec::new();
        let mut seen: Vec<&Spanned<String>> = Vec::new();
        for table in written {
            if let Some(pattern) = &table.get_ref().r#match {
                if let Some(first) = seen.iter().find(|first| first.get_ref() == pattern.get_ref()) {
                    let problem = self
                        .source
                        .problem(format!("two rules match `{}`", pattern.get_ref().escape_debug()))
                        .at(first.span(), "first here")
                        .at(pattern.span(), "again here")
                        .help("merge them: it would depend on their order which one wins");
                    self.problems.push(problem);
                }
                seen.push(pattern);
            }
            rules.extend(self.rule(table, around, names));
        }
        rules
    }

    fn rule(&mut self, table: &Spanned<written::TargetRule>, around: &Around<'_>, names: &Names) -> Option<TargetRule> {
        let written = table.get_ref();
        let place = Place { name: names.place.to_owned(), span: table.span() };
        let pattern = self
            .required(&written.r#match, &place, "match", names.example)
            .and_then(|pattern| self.word(pattern, "a pattern", names.fits, names.form));
        let mints = self.scopes(written.mints.as_ref().map(|mints| mints.get_ref().as_slice()));
        if let (Some(at), Some(Grant::StaticSecret { .. } | Grant::Nothing)) = (&written.mints, around.grant) {
            let help = "use strategy `exchange` or `client_credentials`, or remove `mints`";
            self.problem("`mints` asks for scopes where none are minted", at.span(), "of no effect", help);
        }
        let requires = self.scopes(written.requires.as_deref());
        let acr =
            self.words(written.acr.as_deref(), "an `acr`", is_acr, "1 to 256 visible characters but `\"` and `\\`");
        let auth_age_max =
            written.auth_age_max_s.is_some().then(|| self.seconds(&written.auth_age_max_s, &(1..=31_536_000), 900));
        let tags = self.words(written.tags.as_deref(), "a tag", is_tag, "1 to 64 of `a-z`, `0-9`, `-` and `_`");
        let timeout = written.timeout_ms.is_some().then(|| self.millis(&written.timeout_ms, &(1..=DAY_MS), 30_000));
        let cache = self.kept(written, around, names);
        Some(TargetRule {
            pattern: pattern?,
            requires,
            acr,
            auth_age_max,
            mints,
            tags,
            timeout,
            idempotent: written.idempotent.as_ref().map(|key| *key.get_ref()),
            durability: written.durability.as_ref().map(|key| durability(*key.get_ref())),
            cache,
            cache_shared: written.cache.as_ref().map(|key| *key.get_ref() == written::Sharing::Shared),
        })
    }

    /// What keeps no promise is told: a result that is never kept, or never shared.
    fn kept(&mut self, written: &written::TargetRule, around: &Around<'_>, names: &Names) -> Option<Duration> {
        let at = written.cache_s.as_ref().map(Spanned::span).or(written.cache.as_ref().map(Spanned::span))?;
        if !names.cached {
            let help = "remove it; what is read is kept for as long as the upstream says, see `cache_reads`";
            self.problem("only results of tools are kept by a rule", at.clone(), "of no effect", help);
        }
        if let (Some(cache), Some(written::Sharing::Shared), false) =
            (&written.cache, written.cache.as_ref().map(Spanned::get_ref), around.trust_public_cache)
        {
            let help = "add `trust_public_cache = true` to the upstream, or write `cache = \"private\"`";
            self.problem("`cache` shares results of an upstream that is not trusted so", cache.span(), "shared", help);
        }
        let names_any = |list: &written::List| list.as_ref().is_some_and(|words| !words.is_empty());
        let steps_up = names_any(&written.requires) || names_any(&written.acr) || written.auth_age_max_s.is_some();
        if steps_up && written.cache_s.as_ref().is_some_and(|cache| *cache.get_ref() > 0) {
            let help = "remove `cache_s`, or give what callers need to a rule of its own";
            self.problem("what callers may have to step up for is not kept (RI-06)", at, "of no effect", help);
        }
        written.cache_s.is_some().then(|| self.seconds(&written.cache_s, &(0..=86_400), 0))
    }
}

/// What a rule has to fit.
struct Around<'a> {
    grant: Option<&'a Grant>,
    trust_public_cache: bool,
}

/// How the rules of one kind name what they are for.
struct Names {
    place: &'static str,
    example: &'static str,
    form: &'static str,
    fits: fn(&str) -> bool,
    /// Whether results are kept by rule.
    cached: bool,
}

const TOOLS: Names = Names {
    place: "this tool rule",
    example: "match = \"create_*\"",
    form: "a tool's name, 1 to 128 characters, `*` for any run of them",
    fits: is_pattern,
    cached: true,
};

const PROMPTS: Names = Names {
    place: "this prompt rule",
    example: "match = \"summarise_*\"",
    form: "a prompt's name, 1 to 128 characters, `*` for any run of them",
    fits: is_pattern,
    cached: false,
};

const RESOURCES: Names = Names {
    place: "this resource rule",
    example: "match = \"file:///public/*\"",
    form: "a resource's URI, 1 to 2,048 characters, `*` for any run of them",
    fits: is_uri_pattern,
    cached: false,
};

/// MCP allows any text as a tool's name and recommends `[A-Za-z0-9_./-]`, 128 at most; blanks and control characters
/// are refused here because nobody would see them.
fn is_pattern(text: &str) -> bool {
    (1..=128).contains(&text.chars().count()) && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn is_uri_pattern(text: &str) -> bool {
    (1..=2_048).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// What fits into a list of `acr_values` (OIDC Core §3.1.2.1) and a quoted string (RFC 9110 §5.6.4).
fn is_acr(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
}

fn is_tag(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}
