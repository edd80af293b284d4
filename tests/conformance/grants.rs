//! Does the gateway come by credentials for its upstreams as the official suite wants it of clients?
//!
//! The suite plays an upstream and its authorization server. The test is the administrator, who looks up what stands in
//! `upstreams.toml` and registers the gateway, and the person with the browser; whatever of the suite's checks that passes
//! does not count. The page says which scenarios are not the gateway's to play, and why.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use url::Url;

use super::client::{CLIENT, Scenario};
use crate::harness::{
    browser::{Browser, Page},
    gateway::{Gateway, Setup},
    http,
    issuer::{Issuer, claims_of},
    page::Table,
    peer::Suite,
    recorder::Reply,
};

/// How the gateway comes by a credential, by scenario.
const GRANTS: Table = Table {
    page: "tests/README.md",
    name: "conformance of grants",
    rows: &[
        "auth/client-credentials-basic",
        "auth/client-credentials-jwt",
        "auth/wif-jwt-bearer",
        "auth/enterprise-managed-authorization",
        "auth/metadata-default",
        "auth/metadata-var1",
        "auth/metadata-var2",
        "auth/metadata-var3",
        "auth/2025-03-26-oauth-metadata-backcompat",
        "auth/metadata-issuer-mismatch",
        "auth/resource-mismatch",
        "auth/basic-cimd",
        "auth/pre-registration",
        "auth/token-endpoint-auth-basic",
        "auth/token-endpoint-auth-post",
        "auth/token-endpoint-auth-none",
        "auth/scope-omitted-when-undefined",
        "auth/offline-access-scope",
        "auth/offline-access-not-supported",
        "auth/iss-supported",
        "auth/iss-not-advertised",
        "auth/iss-supported-missing",
        "auth/iss-wrong-issuer",
        "auth/iss-unexpected",
        "auth/iss-normalized",
        "auth/dpop",
        "auth/dpop-nonce",
    ],
};

/// What is not the gateway's part, by scenario.
const LEFT_OUT: Table = Table {
    page: "tests/README.md",
    name: "conformance left out",
    rows: &[
        "auth/scope-from-www-authenticate",
        "auth/scope-from-scopes-supported",
        "auth/scope-step-up",
        "auth/scope-retry-limit",
        "auth/authorization-server-migration",
        "auth/2025-03-26-oauth-endpoint-fallback",
        "elicitation-sep1034-client-defaults",
        "sep-2640-client-no-prefetch",
        "sep-2640-client-verify-digest",
        "sep-2640-client-verify-size",
        "sep-2640-client-verify-frontmatter",
    ],
};

/// Why each of them is not, in their order.
const REASONS: [&str; 11] = [
    "the administrator says which scopes are asked for, tool by tool",
    "the same",
    "its server shows its tools only to persons who are logged in; the gateway reads a catalogue in nobody's name",
    "the same",
    "at another server it is the administrator who registers the gateway; until then it asks for nothing",
    "a server without metadata is asked for nothing: its endpoints are not guessed",
    "how a person's client fills a form in",
    "the extension, skills, is spoken nowhere here",
    "the same",
    "the same",
    "the same",
];

/// With what the catalogue is read where persons alone get credentials: servers of the suite take whatever begins so.
const CATALOGUE: &str = "test-token of the administrator";
const BY_ADMINISTRATOR: &str =
    "strategy = \"static_secret\", prefix = \"Bearer \", value = { env = \"CATALOGUE_TOKEN\" }";

/// What a test does in an administrator's stead before the gateway starts, and which checks of the suite passed by it.
struct Administrator {
    resource: String,
    issuer: String,
    scopes: Vec<String>,
    did: Vec<&'static str>,
}

impl Administrator {
    /// Looks up the upstream's metadata (RFC 9728 §5): where its challenge says, before its path, and at the root.
    fn looks_up(scenario: &Scenario) -> Self {
        let at = Url::parse(&scenario.url).unwrap();
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
        let headers = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
        let challenge = http::fetch("POST", &scenario.url, &headers, body.as_bytes());
        let challenge = challenge.header("www-authenticate").unwrap_or_default().to_owned();
        let said = challenge.split("resource_metadata=\"").nth(1).and_then(|rest| rest.split('"').next());
        let well_known = "/.well-known/oauth-protected-resource";
        let places = [
            said.map(str::to_owned),
            Some(at.join(&format!("{well_known}{}", at.path())).unwrap().into()),
            Some(at.join(well_known).unwrap().into()),
        ];
        let mut found = places.iter().flatten().map(|place| http::fetch("GET", place, &[], b""));
        let Some(metadata) = found.find(|answer| answer.status() == 200) else {
            // A server of 2025-03-26 has none, and is its own authorization server.
            let issuer = at.origin().ascii_serialization();
            return Self { resource: scenario.url.clone(), issuer, scopes: Vec::new(), did: Vec::new() };
        };
        let metadata = metadata.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            resource: text(&metadata["resource"]),
            issuer: text(&metadata["authorization_servers"][0]),
            scopes: metadata["scopes_supported"].as_array().into_iter().flatten().map(text).collect(),
            did: vec!["prm-pathbased-requested"],
        }
    }

    /// Looks up what the authorization server says of itself.
    fn reads_server(&mut self) -> Value {
        self.did.push("authorization-server-metadata");
        http::fetch("GET", &format!("{}/.well-known/oauth-authorization-server", self.issuer), &[], b"").json()
    }

    /// Registers the gateway (RFC 7591 §3.1), at this path below the issuer; gives its `client`.
    fn registers(&mut self, folder: &Path, (path, callback): (&str, &str), judged: &[&'static str]) -> String {
        let asks = json!({
            "client_name": "Tollgate", "redirect_uris": [callback], "application_type": "web",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        });
        let headers = [("Content-Type", "application/json")];
        let url = format!("{}{path}", self.issuer);
        let given = http::fetch("POST", &url, &headers, asks.to_string().as_bytes()).json();
        self.did.push("client-registration");
        self.did.extend(judged);
        let id = given["client_id"].as_str().unwrap_or_else(|| panic!("{given}"));
        let Some(secret) = given["client_secret"].as_str() else {
            return format!("{{ id = \"{id}\", authentication = \"none\" }}");
        };
        let method = given["token_endpoint_auth_method"].as_str().unwrap_or("client_secret_basic");
        format!("{{ id = \"{id}\", authentication = \"{method}\", {} }}", secret_in(folder, "client.secret", secret))
    }
}

/// A secret's file is not readable by everybody.
fn written(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

fn secret_in(folder: &Path, name: &str, secret: &str) -> String {
    format!("secret = {{ file = \"{}\" }}", written(folder, name, secret))
}

/// The gateway in its own name, with a grant of these words.
fn in_its_own_name(name: &str, grant: impl FnOnce(&Scenario, &Value) -> String) {
    let scenario = Scenario::begin(name, "2025-11-25", name);
    let person = Issuer::good();
    let mut administrator = Administrator::looks_up(&scenario);
    let server = administrator.reads_server();
    let grant = format!(
        "grant = {{ {}, token_endpoint = {}, resource = \"{}\" }}",
        grant(&scenario, &server),
        server["token_endpoint"],
        administrator.resource
    );
    let gateway = Setup::usual("client", &person).upstream("suite", &scenario.url, &grant).start();
    let client = gateway.client_of(Some("suite"), &person, "alice").awaiting("test-tool");
    assert_eq!(client.call("test-tool", &json!({})).status(), 200);
    drop(gateway);
    scenario.end(&GRANTS, &administrator.did);
}

#[test]
fn it_shows_its_secret() {
    in_its_own_name("auth/client-credentials-basic", |scenario, _| {
        let secret = secret_in(&scenario.folder, "secret", scenario.context["client_secret"].as_str().unwrap());
        let id = &scenario.context["client_id"];
        format!("strategy = \"client_credentials\", client = {{ id = {id}, {secret} }}")
    });
}

#[test]
fn it_signs_with_its_key() {
    in_its_own_name("auth/client-credentials-jwt", |scenario, server| {
        let key = written(&scenario.folder, "key.pem", scenario.context["private_key_pem"].as_str().unwrap());
        let (id, issuer) = (&scenario.context["client_id"], &server["issuer"]);
        format!(
            "strategy = \"client_credentials\", client = {{ id = {id}, authentication = \"private_key_jwt\", \
             key = {{ file = \"{key}\" }}, assertion_audience = {issuer} }}"
        )
    });
}

#[test]
fn it_shows_what_its_platform_says_of_it() {
    in_its_own_name("auth/wif-jwt-bearer", |scenario, _| {
        let file = written(&scenario.folder, "workload.jwt", scenario.context["valid_jwt"].as_str().unwrap());
        format!("strategy = \"workload_grant\", assertion_file = \"{file}\"")
    });
}

/// The suite gives an ID token without a login, and a login without a nonce is none here: a provider before the suite's logs
/// the person in, and puts the suite's ID token in the place of its own. All else passes as the gateway sent it.
#[test]
fn it_has_the_identity_provider_vouch_for_the_person() {
    let name = "auth/enterprise-managed-authorization";
    let scenario = Scenario::begin(name, "2025-11-25", name);
    let context = scenario.context.clone();
    let text = |member: &str| context[member].as_str().unwrap().to_owned();
    let (id_token, token_endpoint, client) = (text("idp_id_token"), text("idp_token_endpoint"), text("idp_client_id"));
    let provider = Issuer::scripted(move |seen| {
        let asked = url::form_urlencoded::parse(&seen.body).into_owned();
        let mut fields: Vec<(String, String)> = asked.collect();
        let subject = fields.iter_mut().find(|(name, _)| name == "subject_token")?;
        assert_eq!(claims_of(&subject.1)["aud"], client, "the ID token of the gateway's own login");
        subject.1.clone_from(&id_token);
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = http::fetch("POST", &token_endpoint, &headers, form.as_bytes());
        Some(Reply::json(answer.status(), &answer.json()))
    });
    let administrator = Administrator::looks_up(&scenario);
    let own = secret_in(&scenario.folder, "provider.secret", "secret at the provider");
    let idp_client = format!("{{ id = \"{}\", {own} }}", text("idp_client_id"));
    let there = secret_in(&scenario.folder, "server.secret", &text("client_secret"));
    let grant = format!(
        "grant = {{ strategy = \"id_jag\", subject = \"id_token\", token_endpoint = \"{}/token\", client = {idp_client}, \
         issuer = \"{}\", issuer_client = {{ id = \"{}\", {there} }}, resource = \"{}\" }}\n\
         discovery = {{ {BY_ADMINISTRATOR} }}",
        provider.url(),
        administrator.issuer,
        text("client_id"),
        administrator.resource
    );
    let gateway = Setup::usual("client", &provider)
        .environment("CATALOGUE_TOKEN", CATALOGUE)
        .section(&format!("[[logins]]\nissuer = \"{}\"\nclient = {idp_client}", provider.url()))
        .upstream("suite", &scenario.url, &grant)
        .start();
    let mut browser = Browser::of("alice");
    let first = browser.get(&invitation(&gateway, &provider));
    let done = browser.press(&first);
    assert!(done.answer.text().contains("<h1>Connected</h1>"), "{}", done.answer.text());
    let client = gateway.client_of(Some("suite"), &provider, "alice");
    assert_eq!(client.call("test-tool", &json!({})).status(), 200);
    drop(gateway);
    scenario.end(&GRANTS, &administrator.did);
}

/// The page that a call of alice's names.
#[track_caller]
fn invitation(gateway: &Gateway, issuer: &Issuer) -> String {
    let client = gateway.client_of(Some("suite"), issuer, "alice").awaiting("test-tool");
    let answer = client.call("test-tool", &json!({}));
    let url = answer.json()["error"]["data"]["elicitations"][0]["url"].as_str().map(str::to_owned);
    url.unwrap_or_else(|| panic!("no page: {}", answer.text()))
}

/// A person whose account is at the suite's server.
struct Account {
    scenario: Scenario,
    administrator: Administrator,
    issuer: Issuer,
    setup: Setup,
}

impl Account {
    fn at(name: &str) -> Self {
        Self::in_version(name, "2026-07-28")
    }

    fn in_version(name: &str, version: &str) -> Self {
        let scenario = Scenario::begin(name, version, name);
        let administrator = Administrator::looks_up(&scenario);
        let issuer = Issuer::good();
        let pages = "client = { id = \"pages\", secret = { env = \"PAGES_SECRET\" } }";
        let setup = Setup::usual("client", &issuer)
            .environment("CATALOGUE_TOKEN", CATALOGUE)
            .environment("PAGES_SECRET", "secret of the pages")
            .section(&format!("[[logins]]\nissuer = \"{}\"\n{pages}", issuer.url()));
        Self { scenario, administrator, issuer, setup }
    }

    /// Registers the gateway at this path; gives its `client`.
    fn registered_at(&mut self, path: &str, judged: &[&'static str]) -> String {
        let callback = format!("{}/connecting/callback/suite", self.setup.origin());
        self.administrator.registers(&self.scenario.folder, (path, &callback), judged)
    }

    fn registered(&mut self) -> String {
        self.registered_at("/register", &[APPLICATION_TYPE])
    }

    /// The gateway as `client`, with these further keys of the grant, and this way to the catalogue.
    fn started(mut self, client: &str, (more, discovery): (&str, &str)) -> Begun {
        let Administrator { issuer, resource, scopes, .. } = &self.administrator;
        let scopes: Vec<String> = scopes.iter().map(|scope| format!("\"{scope}\"")).collect();
        let grant = format!(
            "grant = {{ strategy = \"user_grant\", issuer = \"{issuer}\", client = {client}, resource = \"{resource}\", \
             scopes = [{}]{more} }}\ndiscovery = {{ {discovery} }}",
            scopes.join(", ")
        );
        self.setup = self.setup.upstream("suite", &self.scenario.url, &grant);
        let Self { scenario, administrator, issuer, setup } = self;
        Begun { scenario, administrator, issuer, gateway: setup.start() }
    }

    /// The same, with nothing further.
    fn with(self, client: &str) -> Begun {
        self.started(client, ("", BY_ADMINISTRATOR))
    }
}

/// The same, with the gateway at work.
struct Begun {
    scenario: Scenario,
    administrator: Administrator,
    issuer: Issuer,
    gateway: Gateway,
}

impl Begun {
    /// The person goes the way to the end, wherever that is.
    fn visited(&self) -> Page {
        visit(&invitation(&self.gateway, &self.issuer))
    }

    /// Calls under the account.
    fn calls(&self) {
        let client = self.gateway.client_of(Some("suite"), &self.issuer, "alice").awaiting("test-tool");
        let answer = client.call("test-tool", &json!({}));
        assert_eq!(answer.json()["result"]["content"][0]["text"], "test", "{}", answer.text());
    }

    /// The account is connected, and serves.
    fn connects(self) {
        let done = self.visited();
        assert!(done.answer.text().contains("<h1>Connected</h1>"), "{} {}", done.at, done.answer.text());
        self.calls();
        self.ends();
    }

    /// Nothing comes of it, and the journal says why.
    fn strays(self, outcome: &str) {
        let done = self.visited();
        assert_ne!(done.answer.status(), 200, "{} {}", done.at, done.answer.text());
        let recorded = &self.gateway.recorded("connect", 1)[0];
        assert_eq!(recorded["connect"]["outcome"], outcome, "{recorded}");
        invitation(&self.gateway, &self.issuer);
        self.ends();
    }

    fn ends(self) {
        drop(self.gateway);
        self.scenario.end(&GRANTS, &self.administrator.did);
    }
}

fn visit(url: &str) -> Page {
    let mut browser = Browser::of("alice");
    let first = browser.get(url);
    let asked = browser.press(&first);
    assert!(asked.answer.text().contains("You are <b>alice</b>"), "{} {}", asked.at, asked.answer.text());
    browser.press(&asked)
}

/// What the suite judges of a registration, which is the administrator's.
const APPLICATION_TYPE: &str = "sep-837-application-type-present";

fn an_account_is_connected(name: &str) {
    let mut account = Account::at(name);
    let client = account.registered();
    account.with(&client).connects();
}

#[test]
fn it_finds_the_servers_metadata_at_the_root() {
    an_account_is_connected("auth/metadata-default");
}

#[test]
fn it_finds_the_servers_metadata_where_openid_has_them() {
    an_account_is_connected("auth/metadata-var1");
}

#[test]
fn it_finds_the_servers_metadata_before_its_path() {
    an_account_is_connected("auth/metadata-var2");
}

#[test]
fn it_finds_the_servers_metadata_behind_its_path() {
    an_account_is_connected("auth/metadata-var3");
}

#[test]
fn it_finds_the_metadata_of_a_server_of_2025_03_26() {
    let mut account = Account::in_version("auth/2025-03-26-oauth-metadata-backcompat", "2025-03-26");
    let client = account.registered_at("/oauth/register", &[]);
    account.with(&client).connects();
}

#[test]
fn metadata_of_another_issuer_are_not_made_use_of() {
    let account = Account::at("auth/metadata-issuer-mismatch");
    account.with("{ id = \"tollgate\", authentication = \"none\" }").strays("unavailable");
}

/// An upstream that says that it is another resource.
#[test]
fn nobody_is_sent_to_connect_an_account_for_another_resource() {
    let mut account = Account::at("auth/resource-mismatch");
    account.administrator.resource.clone_from(&account.scenario.url);
    account.with("{ id = \"tollgate\", authentication = \"none\" }").strays("unavailable");
}

#[test]
fn it_may_be_known_by_its_metadata_document() {
    let account = Account::at("auth/basic-cimd");
    let document = "https://conformance-test.local/client-metadata.json";
    account.with(&format!("{{ id = \"{document}\", authentication = \"none\" }}")).connects();
}

#[test]
fn it_may_have_been_registered_before() {
    let account = Account::at("auth/pre-registration");
    let Scenario { folder, context, .. } = &account.scenario;
    assert_eq!(context["issuer"], account.administrator.issuer);
    let secret = secret_in(folder, "client.secret", context["client_secret"].as_str().unwrap());
    let client = format!("{{ id = {}, {secret} }}", context["client_id"]);
    account.with(&client).connects();
}

#[test]
fn it_authenticates_in_a_header() {
    an_account_is_connected("auth/token-endpoint-auth-basic");
}

#[test]
fn it_authenticates_in_the_body() {
    an_account_is_connected("auth/token-endpoint-auth-post");
}

#[test]
fn it_may_be_a_public_client() {
    an_account_is_connected("auth/token-endpoint-auth-none");
}

#[test]
fn where_no_scopes_are_configured_none_are_asked_for() {
    an_account_is_connected("auth/scope-omitted-when-undefined");
}

#[test]
fn it_asks_for_scopes_of_servers_with_offline_access() {
    let mut account = Account::at("auth/offline-access-scope");
    let client = account.registered_at("/register", &[APPLICATION_TYPE, "sep-2207-client-metadata-grant-types"]);
    account.with(&client).connects();
}

#[test]
fn it_asks_for_no_scope_of_its_own_accord() {
    an_account_is_connected("auth/offline-access-not-supported");
}

#[test]
fn an_answer_that_names_its_issuer_is_taken() {
    an_account_is_connected("auth/iss-supported");
}

#[test]
fn an_answer_need_not_name_its_issuer_where_none_does() {
    an_account_is_connected("auth/iss-not-advertised");
}

fn the_answer_is_not_taken(name: &str) {
    let mut account = Account::at(name);
    let client = account.registered();
    account.with(&client).strays("issuer_mismatch");
}

#[test]
fn an_answer_has_to_name_its_issuer_where_all_do() {
    the_answer_is_not_taken("auth/iss-supported-missing");
}

#[test]
fn an_answer_of_another_issuer_is_not_taken() {
    the_answer_is_not_taken("auth/iss-wrong-issuer");
}

#[test]
fn an_answer_of_another_issuer_is_not_taken_where_none_had_to_be_named() {
    the_answer_is_not_taken("auth/iss-unexpected");
}

#[test]
fn an_issuer_is_compared_letter_by_letter() {
    the_answer_is_not_taken("auth/iss-normalized");
}

/// The way to the catalogue of a server that binds all tokens.
fn own_bound(account: &Account, client: &str) -> String {
    let Administrator { issuer, resource, .. } = &account.administrator;
    format!(
        "strategy = \"client_credentials\", token_endpoint = \"{issuer}/token\", client = {client}, \
         resource = \"{resource}\", dpop = true"
    )
}

#[test]
fn its_tokens_may_be_bound_to_its_key() {
    let mut account = Account::at("auth/dpop");
    let client = account.registered();
    let discovery = own_bound(&account, &client);
    account.started(&client, (", dpop = true", &discovery)).connects();
}

/// The page is opened at a process that does not know the server's nonce from reading the catalogue.
#[test]
fn a_proof_takes_the_nonce_that_is_asked_for() {
    let mut account = Account::at("auth/dpop-nonce");
    let client = account.registered();
    let discovery = own_bound(&account, &client);
    let state = account.setup.folder().join("state").display().to_string();
    account.setup = account.setup.section(&format!("[state]\ndirectory = \"{state}\""));
    let mut begun = account.started(&client, (", dpop = true", &discovery));
    let page = invitation(&begun.gateway, &begun.issuer);

    let file = begun.gateway.setup().folder().join("upstreams.toml");
    let written = fs::read_to_string(&file).unwrap();
    begun.gateway.stop();
    fs::write(&file, written.replace(&discovery, "strategy = \"none\"")).unwrap();
    begun.gateway = begun.gateway.again();
    let done = visit(&page);
    assert!(done.answer.text().contains("<h1>Connected</h1>"), "{} {}", done.at, done.answer.text());

    begun.gateway.stop();
    fs::write(&file, written).unwrap();
    begun.gateway = begun.gateway.again();
    begun.calls();
    begun.ends();
}

#[test]
fn every_scenario_is_run_or_is_not_the_gateways_to_play() {
    for (scenario, reason) in LEFT_OUT.rows.iter().zip(REASONS) {
        LEFT_OUT.has(scenario, &[reason.to_owned()]);
    }
    let known = [CLIENT.rows, GRANTS.rows, LEFT_OUT.rows].concat();
    let known: BTreeSet<&str> = known.iter().map(|row| row.split(" at ").next().unwrap()).collect();
    let listed = Suite::Newer.client_scenarios();
    assert_eq!(known, listed.iter().map(String::as_str).collect());
}

#[test]
fn the_page_has_no_other_row() {
    GRANTS.has_nothing_else();
    LEFT_OUT.has_nothing_else();
}
