//! What does an authorization server say that it can do?
//!
//! Of its metadata what is made use of, read when they are first needed and kept. Whether they are its own is judged in
//! [`crate::identity`]. It asks for no token.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use url::Url;

use super::{answer::Fault, resource::Resource};
use crate::{
    clock::{self, Timestamp},
    config::dialects::JWT_BEARER,
    egress::Client,
    identity::discovery::{self, Own},
};

/// One server's metadata.
#[derive(Debug)]
pub(super) struct Discovery {
    issuer: String,
    client: Client,
    /// The upstream that takes its tokens, which may say whose those are.
    upstream: Option<Resource>,
    known: ArcSwapOption<Known>,
    /// One asks; who waits, because nothing is known, finds the answer.
    asking: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Known {
    metadata: Arc<Metadata>,
    read_at: Timestamp,
    /// How long they are not read again.
    fresh_for: Duration,
}

#[derive(Debug)]
struct Failure {
    why: String,
    until: Timestamp,
}

/// What is made use of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) issuer: String,
    pub(super) token_endpoint: Url,
    pub(super) authorization_endpoint: Option<Url>,
    pub(super) revocation_endpoint: Option<Url>,
    /// Whether PKCE with S256 is there (RFC 7636 §4.2); nothing where it does not say which methods are.
    pub(super) s256: Option<bool>,
    /// Whether `iss` comes with each authorization response (RFC 9207 §3).
    pub(super) names_issuer: bool,
    /// Whether it redeems identity assertions.
    pub(super) id_jag: bool,
}

impl Discovery {
    pub(super) fn new(issuer: String, client: Client) -> Self {
        Self { issuer, client, upstream: None, known: ArcSwapOption::empty(), asking: Mutex::new(None) }
    }

    /// It is of use only where this upstream takes its tokens.
    pub(super) fn with_tokens_for(self, upstream: Option<Resource>) -> Self {
        Self { upstream, ..self }
    }

    /// The metadata; what was read stays good for a day while nothing newer can be had.
    pub(super) async fn metadata(&self, now: Timestamp) -> Result<Arc<Metadata>, Fault> {
        if let Some(metadata) = self.kept(now, |known| known.fresh_for) {
            return Ok(metadata);
        }
        let mut failure = match self.asking.try_lock() {
            Ok(failure) => failure,
            // Somebody asks already, which may take as long as the server lets it: what is known does meanwhile.
            Err(_asked) => match self.kept(now, |_| STALE_FOR) {
                Some(metadata) => return Ok(metadata),
                None => self.asking.lock().await,
            },
        };
        if let Some(metadata) = self.kept(now, |known| known.fresh_for) {
            return Ok(metadata);
        }
        if let Some(failure) = failure.as_ref().filter(|failure| now < failure.until) {
            return self.kept(now, |_| STALE_FOR).ok_or_else(|| Fault::Unusable(failure.why.clone()));
        }
        let began = clock::instant();
        match self.read().await {
            Ok((metadata, fresh_for)) => {
                let metadata = Arc::new(metadata);
                self.known.store(Some(Arc::new(Known { metadata: Arc::clone(&metadata), read_at: now, fresh_for })));
                *failure = None;
                Ok(metadata)
            }
            Err(why) => {
                // A reading that hangs takes longer than its failure stands: whoever has waited for it does not begin another.
                let after = now.plus(clock::instant().duration_since(began));
                let kept = self.kept(now, |_| STALE_FOR);
                let until = after.plus(if kept.is_some() { UNRENEWED_FOR } else { FAILED_FOR });
                *failure = Some(Failure { why: why.clone(), until });
                kept.ok_or(Fault::Unusable(why))
            }
        }
    }

    async fn read(&self) -> Result<(Metadata, Duration), String> {
        let is_settled = match &self.upstream {
            None => true,
            Some(upstream) => upstream.takes_tokens_of(&self.issuer).await.inspect_err(|_contradiction| {
                // Nor is what was good before: the upstream has gone elsewhere since (SEP-2352).
                self.known.store(None);
            })?,
        };
        let metadata = discovery::metadata(&self.client, &self.issuer, metadata).await?;
        Ok((metadata, if is_settled { FRESH_FOR } else { UNRENEWED_FOR }))
    }

    fn kept(&self, now: Timestamp, within: impl FnOnce(&Known) -> Duration) -> Option<Arc<Metadata>> {
        let known = self.known.load();
        let known = known.as_ref()?;
        (now.since(known.read_at) < within(known)).then(|| Arc::clone(&known.metadata))
    }
}

fn metadata(own: &Own<'_>) -> Result<Metadata, String> {
    // A server of before there were profiles names the type of grant alone.
    let id_jag = own.lists("authorization_grant_profiles_supported", ID_JAG_PROFILE);
    let id_jag = id_jag.or_else(|| own.lists("grant_types_supported", JWT_BEARER));
    Ok(Metadata {
        issuer: own.issuer().to_owned(),
        token_endpoint: own.endpoint("token_endpoint")?.ok_or("no `token_endpoint`")?,
        authorization_endpoint: own.endpoint("authorization_endpoint")?,
        revocation_endpoint: own.endpoint("revocation_endpoint")?,
        s256: own.lists("code_challenge_methods_supported", "S256"),
        names_issuer: own.says("authorization_response_iss_parameter_supported"),
        id_jag: id_jag == Some(true),
    })
}

/// What a server says that redeems identity assertions.
const ID_JAG_PROFILE: &str = "urn:ietf:params:oauth:grant-profile:id-jag";

/// How long metadata are not read again.
const FRESH_FOR: Duration = Duration::from_secs(3_600);

/// How long they are better than none.
const STALE_FOR: Duration = Duration::from_secs(86_400);

/// How long a server is not asked again that could not be read.
const FAILED_FOR: Duration = Duration::from_secs(2);

/// The same where older metadata do, and for what the upstream did not say yet: the calls of that minute do not wait for it.
const UNRENEWED_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::{Own, metadata};

    #[test]
    fn what_a_server_can_do_is_what_it_says() {
        let read = |more: &str| {
            let document = format!(r#"{{"issuer":"https://as.example"{more}}}"#);
            Own::of("https://as.example", document.as_bytes()).and_then(|own| metadata(&own))
        };
        let whole = read(
            r#","token_endpoint":"https://as.example/token","authorization_endpoint":"https://as.example/auth",
            "code_challenge_methods_supported":["plain","S256"],"authorization_response_iss_parameter_supported":true,
            "authorization_grant_profiles_supported":["urn:ietf:params:oauth:grant-profile:id-jag"]"#,
        )
        .unwrap();
        assert!(whole.s256 == Some(true) && whole.names_issuer && whole.id_jag && whole.revocation_endpoint.is_none());
        let bare = read(r#","token_endpoint":"https://as.example/token""#).unwrap();
        assert!(bare.s256.is_none() && !bare.names_issuer && !bare.id_jag && bare.authorization_endpoint.is_none());
        let grant = r#""grant_types_supported":["urn:ietf:params:oauth:grant-type:jwt-bearer"]"#;
        for (profiles, id_jag) in [("", true), (r#","authorization_grant_profiles_supported":["other"]"#, false)] {
            let more = format!(r#","token_endpoint":"https://as.example/token",{grant}{profiles}"#);
            assert_eq!(read(&more).unwrap().id_jag, id_jag, "{more}");
        }
        for methods in [r#"["plain"]"#, "[]", r#""S256""#] {
            let more =
                format!(r#","token_endpoint":"https://as.example/token","code_challenge_methods_supported":{methods}"#);
            assert_eq!(read(&more).unwrap().s256, Some(false), "{methods}");
        }
        for more in [
            "",
            r#","token_endpoint":"http://as.example/token""#,
            r#","token_endpoint":"https://as.example/token","authorization_endpoint":"http://127.0.0.1/auth""#,
            r#","issuer":"https://as.example","token_endpoint":"https://as.example/token""#,
        ] {
            assert!(read(more).is_err(), "{more}");
        }
    }
}
