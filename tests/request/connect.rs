//! How a user connects an account at an upstream, and what becomes of whoever tries it for somebody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{refused, text_of};
use crate::harness::{
    browser::{Browser, Page, form_of},
    gateway::{Gateway, Setup, tollgate},
    http::{Answer, ELSEWHERE, fetch_from},
    issuer::{Issuer, Pen, Signature},
    mcp::{Client, MODERN, modern_body},
    place,
    recorder::{Era, Recorder, Reply, Seen, Step},
};

/// How an authorization server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Play {
    /// Well; each refresh token once, and its whole family is lost where one is used twice.
    #[default]
    Well,
    /// It names another issuer in its answers (RFC 9207).
    NamesAnother,
    /// It names no issuer, although it says that it does.
    NamesNone,
    /// It names no issuer, and does not say that it would.
    Silent,
    /// Its metadata know nothing of PKCE.
    NoPkce,
    /// They know another method of it.
    PlainPkce,
    /// It signs with a key that it does not publish.
    SignsAsAnother,
    /// It gives what was the answer to another login.
    Replays,
    /// The user says no there.
    Declines,
    /// It is out of order.
    Broken,
    /// It no longer knows what it granted.
    Forgetful,
    /// It goes on with what it gives for a code only when it is told that the browser has gone.
    Dawdles,
}

#[derive(Debug, Default)]
struct Plays {
    play: Mutex<Play>,
    /// Challenge of each code.
    codes: Mutex<Vec<(String, String)>>,
    refreshed: AtomicUsize,
    tokens: AtomicUsize,
    /// The one refresh token that is good.
    good: Mutex<String>,
    revoked: Mutex<Vec<String>>,
    /// How many browsers have gone.
    gone: Arc<AtomicUsize>,
}

/// An authorization server with pages: whoever comes is `login_hint`, or "alice".
struct Server {
    issuer: Issuer,
    plays: Arc<Plays>,
}

impl Server {
    fn start() -> Self {
        let plays = Arc::new(Plays::default());
        let shared = Arc::clone(&plays);
        Self { issuer: Issuer::signing(move |seen, pen| answer(seen, &shared, pen)), plays }
    }

    fn url(&self) -> String {
        self.issuer.url()
    }

    fn plays(&self, play: Play) {
        *self.plays.play.lock() = play;
    }

    fn refreshed(&self) -> usize {
        self.plays.refreshed.load(Ordering::SeqCst)
    }
}

fn answer(seen: &Seen, plays: &Plays, pen: &Mutex<Pen>) -> Option<Reply> {
    let issuer = format!("http://{}", seen.header("host").unwrap());
    let play = *plays.play.lock();
    match seen.path.as_str() {
        "/.well-known/oauth-authorization-server" => {
            let at = |path: &str| format!("{issuer}{path}");
            let mut metadata = json!({
                "issuer": issuer, "jwks_uri": at("/jwks"), "token_endpoint": at("/token"),
                "authorization_endpoint": at("/auth"), "revocation_endpoint": at("/revoke"),
                "response_types_supported": ["code"], "authorization_response_iss_parameter_supported": true,
            });
            if play == Play::Silent {
                metadata["authorization_response_iss_parameter_supported"] = json!(false);
            }
            if play != Play::NoPkce {
                let method = if play == Play::PlainPkce { "plain" } else { "S256" };
                metadata["code_challenge_methods_supported"] = json!([method]);
            }
            Some(Reply::json(200, &metadata))
        }
        "/auth" => {
            assert_eq!(seen.parameter("code_challenge_method").as_deref(), Some("S256"));
            assert_eq!(seen.parameter("response_type").as_deref(), Some("code"));
            let user = seen.parameter("login_hint").unwrap_or_else(|| "alice".to_owned());
            let mut back = url::Url::parse(&seen.parameter("redirect_uri").unwrap()).unwrap();
            let code = format!("{}~{user}~{}", plays.codes.lock().len(), seen.parameter("nonce").unwrap_or_default());
            plays.codes.lock().push((code.clone(), seen.parameter("code_challenge").unwrap()));
            let mut query = back.query_pairs_mut();
            query.append_pair("state", &seen.parameter("state").unwrap());
            if play == Play::Declines {
                query.append_pair("error", "access_denied");
            } else {
                query.append_pair("code", &code);
            }
            if !matches!(play, Play::NamesNone | Play::Silent) {
                let other = play == Play::NamesAnother;
                query.append_pair("iss", if other { "https://evil.example" } else { &issuer });
            }
            drop(query);
            Some(Reply::status(302).header("location", back.as_str()))
        }
        "/revoke" => {
            plays.revoked.lock().push(seen.field("token").unwrap());
            Some(Reply::status(200))
        }
        "/token" if play == Play::Broken => Some(Reply::text(500, "text/html", "<h1>inside-of-the-server</h1>")),
        "/token" => match seen.field("grant_type").as_deref() {
            Some("authorization_code") => Some(granted(seen, plays, (&issuer, pen))),
            Some("refresh_token") => Some(refreshed(seen, plays, play)),
            _ => None,
        },
        _ => None,
    }
}

/// RFC 6749 §4.1.4: a code is good once, and with its verifier.
fn granted(seen: &Seen, plays: &Plays, (issuer, pen): (&str, &Mutex<Pen>)) -> Reply {
    let code = seen.field("code").unwrap();
    let verifier = seen.field("code_verifier").unwrap_or_default();
    let challenge = BASE64URL.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
    let mut codes = plays.codes.lock();
    let Some(known) = codes.iter_mut().find(|(known, given)| *known == code && *given == challenge) else {
        return Reply::json(400, &json!({ "error": "invalid_grant", "error_description": "inside-of-the-server" }));
    };
    known.1.clear();
    let mut parts = code.split('~').skip(1);
    let (user, mut nonce) = (parts.next().unwrap(), parts.next().unwrap());
    let play = *plays.play.lock();
    if play == Play::Replays {
        nonce = "of-another-login";
    }
    let (_, client) = seen.header("authorization").and_then(basic).unwrap();
    let exp = crate::harness::issuer::now() + 600;
    let claims = json!({ "iss": issuer, "sub": user, "aud": client, "nonce": nonce, "exp": exp });
    let mut body = token(plays, user);
    let by = if play == Play::SignsAsAnother { Signature::Stranger } else { Signature::Own };
    body["id_token"] = json!(pen.lock().id_token(&claims, by));
    let reply = Reply::json(200, &body);
    if play == Play::Dawdles { reply.step(Step::until(&plays.gone, 1)) } else { reply }
}

fn basic(value: &str) -> Option<(String, String)> {
    let pair = base64::engine::general_purpose::STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (id, secret) = pair.split_once(':')?;
    Some((secret.to_owned(), id.to_owned()))
}

fn token(plays: &Plays, user: &str) -> Value {
    let count = plays.tokens.fetch_add(1, Ordering::SeqCst);
    let refresh = format!("refresh-{user}-{count}");
    *plays.good.lock() = refresh.clone();
    json!({ "access_token": format!("account-{user}-{count}"), "token_type": "Bearer", "expires_in": 300, "refresh_token": refresh })
}

fn refreshed(seen: &Seen, plays: &Plays, play: Play) -> Reply {
    plays.refreshed.fetch_add(1, Ordering::SeqCst);
    let given = seen.field("refresh_token").unwrap();
    if play == Play::Forgetful || *plays.good.lock() != given {
        return Reply::json(400, &json!({ "error": "invalid_grant" }));
    }
    Reply::json(200, &token(plays, given.split('-').nth(1).unwrap()))
}

/// A gateway before an upstream that users connect; the upstream refuses the tokens in `bad`.
struct Ground {
    login: Server,
    server: Server,
    upstream: Recorder,
    bad: Arc<Mutex<Vec<String>>>,
    gateway: Gateway,
}

impl Ground {
    fn new(name: &str) -> Self {
        Self::with(name, |setup| setup)
    }

    fn with(name: &str, more: impl FnOnce(Setup) -> Setup) -> Self {
        let (login, server) = (Server::start(), Server::start());
        let bad: Arc<Mutex<Vec<String>>> = Arc::default();
        let known = Arc::clone(&bad);
        let upstream = Recorder::scripted(Era::Modern, move |seen| {
            let token = seen.header("authorization")?.strip_prefix("Bearer ")?.to_owned();
            known.lock().contains(&token).then(|| Reply::status(401))
        });
        let client = |id: &str| format!("client = {{ id = \"{id}\", secret = {{ env = \"GATEWAY_SECRET\" }} }}");
        let grant = format!(
            "grant = {{ strategy = \"user_grant\", issuer = \"{}\", {}, resource = \"{}\", scopes = [\"crm.read\"] }}",
            server.url(),
            client("gateway"),
            upstream.url()
        );
        let setup = Setup::usual(name, &login.issuer)
            .environment("GATEWAY_SECRET", "gateway-secret")
            .section(&format!("[[logins]]\nissuer = \"{}\"\n{}", login.url(), client("pages")))
            .upstream("crm", &upstream.url(), &format!("{grant}\ndiscovery = {{ strategy = \"none\" }}"));
        let gateway = more(setup).start();
        Self { login, server, upstream, bad, gateway }
    }

    fn client(&self, user: &str) -> Client {
        self.gateway.client_of(Some("crm"), &self.login.issuer, user).awaiting("echo")
    }

    /// The page that a call of `user` names.
    #[track_caller]
    fn page(&self, user: &str) -> String {
        let answer = self.client(user).call("echo", &json!({}));
        assert_eq!(refused(&answer), (403, 40317, "connect_required".into()));
        answer.json()["error"]["data"]["elicitations"][0]["url"].as_str().unwrap().to_owned()
    }

    /// As far as the page that asks for the user's word.
    fn logged_in(&self, browser: &mut Browser, url: &str) -> Page {
        let first = browser.get(url);
        assert_eq!(first.answer.status(), 200, "{}", first.answer.text());
        browser.press(&first)
    }

    #[track_caller]
    fn connect(&self, user: &str) {
        let (url, mut browser) = (self.page(user), Browser::of(user));
        let asked = self.logged_in(&mut browser, &url);
        assert!(asked.answer.text().contains(&format!("You are <b>{user}</b>")), "{}", asked.answer.text());
        let done = browser.press(&asked);
        assert!(done.answer.text().contains("<h1>Connected</h1>"), "{}", done.answer.text());
    }

    fn shown(&self) -> Vec<String> {
        let calls = self.upstream.seen_method("tools/call");
        calls.iter().map(|seen| seen.header("authorization").unwrap_or_default().to_owned()).collect()
    }
}

fn with_pages(client: &Client, state: Option<&str>, action: &str) -> Answer {
    let mut params = json!({ "name": "echo", "arguments": {} });
    if let Some(state) = state {
        params["requestState"] = json!(state);
        params["inputResponses"] = json!({ "connect": { "action": action } });
    }
    let mut body = modern_body(&json!(1), "tools/call", &params);
    body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({ "elicitation": { "url": {} } });
    let headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo")];
    client.post(&headers, body.to_string().as_bytes())
}

#[test]
fn a_user_connects_an_account_and_the_call_goes_on_under_it() {
    let ground = Ground::new("connect");
    let alice = ground.client("alice");
    let asked = with_pages(&alice, None, "");
    let result = &asked.json()["result"];
    assert_eq!(result["resultType"], "input_required", "{}", asked.text());
    let request = &result["inputRequests"]["connect"];
    assert_eq!((&request["method"], &request["params"]["mode"]), (&json!("elicitation/create"), &json!("url")));
    let (url, state) = (request["params"]["url"].as_str().unwrap(), result["requestState"].as_str().unwrap());
    assert!(url.starts_with(&format!("{}/connect/crm?ticket=", ground.gateway.setup().origin())), "{url}");
    assert!(ground.upstream.seen_method("tools/call").is_empty());
    // Asked again before the visit, it is the same page.
    assert_eq!(ground.page("alice"), url);
    let early = with_pages(&alice, Some(state), "accept");
    assert_eq!(early.json()["result"]["inputRequests"]["connect"]["params"]["url"], url, "not connected yet");

    let mut browser = Browser::of("alice");
    let first = browser.get(url);
    for (name, value) in
        [("x-frame-options", "DENY"), ("referrer-policy", "same-origin"), ("cache-control", "no-store")]
    {
        assert_eq!(first.answer.header(name), Some(value), "{name}");
    }
    assert!(first.answer.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
    assert!(!first.answer.text().contains("alice"), "whoever has the address learns nothing of whom it is for");
    let second = browser.press(&first);
    let text = second.answer.text();
    for part in ["You are <b>alice</b>", "<b>agent</b>", "<b>crm</b>", "<li>crm.read</li>", &ground.server.url()] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let done = browser.press(&second);
    assert_eq!((done.answer.status(), done.at.path()), (200, "/connecting/callback/crm"), "{}", done.answer.text());

    let state = early.json()["result"]["requestState"].as_str().unwrap().to_owned();
    assert_eq!(with_pages(&alice, Some(&state), "accept").status(), 200);
    assert_eq!(ground.shown(), ["Bearer account-alice-0"]);
    let asked: Vec<Seen> = ground.server.issuer.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].field("resource"), Some(ground.upstream.url()), "RC-22");
    let sent: Vec<Seen> = ground.server.issuer.recorder().seen_path("/auth");
    assert_eq!(sent[0].parameter("resource"), Some(ground.upstream.url()));

    let connected = &ground.gateway.recorded("connect", 1)[0];
    assert_eq!(connected["user"], json!({ "issuer": ground.login.url(), "subject": "alice" }));
    assert_eq!(connected["connect"], json!({ "outcome": "connected", "scopes": ["crm.read"] }));
    let grant = &connected["grant"];
    assert_eq!((&grant["strategy"], &grant["audience"]), (&json!("user_grant"), &json!(ground.upstream.url())));
    let intent = &ground.gateway.recorded("intent", 1)[0]["grant"];
    assert_eq!((&grant["cached"], &intent["cached"]), (&json!(false), &json!(true)), "minted for no call");
    assert_eq!((&grant["token_digest"], ground.gateway.recorded("grant", 0).len()), (&intent["token_digest"], 0));
    let journal = ground.gateway.journal().iter().map(Value::to_string).collect::<String>();
    for secret in ["account-alice", "refresh-alice", "ticket="] {
        assert!(!journal.contains(secret) && !ground.gateway.process.errors().contains(secret), "{secret}");
    }
    // Another's account is another's.
    ground.page("bob");
    ground.connect("bob");
    assert_eq!(ground.client("bob").call("echo", &json!({})).status(), 200);
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200);
    assert_eq!(ground.shown()[1..], ["Bearer account-bob-1", "Bearer account-alice-0"]);
}

#[test]
fn each_client_is_told_of_the_page_in_the_way_that_it_can_take() {
    let ground = Ground::new("connect-forms");
    let alice = ground.client("alice");
    let told = alice.initialize_with(&json!({ "elicitation": { "url": {} } })).call("echo", &json!({}));
    let error = &told.json()["error"];
    assert_eq!((told.status(), &error["code"]), (200, &json!(-32042)), "{error}");
    let elicitation = &error["data"]["elicitations"][0];
    assert_eq!(elicitation["mode"], "url");
    assert!(elicitation["elicitationId"].as_str().is_some_and(|id| id.len() == 32), "{elicitation}");
    assert!(elicitation["message"].is_string() && elicitation["url"].is_string());
    for capabilities in [json!({}), json!({ "elicitation": { "form": {} } })] {
        let told = alice.initialize_with(&capabilities).call("echo", &json!({}));
        assert_eq!(refused(&told), (200, 40317, "connect_required".into()));
        assert!(told.json()["error"]["message"].as_str().unwrap().contains("/connect/crm?ticket="), "{}", told.text());
    }
    assert!(told.header("www-authenticate").is_none(), "the client's own token is fine");
    // Whoever says no is not asked without end.
    let asked = with_pages(&alice, None, "").json();
    let state = asked["result"]["requestState"].as_str().unwrap();
    assert_eq!(refused(&with_pages(&alice, Some(state), "decline")).2, "grant_refused");
    ground.gateway.recorded("refusal", 3);
}

/// The page of one caller, opened by another person (MCP client/elicitation, Phishing): their account is not connected
/// for somebody else, wherever they come in.
#[test]
fn nobody_connects_their_account_for_another() {
    let ground = Ground::new("connect-phishing");
    let (url, mut bob) = (ground.page("alice"), Browser::of("bob"));
    let refused = ground.logged_in(&mut bob, &url);
    assert_eq!(refused.answer.status(), 403, "{}", refused.answer.text());
    assert!(!refused.answer.text().contains("alice") && !refused.answer.text().contains("<form"));
    assert_eq!(ground.gateway.recorded("connect", 1)[0]["connect"]["outcome"], "other_user");
    assert!(
        ground.server.issuer.recorder().seen_path("/auth").is_empty(),
        "bob is never sent to the upstream's server"
    );
    assert_eq!(*ground.login.plays.revoked.lock(), ["refresh-bob-0"], "of his login nothing is left");
    // The page is spent; whoever comes later finds nothing.
    assert_eq!(Browser::of("alice").get(&url).answer.status(), 404);

    // Alice goes as far as the upstream's server, and has bob come back in her stead.
    let (url, mut alice) = (ground.page("alice"), Browser::of("alice"));
    let asked = ground.logged_in(&mut alice, &url);
    let sent = alice.press_only(&asked);
    let mut bob = Browser::of("bob");
    let there = bob.look(sent.answer.header("location").unwrap());
    let lured = bob.get(there.answer.header("location").unwrap());
    assert_eq!(lured.answer.status(), 404, "bob's browser has no visit: {}", lured.answer.text());
    assert!(ground.server.issuer.asked().is_empty(), "his code is not redeemed");
    // Nor by a form of bob's own making, with alice's word.
    let forged = Browser::of("bob").press(&asked);
    assert_eq!(forged.answer.status(), 404, "{}", forged.answer.text());
    assert_eq!(ground.client("bob").call("echo", &json!({})).status(), 403);
    assert!(ground.shown().is_empty());
    ground.connect("alice");
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200);
}

#[test]
fn a_step_is_good_once_and_for_its_own_visit() {
    let ground = Ground::new("connect-steps");
    let mut alice = Browser::of("alice");
    let first = alice.get(&ground.page("alice"));
    let sent = alice.press_only(&first);
    assert_eq!(alice.press_only(&first).answer.status(), 404, "a ticket is good once");
    let login = alice.look(sent.answer.header("location").unwrap());
    let back = login.answer.header("location").unwrap().to_owned();
    for (what, forged, status) in [
        ("another state", back.replace("state=", "state=x"), 403),
        ("no state", back.replace("state=", "stat="), 403),
        ("two states", format!("{back}&state=x"), 403),
        ("no cookie of that name", back.replace("/login", "/callback/crm"), 404),
    ] {
        let page = alice.get(&forged);
        assert_eq!(page.answer.status(), status, "{what}: {}", page.answer.text());
    }
    let asked = alice.get(&back);
    assert_eq!(asked.answer.status(), 200, "what was forged spent nothing: {}", asked.answer.text());
    assert_eq!(alice.get(&back).answer.status(), 404, "a state is good once");

    // Two visits of one person; the steps of one do not fit the other.
    let mut other = Browser::of("alice");
    let theirs = ground.logged_in(&mut other, &ground.page("alice"));
    let (to, fields) = form_of(&theirs);
    let crossed = Page { at: to, answer: theirs.answer.clone() };
    assert_eq!(alice.press(&crossed).answer.status(), 403, "another visit's token: {fields:?}");
    let sent = alice.press_only(&asked);
    assert_eq!(alice.press_only(&asked).answer.status(), 404, "a word is given once");
    let there = alice.look(sent.answer.header("location").unwrap());
    let back = there.answer.header("location").unwrap().to_owned();
    assert_eq!(other.get(&back).answer.status(), 404, "another browser's answer");
    let pages: Vec<u16> = (0..2).map(|_| alice.get(&back).answer.status()).collect();
    assert_eq!(pages, [200, 404]);
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200);
    assert_eq!(ground.server.issuer.asked().len(), 1);
}

#[test]
fn answers_of_another_issuer_and_servers_without_pkce_lead_nowhere() {
    let ground = Ground::new("connect-mix-up");
    for (round, (play, outcome, status)) in [
        (Play::NamesAnother, "issuer_mismatch", 403),
        (Play::NamesNone, "issuer_mismatch", 403),
        (Play::Declines, "declined", 502),
        (Play::Broken, "unavailable", 502),
    ]
    .into_iter()
    .enumerate()
    {
        // At the upstream's server, and at the login.
        for server in [&ground.server, &ground.login] {
            let url = ground.page("alice");
            server.plays(play);
            let mut alice = Browser::of("alice");
            let first = alice.get(&url);
            let mut page = alice.press(&first);
            if page.answer.text().contains("<form") {
                page = alice.press(&page);
            }
            server.plays(Play::Well);
            assert_eq!(page.answer.status(), status, "{play:?}: {}", page.answer.text());
            assert!(!page.answer.text().contains("inside-of-the-server"), "{}", page.answer.text());
        }
        let found = ground.gateway.recorded("connect", (round + 1) * 2);
        assert_eq!(found.last().unwrap()["connect"]["outcome"], outcome, "{play:?}");
    }
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 403);
    assert_eq!(
        Browser::of("alice").get(&format!("{}/connect/crm", ground.gateway.setup().origin())).answer.status(),
        404
    );
    // Refusals of strangers are counted.
    for code in ["visit_unknown", "visit_forbidden", "visit_failed"] {
        place::wait_for(code, place::PATIENCE, || {
            ground.gateway.journal().iter().any(|record| record.to_string().contains(code)).then_some(())
        });
    }
    for (play, status) in [(Play::SignsAsAnother, 502), (Play::Replays, 403)] {
        let (url, mut alice) = (ground.page("alice"), Browser::of("alice"));
        ground.login.plays(play);
        let page = ground.logged_in(&mut alice, &url);
        ground.login.plays(Play::Well);
        assert_eq!(page.answer.status(), status, "{play:?}: {}", page.answer.text());
    }
    let unfit = Ground::new("connect-no-pkce");
    unfit.server.plays(Play::NoPkce);
    // A login has a nonce besides, and OpenID Connect Discovery knows no methods of PKCE.
    unfit.login.plays(Play::NoPkce);
    let mut alice = Browser::of("alice");
    let asked = unfit.logged_in(&mut alice, &unfit.page("alice"));
    assert_eq!(alice.press(&asked).answer.status(), 502);
    assert_eq!(unfit.gateway.recorded("connect", 1)[0]["connect"]["outcome"], "server_unfit");
    assert!(unfit.server.issuer.recorder().seen_path("/auth").is_empty());
    let plain = Ground::new("connect-plain-pkce");
    plain.login.plays(Play::PlainPkce);
    assert_eq!(plain.logged_in(&mut Browser::of("alice"), &plain.page("alice")).answer.status(), 502);
    assert!(plain.login.issuer.recorder().seen_path("/auth").is_empty());
}

/// RFC 9700 §4.4: the user connects an account at a hostile server, which sends their browser on to the honest one; neither
/// says who it is, and the honest one's code comes back in a visit of the hostile one.
#[test]
fn a_code_of_one_server_is_never_shown_to_another() {
    let (evil, theirs) = (Server::start(), Recorder::good(Era::Modern));
    let grant = format!(
        "grant = {{ strategy = \"user_grant\", issuer = \"{}\", client = {{ id = \"gateway\", secret = {{ env = \"GATEWAY_SECRET\" }} }}, \
         resource = \"{}\" }}\ndiscovery = {{ strategy = \"none\" }}",
        evil.url(),
        theirs.url()
    );
    let ground = Ground::with("connect-mixed-up", |setup| setup.upstream("evil", &theirs.url(), &grant));
    evil.plays(Play::Silent);
    ground.server.plays(Play::Silent);
    let client = ground.gateway.client_of(Some("evil"), &ground.login.issuer, "alice").awaiting("echo");
    let page = client.call("echo", &json!({})).json()["error"]["data"]["elicitations"][0]["url"].clone();
    let mut alice = Browser::of("alice");
    let asked = ground.logged_in(&mut alice, page.as_str().unwrap());
    let sent = alice.press_only(&asked);
    let there = sent.answer.header("location").unwrap();
    assert!(there.starts_with(&evil.url()) && there.contains("callback%2Fevil"), "{there}");
    let honest = there.replace(&evil.url(), &ground.server.url()).replace("callback%2Fevil", "callback%2Fcrm");
    let there = alice.look(&honest);
    let back = alice.get(there.answer.header("location").unwrap());
    assert_eq!(back.answer.status(), 403, "{}", back.answer.text());
    assert_eq!(ground.gateway.recorded("connect", 1)[0]["connect"]["outcome"], "issuer_mismatch");
    assert!(evil.issuer.asked().is_empty(), "no code of the other server is shown to it");
    assert!(ground.server.issuer.asked().is_empty());
}

/// One refresh, and all are served: a refresh token that is used twice is lost, and with it the account.
#[test]
fn many_calls_refresh_an_account_once() {
    let ground = Ground::new("connect-refresh");
    ground.connect("alice");
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200);
    for round in 0..3 {
        ground.bad.lock().push(format!("account-alice-{round}"));
        let answers: Vec<u16> = thread::scope(|scope| {
            let call = || ground.client("alice").call("echo", &json!({})).status();
            let calls: Vec<_> = (0..12).map(|_| scope.spawn(call)).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(answers, [200; 12], "round {round}");
        assert_eq!(ground.server.refreshed(), round + 1, "one refresh");
    }
    assert!(ground.shown().last().unwrap().ends_with("account-alice-3"), "rotation is survived");
}

#[test]
fn an_account_outlives_the_process_and_its_server_being_away() {
    let mut ground = Ground::with("connect-again", |setup| {
        let state = setup.folder().join("state").display().to_string();
        setup.section(&format!("[state]\ndirectory = \"{state}\""))
    });
    ground.connect("alice");
    ground.gateway.stop();
    ground.gateway = ground.gateway.again();
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200, "without being asked again");
    assert_eq!(ground.shown(), ["Bearer account-alice-0"]);

    // What is there goes on; what has to be refreshed is told as what it is, and is not lost.
    ground.server.plays(Play::Broken);
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200);
    ground.bad.lock().push("account-alice-0".to_owned());
    let answer = ground.client("alice").call("echo", &json!({}));
    assert_eq!(refused(&answer), (502, 50201, "grant_unavailable".into()));
    assert!(!answer.text().contains("inside-of-the-server"), "{}", answer.text());
    ground.server.plays(Play::Well);
    place::wait_for("the account", place::PATIENCE, || {
        (ground.client("alice").call("echo", &json!({})).status() == 200).then_some(())
    });
    assert_eq!(ground.shown().last().unwrap(), "Bearer account-alice-1");
    // What was read again is not minted again.
    let (minted, intent) = (ground.gateway.recorded("grant", 1), ground.gateway.recorded("intent", 1).pop().unwrap());
    assert_eq!(minted.len(), 1, "{minted:?}");
    assert_eq!(minted[0]["grant"], intent["grant"]);

    // What the server no longer knows only the user can give again.
    ground.server.plays(Play::Forgetful);
    ground.bad.lock().push("account-alice-1".to_owned());
    ground.page("alice");
    ground.server.plays(Play::Well);
    ground.connect("alice");
    assert!(text_of(&ground.client("alice").call("echo", &json!({}))).contains("echo"));
}

#[test]
fn an_account_whose_grant_is_revoked_is_asked_for_again() {
    let mut ground = Ground::with("connect-revoked", |setup| {
        let state = setup.folder().join("state").display().to_string();
        setup.section(&format!("[state]\ndirectory = \"{state}\""))
    });
    ground.connect("alice");
    ground.connect("bob");
    let status = |ground: &Ground, user: &str| ground.client(user).call("echo", &json!({})).status();
    assert_eq!([status(&ground, "alice"), status(&ground, "bob")], [200, 200]);
    let file = ground.gateway.setup().folder().join("upstreams.toml");
    let revoke = |arguments: &[&str]| {
        let output = tollgate(&["revoke", "grant"]).args(arguments).arg("--config").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // The account is the user's, whichever client uses it.
    revoke(&["--agent", "agent"]);
    place::wait_for("the first", place::PATIENCE, || {
        (!ground.gateway.recorded("revocation", 0).is_empty()).then_some(())
    });
    assert_eq!(status(&ground, "alice"), 200);
    revoke(&["--upstream", "crm", "--user", "alice"]);
    place::wait_for("the account is forgotten", place::PATIENCE, || (status(&ground, "alice") != 200).then_some(()));
    place::wait_for("its server is told", place::PATIENCE, || {
        (*ground.server.plays.revoked.lock() == ["refresh-alice-0"]).then_some(())
    });
    ground.page("alice");
    assert_eq!(status(&ground, "bob"), 200);

    // What is connected after it stays, also where the revocation is read again.
    ground.connect("alice");
    ground.gateway.stop();
    ground.gateway = ground.gateway.again();
    assert_eq!([status(&ground, "alice"), status(&ground, "bob")], [200, 200]);
    let other = ground.gateway.recorded("start", 2);
    assert_eq!(other.len(), 2);
    assert_eq!([status(&ground, "alice"), status(&ground, "bob")], [200, 200]);
    assert_eq!(ground.server.plays.revoked.lock().len(), 1);
}

impl Ground {
    /// With its state in a folder.
    fn keeping(name: &str, more: impl FnOnce(Setup) -> Setup) -> Self {
        Self::with(name, |setup| {
            let state = setup.folder().join("state").display().to_string();
            more(setup.section(&format!("[state]\ndirectory = \"{state}\"")))
        })
    }

    /// Whether there is room for more in a place of the state.
    fn has_room(&self, place: &str, room: bool) {
        let full = format!(
            "CREATE TRIGGER full BEFORE INSERT ON kept WHEN NEW.place = '{place}' \
             BEGIN SELECT RAISE(ABORT, 'no room'); END"
        );
        let file = self.gateway.setup().folder().join("state/state.db");
        let how = if room { "DROP TRIGGER full" } else { &full };
        rusqlite::Connection::open(file).unwrap().execute_batch(how).unwrap();
    }

    /// `browser` brings a code of `server` and is closed: the server, which was asked, waits until the gateway knows that
    /// nobody is there any more, and for longer.
    fn closes(&self, browser: &Browser, back: &Page, server: &Server) {
        let asked = server.issuer.asked().len();
        server.plays(Play::Dawdles);
        let connection = browser.begin(back.answer.header("location").unwrap());
        place::wait_for("the code", place::PATIENCE, || (server.issuer.asked().len() > asked).then_some(()));
        drop(connection);
        self.gateway.deserted();
    }

    /// `browser` at the server to which `page` sends it: what that says.
    fn sent(browser: &mut Browser, page: &Page) -> Page {
        let sent = browser.press_only(page);
        browser.look(sent.answer.header("location").unwrap())
    }

    /// What the journal says of pages: how each visit came out, and whose it was.
    #[track_caller]
    fn told(&self, expected: &[(&str, Option<&str>)]) {
        let records = self.gateway.recorded("connect", expected.len());
        let told = |record: &Value| (record["connect"]["outcome"].clone(), record["user"]["subject"].clone());
        let expected: Vec<(Value, Value)> = expected.iter().map(|(how, whose)| (json!(how), json!(whose))).collect();
        assert_eq!(records.iter().map(told).collect::<Vec<_>>(), expected);
    }
}

/// What a user agreed to at the upstream's server is theirs, whether or not they wait for the page that says so; the end of
/// the process waits for it, too.
#[test]
fn an_account_is_connected_though_the_page_was_closed() {
    let mut ground = Ground::keeping("connect-closed", |setup| setup);
    let (url, mut alice) = (ground.page("alice"), Browser::of("alice"));
    let asked = ground.logged_in(&mut alice, &url);
    let back = Ground::sent(&mut alice, &asked);
    ground.closes(&alice, &back, &ground.server);
    ground.gateway.process.terminate();
    place::wait_for("the end to begin", place::PATIENCE, || (ground.gateway.readiness() == 503).then_some(()));
    ground.server.plays.gone.store(1, Ordering::Release);
    assert_eq!(ground.gateway.process.wait(place::DISK_PATIENCE).code(), Some(0));
    ground.told(&[("connected", Some("alice"))]);
    ground.gateway = ground.gateway.again();
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200);
    assert_eq!(ground.shown(), ["Bearer account-alice-0"]);
    assert!(ground.server.plays.revoked.lock().is_empty());
}

#[test]
fn of_an_account_that_cannot_be_kept_nothing_is_left_at_its_server_though_the_page_was_closed() {
    let ground = Ground::keeping("connect-closed-unkept", |setup| setup);
    let (url, mut alice) = (ground.page("alice"), Browser::of("alice"));
    let asked = ground.logged_in(&mut alice, &url);
    let back = Ground::sent(&mut alice, &asked);
    ground.has_room("user_grant", false);
    ground.closes(&alice, &back, &ground.server);
    ground.server.plays.gone.store(1, Ordering::Release);
    place::wait_for("its server is told", place::PATIENCE, || {
        (*ground.server.plays.revoked.lock() == ["refresh-alice-0"]).then_some(())
    });
    ground.told(&[("connected", Some("alice")), ("unavailable", Some("alice"))]);
    ground.has_room("user_grant", true);
    ground.connect("alice");
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200);
    assert_eq!(ground.server.plays.revoked.lock().len(), 1);
}

/// A login may itself be what is missing: an assertion is made from what it leaves.
#[test]
fn of_a_login_that_cannot_be_kept_nothing_is_left_at_its_provider() {
    let upstream = Recorder::good(Era::Modern);
    let ground = Ground::keeping("connect-unkept-login", |setup| setup);
    let client = |id: &str| format!("{{ id = \"{id}\", secret = {{ env = \"GATEWAY_SECRET\" }} }}");
    let grant = format!(
        "\n[upstreams.hr]\nurl = \"{at}\"\ngrant = {{ strategy = \"id_jag\", subject = \"refresh_token\", \
         token_endpoint = \"{}/token\", client = {}, issuer = \"{}\", issuer_client = {}, resource = \"{at}\" }}\n\
         discovery = {{ strategy = \"none\" }}\n",
        ground.login.url(),
        client("pages"),
        ground.server.url(),
        client("gateway"),
        at = upstream.url(),
    );
    ground.gateway.reconfigure(|text| format!("{text}{grant}"));
    let visit = |user: &str| {
        let caller = ground.gateway.client_of(Some("hr"), &ground.login.issuer, user).awaiting("echo");
        let answer = caller.call("echo", &json!({}));
        let url = answer.json()["error"]["data"]["elicitations"][0]["url"].clone();
        let mut browser = Browser::of(user);
        let first = browser.get(url.as_str().unwrap_or_else(|| panic!("{}", answer.text())));
        (browser, first)
    };
    ground.has_room("login", false);
    let (mut alice, first) = visit("alice");
    let unkept = alice.press(&first);
    assert_eq!(unkept.answer.status(), 502, "{}", unkept.answer.text());
    assert_eq!(*ground.login.plays.revoked.lock(), ["refresh-alice-0"], "before the page says so");
    ground.told(&[("logged_in", Some("alice")), ("unavailable", Some("alice"))]);

    // The same where nobody waits for the page.
    let (mut bob, first) = visit("bob");
    let back = Ground::sent(&mut bob, &first);
    ground.closes(&bob, &back, &ground.login);
    ground.login.plays.gone.store(1, Ordering::Release);
    place::wait_for("the provider is told", place::PATIENCE, || {
        (ground.login.plays.revoked.lock().len() == 2).then_some(())
    });
    let logins = [("logged_in", Some("bob")), ("unavailable", Some("bob"))];
    ground.told(&[[("logged_in", Some("alice")), ("unavailable", Some("alice"))], logins].concat());
    ground.has_room("login", true);
    let (mut alice, first) = visit("alice");
    assert!(alice.press(&first).answer.text().contains("<h1>Connected</h1>"));
    assert_eq!(*ground.login.plays.revoked.lock(), ["refresh-alice-0", "refresh-bob-1"]);
}

#[test]
fn one_address_opens_so_many_pages_and_one_user_is_sent_to_so_many() {
    let ground = Ground::with("connect-rates", |setup| setup.section("[limits]\nconnect_per_min = 8"));
    let origin = ground.gateway.setup().origin();
    let pages = ["connect/crm?ticket=x", "connecting/login?state=x", "connecting/callback/crm?state=x"];
    let ask = |turn: usize| {
        let url = format!("{origin}/{}", pages[turn % pages.len()]);
        fetch_from(ELSEWHERE, "GET", &url, &[], b"")
    };
    // While they are asked for, there is room for another each 7.5 s.
    let most = |began: std::time::Instant| 8 + (began.elapsed().as_millis() / 7_500) as usize;
    let mut told = 0;
    let began = std::time::Instant::now();
    let over = loop {
        let answer = ask(told);
        if answer.status() != 404 {
            break answer;
        }
        told += 1;
        assert!(told <= most(began), "{told} pages in {:?}", began.elapsed());
    };
    assert!(told >= 8 && over.status() == 429, "after {told}: {}", over.text());
    assert!(over.text().contains("a rate ceiling is reached"), "{}", over.text());
    let wait: u64 = over.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=8).contains(&wait), "{wait}");
    // Whoever comes from elsewhere gets where they were going: five pages.
    ground.connect("alice");
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200);

    let bob = ground.client("bob");
    let mut sent = 0;
    let began = std::time::Instant::now();
    let over = loop {
        let refusal = refused(&bob.call("echo", &json!({})));
        if refusal != (403, 40317, "connect_required".to_owned()) {
            break refusal;
        }
        sent += 1;
        assert!(sent <= most(began), "{sent} in {:?}", began.elapsed());
    };
    assert_eq!((sent >= 8, over), (true, (429, 42901, "ceiling_reached".to_owned())), "after {sent}");
    ground.page("carol");
    assert_eq!(ground.client("alice").call("echo", &json!({})).status(), 200, "who has an account needs no page");
    let refusals = ground.gateway.recorded("refusal", sent + 2);
    let reached = |record: &&Value| record["refused"]["code"] == "ceiling_reached";
    let record = refusals.iter().find(reached).unwrap();
    assert_eq!(
        (&record["user"]["subject"], &record["ceilings"]),
        (&json!("bob"), &json!(["connect.user"])),
        "{record}"
    );
    place::wait_for("the strangers' refusals", place::PATIENCE, || {
        let journal = ground.gateway.journal();
        let mut sources = journal.iter().filter_map(|record| record["refusals"]["sources"].as_array()).flatten();
        let stranger = |source: &&Value| source["code"] == "ceiling_reached" && source["peer"] == ELSEWHERE.to_string();
        sources.find(stranger).map(drop)
    });
}
