//! How does a person get a token?
//!
//! Authorization code with PKCE (RFC 7636) at a real provider that logs in whoever `login_hint` names: what a browser
//! does, without one. It knows the clients and the users of `tests/peers/node/issuer.mjs`.

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};
use rustls::ClientConfig;
use serde_json::Value;
use url::Url;

use super::{
    http::{Answer, fetch, fetch_tls, form},
    leaks,
};

const CALLBACK: &str = "http://127.0.0.1:3000/callback";
const REDIRECTS_MAX: usize = 8;

/// Logs `user` in at `issuer` for `resource`, and gives the access token.
pub(crate) fn login(issuer: &str, user: &str, resource: &str, scope: &str) -> String {
    login_showing(issuer, user, (resource, scope), &[])
}

/// The same, with these headers where the code becomes a token: what that is then bound to.
pub(crate) fn login_showing(
    issuer: &str,
    user: &str,
    (resource, scope): (&str, &str),
    headers: &[(&str, &str)],
) -> String {
    let verifier = BASE64URL.encode([7; 32]);
    let challenge = BASE64URL.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
    let query = form(&[
        ("response_type", "code"),
        ("client_id", "webapp"),
        ("redirect_uri", CALLBACK),
        ("scope", scope),
        ("state", "s"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("login_hint", user),
        ("resource", resource),
    ]);
    let back = follow(&format!("{issuer}/auth?{query}"), CALLBACK);
    let code = back.query_pairs().find(|(name, _)| name == "code");
    let code = code.unwrap_or_else(|| panic!("no code: {back}")).1.into_owned();
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("code_verifier", &verifier),
        ("redirect_uri", CALLBACK),
    ];
    token_showing(issuer, "webapp", ("webapp-secret", headers), &fields)["access_token"].as_str().unwrap().to_owned()
}

/// Asks the token endpoint, as this client.
pub(crate) fn token(issuer: &str, client: &str, secret: &str, fields: &[(&str, &str)]) -> Value {
    token_showing(issuer, client, (secret, &[]), fields)
}

/// The same, with these further headers.
pub(crate) fn token_showing(
    issuer: &str,
    client: &str,
    (secret, headers): (&str, &[(&str, &str)]),
    fields: &[(&str, &str)],
) -> Value {
    let answer = ask_showing(issuer, client, (secret, headers), fields);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let given = answer.json();
    leaks::remember(given["access_token"].as_str().unwrap_or_default());
    given
}

/// The same, whatever comes back.
pub(crate) fn ask(issuer: &str, client: &str, secret: &str, fields: &[(&str, &str)]) -> Answer {
    ask_showing(issuer, client, (secret, &[]), fields)
}

fn ask_showing(issuer: &str, client: &str, credentials: (&str, &[(&str, &str)]), fields: &[(&str, &str)]) -> Answer {
    post_showing(&format!("{issuer}/token"), client, credentials, fields)
}

/// Asks any endpoint of a provider, as this client.
pub(crate) fn post(url: &str, client: &str, secret: &str, fields: &[(&str, &str)]) -> Answer {
    post_showing(url, client, (secret, &[]), fields)
}

fn post_showing(
    url: &str,
    client: &str,
    (secret, headers): (&str, &[(&str, &str)]),
    fields: &[(&str, &str)],
) -> Answer {
    let basic = format!("Basic {}", BASE64.encode(format!("{client}:{secret}")));
    let mut all = vec![("Authorization", basic.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
    all.extend(headers);
    fetch("POST", url, &all, form(fields).as_bytes())
}

/// Follows redirects with cookies, as far as `callback`.
pub(crate) fn follow(start: &str, callback: &str) -> Url {
    match Browser::default().go(start, callback) {
        Landing::Back(url) => url,
        Landing::Page { answer, .. } => panic!("no redirect: {} {}", answer.status(), answer.text()),
    }
}

/// What a person looks through: cookies by origin, redirects, and the two buttons of the gateway's page.
#[derive(Debug, Default, Clone)]
pub(crate) struct Browser {
    cookies: Vec<(String, String, String)>,
    tls: Option<Arc<ClientConfig>>,
}

/// Where a browser ends up.
#[derive(Debug)]
pub(crate) enum Landing {
    /// At the client.
    Back(Url),
    /// At a page.
    Page { answer: Answer, at: Url },
}

impl Browser {
    /// One that opens pages by TLS, too.
    pub(crate) fn with_tls(tls: &Arc<ClientConfig>) -> Self {
        Self { tls: Some(Arc::clone(tls)), ..Self::default() }
    }

    /// Opens a page, and follows redirects as far as `callback`, which is not opened.
    pub(crate) fn go(&mut self, start: &str, callback: &str) -> Landing {
        let at = Url::parse(start).unwrap();
        let answer = self.ask("GET", &at, &[], b"");
        self.onward(at, answer, callback)
    }

    /// Presses a button of the gateway's page.
    pub(crate) fn press(&mut self, page: &Landing, decision: &str, callback: &str) -> Landing {
        let Landing::Page { answer, at } = page else { panic!("no page: {page:?}") };
        let to = at.join("/authorize").unwrap();
        let body = form(&[("ticket", &ticket(answer)), ("decision", decision)]);
        let origin = at.origin().ascii_serialization();
        let headers = [("Origin", origin.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
        let answer = self.ask("POST", &to, &headers, body.as_bytes());
        self.onward(to, answer, callback)
    }

    /// Opens a page, agrees where that is asked, and gives what the client gets.
    pub(crate) fn agree(&mut self, start: &str, callback: &str) -> Url {
        let mut landing = self.go(start, callback);
        if let Landing::Page { .. } = landing {
            landing = self.press(&landing, "allow", callback);
        }
        match landing {
            Landing::Back(url) => url,
            Landing::Page { answer, at } => panic!("{at}: {} {}", answer.status(), answer.text()),
        }
    }

    /// The cookies of an origin, as a request has them.
    pub(crate) fn cookies(&self, of: &Url) -> String {
        let origin = of.origin().ascii_serialization();
        let own = self.cookies.iter().filter(|(known, ..)| *known == origin);
        own.map(|(_, name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn onward(&mut self, mut at: Url, mut answer: Answer, callback: &str) -> Landing {
        for _ in 0..REDIRECTS_MAX {
            let Some(to) = answer.header("location") else { return Landing::Page { answer, at } };
            at = at.join(to).unwrap();
            if at.as_str().starts_with(callback) {
                return Landing::Back(at);
            }
            answer = self.ask("GET", &at, &[], b"");
        }
        panic!("too many redirects: {at}");
    }

    fn ask(&mut self, method: &str, at: &Url, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let cookies = self.cookies(at);
        let mut all = vec![("Cookie", cookies.as_str())];
        all.retain(|(_, value)| !value.is_empty());
        all.extend(headers);
        let answer = match &self.tls {
            Some(tls) if at.scheme() == "https" => fetch_tls(tls, method, at.as_str(), &all, body),
            _ => fetch(method, at.as_str(), &all, body),
        };
        let origin = at.origin().ascii_serialization();
        let given = answer.head.headers().iter().filter(|(name, _)| name == "set-cookie");
        for (name, value) in given.filter_map(|(_, text)| text.split(';').next()?.split_once('=')) {
            self.cookies.retain(|(known, named, _)| *known != origin || named != name);
            leaks::remember_own(value);
            self.cookies.push((origin.clone(), name.to_owned(), value.to_owned()));
        }
        answer
    }
}

/// The ticket in the gateway's page.
pub(crate) fn ticket(page: &Answer) -> String {
    let text = page.text();
    let rest = text.split("name=\"ticket\" value=\"").nth(1).unwrap_or_else(|| panic!("no ticket: {text}"));
    rest.split('"').next().unwrap().to_owned()
}
