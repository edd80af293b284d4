//! What is wrong with the ways in besides a signed token: introspection, API keys, and the strictness of a profile?
//!
//! It contacts no issuer: whether one answers is not a question of configuration.

use toml::Spanned;

use super::{Checker, Place, client::Proofs};
use crate::config::{
    checked::{Introspection, Keys, Profile, State},
    written::{self, Key},
};

impl Checker<'_> {
    pub(super) fn introspection(
        &mut self,
        table: &Spanned<written::Introspection>,
        issuer: &written::Issuer,
    ) -> Option<Introspection> {
        let written = table.get_ref();
        let place = Place { name: "`introspection`".to_owned(), span: table.span() };
        let example = "endpoint = \"https://login.example.com/introspect\"";
        let endpoint = self
            .required(&written.endpoint, &place, "endpoint", example)
            .and_then(|url| self.safe_url(url, "`endpoint`"));
        let example = "client = { id = \"tollgate\", secret = { env = \"TOLLGATE_CLIENT_SECRET\" } }";
        let client = self.required(&written.client, &place, "client", example).and_then(|client| {
            let audience = issuer.issuer.as_ref().map(|issuer| issuer.get_ref().as_str());
            self.client(client, audience, Proofs::Confidential)
        });
        let is_kind = |word: &str| matches!(word, OPAQUE | JWT);
        let tokens = self.words(written.tokens.as_deref(), "a kind of token", is_kind, "`opaque` or `jwt`");
        let asks = |kind: &str| tokens.iter().any(|word| word == kind);
        if written.tokens.as_ref().is_some_and(Vec::is_empty) {
            let help = "write `tokens = [\"opaque\"]`, `[\"jwt\"]` or both, or remove `introspection`";
            self.problem("`tokens` is empty", table.span(), "nothing would be asked", help);
        }
        let opaque = asks(OPAQUE) || written.tokens.is_none();
        if issuer.algorithms.is_none() && (asks(JWT) || !opaque) {
            let help = "add `algorithms = [\"ES256\"]`: a JWT is asked about once its signature is proved";
            self.problem("JWTs are asked about and none can be read", table.span(), "needs `algorithms`", help);
        }
        // Revocation is seen within this time, so it is short (security: thirty seconds at most).
        let cache = self.seconds(&written.cache_s, &(0..=30), 30);
        let unknown_per_s = self.number(&written.unknown_per_s, &(1..=1_000), 20);
        Some(Introspection {
            endpoint: endpoint?,
            client: client?,
            opaque,
            jwt: asks(JWT),
            machines: written.machines.as_ref().is_some_and(|machines| *machines.get_ref()),
            cache,
            unknown_per_s: u32::try_from(unknown_per_s).unwrap_or(u32::MAX),
        })
    }

    /// An opaque token does not say who made it: shown to the wrong issuer, it is given away.
    pub(super) fn opaque_tokens_of_one(&mut self, issuers: &[Spanned<written::Issuer>]) {
        let takes_opaque = |written: &written::Introspection| match &written.tokens {
            None => true,
            Some(tokens) => tokens.iter().any(|kind| kind.get_ref() == OPAQUE),
        };
        let mut takers = issuers
            .iter()
            .filter_map(|issuer| issuer.get_ref().introspection.as_ref())
            .filter(|table| takes_opaque(table.get_ref()));
        let (Some(first), Some(second)) = (takers.next(), takers.next()) else { return };
        let problem = self
            .source
            .problem("two issuers would be asked about opaque tokens")
            .at(first.span(), "first here")
            .at(second.span(), "again here")
            .help("write `tokens = [\"jwt\"]` in one of them: an opaque token does not say whose it is");
        self.problems.push(problem);
    }

    pub(super) fn profile(&mut self, issuer: &written::Issuer) -> Profile {
        let Some(profile) = &issuer.profile else { return Profile::default() };
        match profile.get_ref() {
            written::Profile::Common => Profile::Common,
            written::Profile::Rfc9068 => {
                let plain = issuer.types.iter().flatten().find(|kind| kind.get_ref() != "at+jwt");
                if let Some(plain) = plain {
                    let help = "remove it, or write `profile = \"common\"`: RFC 9068 §4 takes `at+jwt` alone";
                    self.problem("this `typ` is none of profile `rfc9068`", plain.span(), "contradicts it", help);
                }
                Profile::Rfc9068
            }
        }
    }

    /// API keys are kept where they are after the next start, or they are none.
    pub(super) fn keys(&mut self, written: &Key<written::Keys>, state: &State) -> Keys {
        let enabled = written.as_ref().and_then(|keys| keys.get_ref().enabled.as_ref());
        let Some(enabled) = enabled.filter(|enabled| *enabled.get_ref()) else { return Keys::default() };
        if state.directory.is_none() {
            let help = "add `[state]` with `directory = \"/var/lib/tollgate/state\"`";
            self.problem("API keys need a `state.directory` to be kept in", enabled.span(), "kept nowhere", help);
        }
        Keys { enabled: true }
    }
}

const OPAQUE: &str = "opaque";

const JWT: &str = "jwt";
