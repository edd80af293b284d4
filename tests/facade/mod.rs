//! Is the gateway a good authorization server, and is it one only where it shall be?
//!
//! Over sockets, before an identity provider inside the test: what clients get, what people see, and what attackers do
//! not get. The published clients and a real provider are in `clients/facade.rs`.

mod assertions;
mod attacks;
mod bound;
mod documents;
mod faults;
mod flows;
mod machines;
mod races;
mod registry;
mod renewal;
mod returned;
mod revoked;
mod signed;

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use crate::harness::{
    gateway::{Gateway, Setup},
    http::{Answer, fetch, form},
    issuer::Issuer,
    leaks,
    login::{Browser, Landing},
    place,
    recorder::{Era, Recorder},
};

/// Where the test's client waits for its code.
const CALLBACK: &str = "http://127.0.0.1:3999/callback";
/// 43 characters, as RFC 7636 wants them at least.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// A gateway that is an authorization server before `provider`, with the upstream `up`.
struct Ground {
    provider: Issuer,
    /// Vouches for people by ID-JAGs.
    partner: Issuer,
    upstream: Recorder,
    gateway: Gateway,
}

impl Ground {
    fn new(name: &str) -> Self {
        Self::with(name, Issuer::good(), "")
    }

    /// With further lines of `[facade]`.
    fn with(name: &str, provider: Issuer, lines: &str) -> Self {
        let (partner, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
        let gateway = setup(name, &provider, &partner, &upstream, lines).start();
        Self { provider, partner, upstream, gateway }
    }

    fn origin(&self) -> String {
        self.gateway.setup().origin()
    }

    fn resource(&self) -> String {
        self.gateway.endpoint(Some("up"))
    }

    /// Registers a client with this redirect URI, and gives its id.
    fn registered(&self, redirect_uri: &str) -> String {
        let description = json!({
            "client_name": "Test client", "redirect_uris": [redirect_uri], "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none",
        });
        let answer = self.register(&description);
        assert_eq!(answer.status(), 201, "{}", answer.text());
        answer.json()["client_id"].as_str().unwrap().to_owned()
    }

    fn register(&self, description: &Value) -> Answer {
        let headers = [("Content-Type", "application/json")];
        fetch("POST", &format!("{}/register", self.origin()), &headers, description.to_string().as_bytes())
    }

    /// The address of the authorization endpoint for this client, with some parameters changed: an empty one is left out.
    fn page(&self, client: &str, redirect_uri: &str, changes: &[(&str, &str)]) -> String {
        let challenge = BASE64URL.encode(digest::digest(&digest::SHA256, VERIFIER.as_bytes()));
        let resource = self.resource();
        let usual = [
            ("response_type", "code"),
            ("client_id", client),
            ("redirect_uri", redirect_uri),
            ("scope", "tools:read"),
            ("state", "client-state"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &resource),
        ];
        let mut all: Vec<(&str, &str)> =
            usual.into_iter().filter(|(name, _)| !changes.iter().any(|(changed, _)| changed == name)).collect();
        all.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
        format!("{}/authorize?{}", self.origin(), form(&all))
    }

    /// Logs in as this person, agrees, and gives the code.
    fn code(&self, client: &str, user: &str) -> String {
        let page = self.page(client, CALLBACK, &[("login_hint", user)]);
        let back = Browser::default().agree(&page, CALLBACK);
        parameter(&back, "code").unwrap_or_else(|| panic!("no code: {back}"))
    }

    fn token(&self, fields: &[(&str, &str)]) -> Answer {
        self.token_as(None, fields)
    }

    fn token_as(&self, basic: Option<&str>, fields: &[(&str, &str)]) -> Answer {
        let headers: Vec<(&str, &str)> = basic.map(|basic| ("Authorization", basic)).into_iter().collect();
        self.post("/token", &headers, fields)
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("Content-Type", "application/x-www-form-urlencoded")];
        all.extend(headers);
        let own = ["code", "code_verifier", "refresh_token", "client_secret", "client_assertion", "assertion", "token"];
        fields.iter().filter(|(name, _)| own.contains(name)).for_each(|(_, value)| leaks::remember_own(value));
        let shown = headers.iter().filter(|(name, _)| *name == "Authorization" || *name == "DPoP");
        shown.flat_map(|(_, value)| value.split(' ')).for_each(leaks::remember_own);
        let answer = fetch("POST", &format!("{}{path}", self.origin()), &all, form(fields).as_bytes());
        if answer.status() == 200 && path == "/token" {
            let given = answer.json();
            leaks::remember(given["access_token"].as_str().unwrap_or_default());
            leaks::remember_own(given["refresh_token"].as_str().unwrap_or_default());
        }
        answer
    }

    fn redeem(&self, client: &str, code: &str) -> Answer {
        let fields = [
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", CALLBACK),
        ];
        self.token(&fields)
    }

    fn refresh(&self, client: &str, token: &str) -> Answer {
        self.token(&[("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)])
    }

    /// Registers, logs in, redeems: what the token endpoint says.
    fn logged_in(&self, user: &str) -> (String, Value) {
        let client = self.registered(CALLBACK);
        let answer = self.redeem(&client, &self.code(&client, user));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        (client, answer.json())
    }

    /// What the upstream behind the gateway answers to a call with this token.
    #[track_caller]
    fn serves(&self, token: &str) {
        let client = self.gateway.client(Some("up")).token(token).awaiting("echo");
        let answer = client.call("echo", &json!({ "message": "hello" }));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert!(!self.upstream.seen_method("tools/call").is_empty());
    }

    /// Waits until the journal says that this was refused.
    #[track_caller]
    fn recorded_refusal(&self, code: &str) {
        place::wait_for(&format!("a record of `{code}`"), place::DISK_PATIENCE, || {
            let named = |record: &Value| {
                let sources = record["refusals"]["sources"].as_array().cloned().unwrap_or_default();
                record["refused"]["code"] == code || sources.iter().any(|source| source["code"] == code)
            };
            self.gateway.journal().iter().any(named).then_some(())
        });
    }
}

fn setup(name: &str, provider: &Issuer, partner: &Issuer, upstream: &Recorder, lines: &str) -> Setup {
    let (issuer, vouches) = (provider.url(), partner.url());
    let rule = "grant = { strategy = \"none\" }\n[[upstreams.up.tools]]\nmatch = \"echo\"\nrequires = [\"tools:read\"]";
    let facade = format!(
        "[facade]\nprovider = \"{issuer}\"\nclient = {{ id = \"facade\", secret = {{ env = \"FACADE_SECRET\" }} }}\n\
         assertion_issuers = [\"{vouches}\"]\n{lines}\n\
         [[facade.clients]]\nid = \"robot\"\nsecret = {{ env = \"ROBOT_SECRET\" }}\nscopes = [\"tools:read\"]\ntenant = \"acme\""
    );
    Setup::usual(name, provider)
        .issuer(&vouches)
        .environment("FACADE_SECRET", "facade-secret")
        .environment("ROBOT_SECRET", "robot secret: with odd/characters")
        .upstream("up", &upstream.url(), rule)
        .section(&facade)
}

fn parameter(url: &url::Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

/// The stable code of a refusal, in JSON or on a page.
fn code_of(answer: &Answer) -> String {
    if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        let text = answer.text();
        let code = text.rsplit("<code>").next().and_then(|rest| rest.split("</code>").next());
        return code.unwrap_or_default().to_owned();
    }
    answer.json()["error_code"].as_str().unwrap_or_default().to_owned()
}

/// The page that a browser landed on.
#[track_caller]
fn page_of(landing: &Landing) -> &Answer {
    match landing {
        Landing::Page { answer, .. } => answer,
        Landing::Back(url) => panic!("no page: {url}"),
    }
}

/// The redirect that a browser was sent back with.
#[track_caller]
fn back_of(landing: &Landing) -> &url::Url {
    match landing {
        Landing::Back(url) => url,
        Landing::Page { answer, at } => panic!("{at}: {} {}", answer.status(), answer.text()),
    }
}
