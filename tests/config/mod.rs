//! What the operator is told about `upstreams.toml`: one golden file a kind of mistake, as it is printed.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tollgate::config::{self, ClientAuthentication, Colour, Config, Environment, Grant, Report};

/// Variables that the golden files and the shipped example name.
fn environment() -> Environment {
    let variables = [
        ("TOLLGATE_CLIENT_SECRET", "s3cret"),
        ("NOTES_SECRET", "n0tes"),
        ("SECRET", "s3cret"),
        ("EMPTY", ""),
        ("SHORT_KEY", "0123"),
        ("TWO_LINES", "one\r\ntwo"),
    ];
    Environment::Given(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Loads `text` from a folder of its own, which has a `policies` folder and the files of `others` (name, text, mode).
fn load(text: &str, others: &[(&str, &str, u32)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    for (name, text, mode) in others {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
    }
    let path = folder.path().join("upstreams.toml");
    fs::write(&path, text).unwrap();
    config::load(&path, &environment()).map_err(|report| shown(&report, folder.path()))
}

fn shown(report: &Report, folder: &Path) -> String {
    report.render(Colour::Plain).replace(&format!("{}/", folder.display()), "")
}

#[track_caller]
fn golden(name: &str) -> String {
    let text = fs::read_to_string(root().join("tests/config").join(format!("{name}.toml"))).unwrap();
    let shown = load(&text, &[]).unwrap_err();
    assert!(!shown.contains("hunter2") && !shown.contains("s3cret"), "a secret is shown:\n{shown}");
    insta::assert_snapshot!(name, shown);
    shown
}

#[test]
fn misspelt_keys_and_wrong_types_are_all_told() {
    let shown = golden("keys");
    assert!(shown.contains("did you mean `gateway`?"));
}

#[test]
fn text_that_is_not_toml_is_told() {
    golden("syntax");
}

#[test]
fn an_empty_file_is_told_what_it_needs() {
    golden("empty");
}

#[test]
fn missing_keys_are_all_told() {
    golden("missing");
}

#[test]
fn exceptions_for_what_others_name_are_judged() {
    golden("egress");
}

#[test]
fn wrong_ways_to_reach_an_upstream_are_all_told() {
    golden("programs");
}

#[test]
fn wrong_values_of_the_door_are_all_told() {
    golden("door");
}

#[test]
fn wrong_values_of_what_senders_show_are_all_told() {
    golden("senders");
}

#[test]
fn wrong_ways_in_are_all_told() {
    golden("inbound");
}

#[test]
fn wrong_values_of_upstreams_are_all_told() {
    golden("upstreams");
}

#[test]
fn wrong_grants_are_all_told_and_no_secret_is_shown() {
    let shown = golden("grants");
    assert!(shown.contains("never offered"));
}

#[test]
fn wrong_facades_are_all_told() {
    golden("facade");
}

#[test]
fn the_shipped_estate_is_accepted() {
    let config =
        config::load(&root().join("upstreams.toml"), &environment()).unwrap_or_else(|report| panic!("{report}"));
    let ids: Vec<&str> = config.upstreams.keys().map(config::UpstreamId::as_str).collect();
    assert_eq!(ids, ["crm", "notes"]);
    let crm = config.upstreams.values().next().unwrap();
    let Grant::Exchange(request) = &crm.grant else { panic!("crm has another grant") };
    assert!(matches!(request.client.authentication, ClientAuthentication::SecretBasic(_)));
    let notes = config.upstreams.values().nth(1).unwrap();
    let Grant::StaticSecret { header, value } = &notes.grant else { panic!("notes has another grant") };
    assert_eq!((header.as_str(), value.expose()), ("authorization", "Bearer n0tes"));
    assert_eq!(config.digest.len(), 64);
}

#[test]
fn the_shipped_estate_names_every_variable_that_it_needs() {
    let report = config::load(&root().join("upstreams.toml"), &Environment::Given(BTreeMap::new())).unwrap_err();
    let shown = report.render(Colour::Plain);
    assert!(shown.contains("set `TOLLGATE_CLIENT_SECRET`") && shown.contains("set `NOTES_SECRET`"), "{shown}");
    assert_eq!(report.count(), 2);
}

#[test]
fn the_shipped_estate_tells_every_key() {
    let written = fs::read_to_string(root().join("gateway/src/config/written.rs")).unwrap();
    let shipped = fs::read_to_string(root().join("upstreams.toml")).unwrap();
    let words: Vec<&str> = shipped.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let keys = written.lines().filter_map(|line| {
        let key = line.strip_prefix("    pub(crate) ")?.split_once(':')?.0;
        Some(key.trim_start_matches("r#"))
    });
    let untold: Vec<&str> = keys.filter(|key| !words.contains(key)).collect();
    assert!(untold.is_empty(), "not in upstreams.toml: {untold:?}");
}

const MINIMAL: &str = r#"
[gateway]
public_url = "https://mcp.example.com"
listen = "127.0.0.1:8443"
[[issuers]]
issuer = "https://login.example.com"
algorithms = ["ES256"]
[audit]
directory = "audit"
[upstreams.a]
url = "https://a.internal/mcp"
grant = { strategy = "static_secret", header = "x-api-key", value = { file = "secret" } }
"#;

#[test]
fn a_secret_file_is_read_and_its_last_newline_is_not() {
    let config = load(MINIMAL, &[("secret", "abc\n", 0o600)]).unwrap();
    let Grant::StaticSecret { value, .. } = &config.upstreams.values().next().unwrap().grant else {
        panic!("other grant")
    };
    assert_eq!(value.expose(), "abc");
}

#[test]
fn a_secret_file_that_everybody_may_read_is_refused() {
    insta::assert_snapshot!(load(MINIMAL, &[("secret", "abc", 0o644)]).unwrap_err());
}

#[test]
fn a_certificate_without_its_own_key_is_refused() {
    let pair = || rcgen_pair();
    let ((certificate, key), (_, other)) = (pair(), pair());
    let text = MINIMAL.replace(
        "listen = \"127.0.0.1:8443\"",
        "listen = \"0.0.0.0:8443\"\ntls = { certificate = \"c\", key = \"k\" }",
    );
    let files =
        |key: &str, mode: u32| load(&text, &[("secret", "abc", 0o600), ("c", &certificate, 0o644), ("k", key, mode)]);
    assert!(files(&key, 0o600).unwrap().gateway.tls.is_some());
    insta::assert_snapshot!("key_of_another_certificate", files(&other, 0o600).unwrap_err());
    insta::assert_snapshot!("key_that_everybody_may_read", files(&key, 0o644).unwrap_err());
    insta::assert_snapshot!("no_key_at_all", files("hello", 0o600).unwrap_err());
}

fn rcgen_pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// Behind `[facade]` callers' tokens are the gateway's own, and its provider knows who they are; of several issuers it has to
/// be said whose users an assertion names.
#[test]
fn whose_users_log_in_and_are_named_is_known() {
    let client = "client = { id = \"t\", secret = { file = \"secret\" } }";
    let user = "resource = \"https://a.internal/mcp\", issuer = \"https://auth.example.com\"";
    let written = "grant = { strategy = \"static_secret\", header = \"x-api-key\", value = { file = \"secret\" } }";
    let none = "discovery = { strategy = \"none\" }";
    let secret = [("secret", "a.b.c", 0o600)];
    let account =
        MINIMAL.replace(written, &format!("grant = {{ strategy = \"user_grant\", {user}, {client} }}\n{none}"));
    assert!(load(&account, &secret).unwrap_err().contains("nobody can log in to connect an account"));
    let facade = format!("\n[facade]\nprovider = \"https://login.example.com\"\n{client}\n");
    let config = load(&(account + &facade), &secret).unwrap_or_else(|report| panic!("{report}"));
    let [login] = config.logins.as_slice() else { panic!("one login") };
    let own = config.gateway.public_url.as_str().trim_end_matches('/');
    assert_eq!((login.issuer.as_str(), login.provider.as_str()), (own, "https://login.example.com"));

    let jag = |provider: &str| {
        let ask = format!("token_endpoint = \"https://login.example.com/token\", {client}, issuer_{client}, {user}");
        let grant = format!("grant = {{ strategy = \"id_jag\", {ask}{provider} }}\n{none}");
        let other = "\n[[issuers]]\nissuer = \"https://other.example.com\"\nalgorithms = [\"ES256\"]\n";
        load(&(MINIMAL.replace(written, &grant) + other), &secret)
    };
    assert!(jag("").unwrap_err().contains("it is not said whose users this names"));
    let unknown = jag(", provider = \"https://nobody.example.com\"").unwrap_err();
    assert!(unknown.contains("is not one of `[[issuers]]`"), "{unknown}");
    let config = jag(", provider = \"https://login.example.com\"").unwrap_or_else(|report| panic!("{report}"));
    let Grant::IdJag(steps) = &config.upstreams.values().next().unwrap().grant else { panic!("another grant") };
    assert_eq!(steps.provider, "https://login.example.com");
}

/// Each way to a credential, as an administrator writes it.
#[test]
fn every_strategy_can_be_written() {
    let client = "client = { id = \"t\", secret = { file = \"secret\" } }";
    let user = "resource = \"https://a.internal/mcp\", issuer = \"https://auth.example.com\"";
    let exchange = format!("strategy = \"exchange\", token_endpoint = \"https://login.example.com/token\", {client}");
    for (grant, more) in [
        (format!("{exchange}, dialect = \"keycloak\", audience = \"a\""), ""),
        (format!("{exchange}, dialect = \"entra_obo\", scopes = [\"api://a/.default\"]"), ""),
        (format!("{exchange}, subject_token_type = \"jwt\", audience = \"a\", dpop = true"), ""),
        (
            exchange
                .replace("exchange", "client_credentials")
                .replace(client, "client = { id = \"t\", assertion_file = \"secret\" }"),
            "",
        ),
        (
            "strategy = \"workload_grant\", token_endpoint = \"https://login.example.com/token\", \
             assertion_file = \"secret\", resource = \"https://a.internal\", dpop = true"
                .to_owned(),
            "",
        ),
        (
            format!("{}, {user}, issuer_{client}, subject = \"id_token\"", exchange.replace("exchange", "id_jag")),
            "discovery = { strategy = \"none\" }",
        ),
        (
            format!("strategy = \"user_grant\", {user}, client = {{ id = \"t\", authentication = \"none\" }}"),
            "discovery = { strategy = \"none\" }",
        ),
    ] {
        let grant = format!("grant = {{ {grant} }}\n{more}");
        let logins = format!("[[logins]]\nissuer = \"https://login.example.com\"\n{client}\n[upstreams.a]");
        let written = "grant = { strategy = \"static_secret\", header = \"x-api-key\", value = { file = \"secret\" } }";
        let text = MINIMAL.replace(written, &grant).replace("[upstreams.a]", &logins);
        load(&text, &[("secret", "a.b.c", 0o600)]).unwrap_or_else(|report| panic!("{grant}\n{report}"));
    }
}
