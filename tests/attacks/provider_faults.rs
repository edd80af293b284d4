//! Each place at a provider that the gateway asks, in each way in which a provider can be no help: what was had before goes
//! on without it, what is lacking gets one clear answer in bounded time, a provider in trouble is not asked in a storm, and
//! all is well again when it is (I8).

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use super::{SOON, code, quickly, recorded_refusal};
use crate::harness::{
    browser::Browser,
    fault::{Fault, INSIDE, Troubled},
    gateway::{Gateway, Setup},
    http::Answer,
    issuer::{Issuer, now},
    mcp::Client,
    place,
    recorder::{Era, Recorder, Reply, Seen},
};

/// What the calls of a test come to.
struct Trial<'a> {
    providers: &'a [Troubled],
    gateway: &'a Gateway,
    upstream: &'a Recorder,
    /// A call for which the provider of this index gave all that is needed before it broke.
    kept: Option<&'a (dyn Fn(usize) -> Answer + Sync)>,
    /// For how long that is good.
    kept_for: Duration,
    /// A call that needs something of it, [`NEEDY`] in its arguments; the second time once it is well again.
    needy: &'a (dyn Fn(usize, bool) -> Answer + Sync),
    /// What is answered to that.
    refused: fn(Fault) -> (u16, &'static str),
    /// Requests that it takes to learn that there is nothing to be had.
    requests: usize,
    /// Whether it is asked now and then whoever calls.
    in_background: bool,
}

/// Who waits for a provider in trouble waits for longer.
const UNASKED: Duration = Duration::from_secs(4);

/// By then everybody has an answer: it takes ten seconds at the most, and what a busy machine adds.
const ANSWERED: Duration = Duration::from_secs(30);

const NEEDY: &str = "needs the provider";
const KEPT: &str = "needs nobody";

impl Trial<'_> {
    #[track_caller]
    fn endure(&self) {
        let (each, began) = (|| 0..self.providers.len(), Instant::now());
        if let Some(kept) = self.kept {
            each().for_each(|index| self.served(&kept(index), index));
        }
        self.providers.iter().for_each(Troubled::breaks);
        thread::scope(|scope| each().for_each(|index| drop(scope.spawn(move || self.in_trouble(index, began)))));
        let needy = |seen: &Seen| seen.json()["params"]["arguments"]["message"] == NEEDY;
        let reached: Vec<Seen> = self.upstream.seen_method("tools/call").into_iter().filter(needy).collect();
        assert!(reached.is_empty(), "reached the upstream: {reached:?}");

        self.providers.iter().for_each(Troubled::heals);
        for index in each() {
            let well = || ((self.needy)(index, true).status() == 200).then_some(());
            place::wait_for(&format!("{:?} over", self.providers[index].fault), SOON, well);
        }
    }

    #[track_caller]
    fn served(&self, answer: &Answer, index: usize) {
        assert_eq!(answer.status(), 200, "{:?}: {}", self.providers[index].fault, answer.text());
    }

    /// What is kept is kept since `since`, or later.
    fn in_trouble(&self, index: usize, since: Instant) {
        let provider = &self.providers[index];
        let (fault, asked) = (provider.fault, provider.asked());
        let untouched = || {
            let Some(kept) = self.kept.filter(|_| since.elapsed() < self.kept_for) else { return };
            let before = provider.asked();
            quickly(UNASKED, || self.served(&kept(index), index));
            let asked = if self.in_background { 0 } else { provider.asked() - before };
            assert_eq!(asked, 0, "{fault:?}: asked for what was there");
        };
        untouched();
        let began = Instant::now();
        thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| self.turned_away(index)))));
        (0..2).for_each(|_| self.turned_away(index));
        let most = self.requests * (2 + began.elapsed().as_secs() as usize);
        let requests = provider.asked() - asked;
        assert!(requests <= most, "{fault:?}: asked {requests} times, not {most} at the most");
        untouched();
    }

    fn turned_away(&self, index: usize) {
        let (fault, began) = (self.providers[index].fault, Instant::now());
        let answer = (self.needy)(index, false);
        let (status, refused) = (self.refused)(fault);
        assert_eq!((answer.status(), code(&answer).as_str()), (status, refused), "{fault:?}: {}", answer.text());
        assert!(began.elapsed() < ANSWERED, "{fault:?}: {:?}", began.elapsed());
        assert!(!answer.text().contains(INSIDE), "{fault:?}: {}", answer.text());
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{fault:?}");
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{fault:?}");
    }

    /// Each upstream's refusals are in the journal as what they are.
    #[track_caller]
    fn recorded(&self, code: &str) {
        for index in 0..self.providers.len() {
            place::wait_for(&format!("a record of {:?}", self.providers[index].fault), SOON, || {
                let mut journal = self.gateway.journal().into_iter();
                let of = |record: &Value| {
                    record["refused"]["code"] == code && record["target"]["upstream"] == format!("up{index}")
                };
                journal.any(|record| of(&record)).then_some(())
            });
        }
    }
}

fn call(client: &Client, message: &str) -> Answer {
    client.call("echo", &json!({ "message": message }))
}

/// Nobody is to follow a provider there.
fn elsewhere() -> Recorder {
    Recorder::serving(|_| Reply::status(200))
}

#[track_caller]
fn nobody_came(elsewhere: &Recorder) {
    assert!(elsewhere.seen().is_empty(), "a redirect was followed: {:?}", elsewhere.seen());
}

fn at_keys(seen: &Seen) -> bool {
    seen.path == "/jwks"
}

fn at_metadata(seen: &Seen) -> bool {
    seen.path.starts_with("/.well-known/")
}

fn no_keys(_: &Seen) -> Reply {
    Reply::json(200, &json!({ "keys": [] }))
}

fn metadata_of_another(seen: &Seen) -> Reply {
    let origin = format!("http://{}", seen.header("host").unwrap_or_default());
    let at = |path: &str| format!("{origin}{path}");
    let profiles = ["urn:ietf:params:oauth:grant-profile:id-jag"];
    Reply::json(
        200,
        &json!({
            "issuer": "https://evil.example", "jwks_uri": at("/jwks"), "token_endpoint": at("/token"),
            "authorization_endpoint": at("/auth"), "authorization_grant_profiles_supported": profiles,
        }),
    )
}

fn unverifiable(_: Fault) -> (u16, &'static str) {
    (503, "identity_unavailable")
}

/// Issuers whose keys were read: old ones go on, and of a new one nobody is told that its token is bad.
fn keys_were_read(name: &str, at: fn(&Seen) -> bool, lie: fn(&Seen) -> Reply) {
    let (good, upstream, elsewhere) = (Issuer::good(), Recorder::good(Era::Modern), elsewhere());
    let providers = Troubled::each(|_| None, at, lie, &elsewhere);
    let setup = providers.iter().fold(Setup::usual(name, &good), |setup, one| setup.issuer(&one.issuer.url()));
    let gateway = setup.open_upstream("up", &upstream.url()).start();
    gateway.client_of(Some("up"), &good, "settler").awaiting("echo");
    let endpoint = gateway.endpoint(Some("up"));
    // Each good for one call: what is kept is the key, not the verification.
    let signed = |one: &Troubled| (0..7).map(|turn| one.issuer.token(&format!("kept-{turn}"), &endpoint)).collect();
    let kept: Vec<(AtomicUsize, Vec<String>)> =
        providers.iter().map(|one| (AtomicUsize::new(0), signed(one))).collect();
    providers.iter().for_each(|one| one.issuer.rotate());
    let needy: Vec<String> = providers.iter().map(|one| one.issuer.token("needy", &endpoint)).collect();
    // The keys that were read are the older ones.
    let was_read = |one: &Troubled| one.issuer.recorder().seen_path("/jwks").len() == 1;
    assert!(providers.iter().all(was_read), "the keys were read again before the trouble");
    let client = |token: &str| gateway.client(Some("up")).token(token);
    let next = |index: usize| {
        let (turn, tokens) = &kept[index];
        call(&client(&tokens[turn.fetch_add(1, Ordering::AcqRel)]), KEPT)
    };
    let trial = Trial {
        providers: &providers,
        gateway: &gateway,
        upstream: &upstream,
        kept: Some(&next),
        kept_for: Duration::MAX,
        needy: &|index, _| call(&client(&needy[index]), NEEDY),
        refused: unverifiable,
        requests: 3,
        in_background: true,
    };
    trial.endure();
    recorded_refusal(&gateway, "identity_unavailable");
    nobody_came(&elsewhere);
}

#[test]
fn keys_that_were_read_serve_while_the_key_set_is_in_trouble() {
    keys_were_read("faults-keys", at_keys, no_keys);
}

#[test]
fn keys_that_were_read_serve_while_the_issuers_metadata_are_in_trouble() {
    keys_were_read("faults-metadata", at_metadata, metadata_of_another);
}

/// Issuers that were never well: their callers wait for them, and those of others do not.
#[test]
fn keys_that_were_never_read_are_said_to_be_missing_and_are_found_later() {
    for (name, at, lie) in [
        ("faults-keys-cold", at_keys as fn(&Seen) -> bool, no_keys as fn(&Seen) -> Reply),
        ("faults-metadata-cold", at_metadata, metadata_of_another),
    ] {
        let (good, upstream, elsewhere) = (Issuer::good(), Recorder::good(Era::Modern), elsewhere());
        let providers = Troubled::each(|_| None, at, lie, &elsewhere);
        providers.iter().for_each(Troubled::breaks);
        let setup = providers.iter().fold(Setup::usual(name, &good), |setup, one| setup.issuer(&one.issuer.url()));
        let gateway = setup.open_upstream("up", &upstream.url()).start();
        gateway.client_of(Some("up"), &good, "settler").awaiting("echo");
        let endpoint = gateway.endpoint(Some("up"));
        let tokens: Vec<String> = providers.iter().map(|one| one.issuer.token("needy", &endpoint)).collect();
        let trial = Trial {
            providers: &providers,
            gateway: &gateway,
            upstream: &upstream,
            kept: None,
            kept_for: Duration::MAX,
            needy: &|index, _| call(&gateway.client(Some("up")).token(&tokens[index]), NEEDY),
            refused: unverifiable,
            requests: 3,
            in_background: true,
        };
        trial.endure();
        recorded_refusal(&gateway, "identity_unavailable");
        nobody_came(&elsewhere);
    }
}

#[test]
fn what_an_issuer_said_of_a_token_serves_while_its_introspection_is_in_trouble() {
    let (good, upstream, elsewhere) = (Issuer::good(), Recorder::good(Era::Modern), elsewhere());
    let at = |seen: &Seen| seen.path == "/introspect";
    let lie = |_: &Seen| Reply::json(200, &json!({ "active": true, "iss": "https://evil.example", "sub": "needy" }));
    let providers = Troubled::each(|_| None, at, lie, &elsewhere);
    let setup = providers.iter().fold(Setup::usual("faults-introspection", &good), |setup, one| {
        let url = one.issuer.url();
        setup.introspecting(&url, &format!("{url}/introspect"), "tokens = [\"jwt\"], cache_s = 30")
    });
    let gateway = setup.open_upstream("up", &upstream.url()).start();
    gateway.client_of(Some("up"), &good, "settler").awaiting("echo");
    let endpoint = gateway.endpoint(Some("up"));
    let tokens = |user: &str| -> Vec<Client> {
        let token = |one: &Troubled| gateway.client(Some("up")).token(&one.issuer.token(user, &endpoint));
        providers.iter().map(token).collect()
    };
    let (kept, needy, later) = (tokens("kept"), tokens("needy"), tokens("later"));
    let trial = Trial {
        providers: &providers,
        gateway: &gateway,
        upstream: &upstream,
        kept: Some(&|index| call(&kept[index], KEPT)),
        kept_for: Duration::from_secs(25),
        // What an issuer says of a token, and be it a lie, is its word for a while.
        needy: &|index, well| call(if well { &later[index] } else { &needy[index] }, NEEDY),
        refused: |fault| if fault == Fault::Lies { (401, "token_invalid") } else { unverifiable(fault) },
        requests: 1,
        in_background: false,
    };
    trial.endure();
    recorded_refusal(&gateway, "identity_unavailable");
    recorded_refusal(&gateway, "token_invalid");
    nobody_came(&elsewhere);
}

/// A gateway with an upstream `up{index}` for each provider, all of them at one server, set up as `lines` says.
fn upstreams(
    name: &str,
    home: &Issuer,
    upstream: &Recorder,
    providers: &[Troubled],
    lines: impl Fn(&Troubled) -> String,
) -> Gateway {
    let mut setup = Setup::usual(name, home).environment("GATEWAY_SECRET", "gateway-secret");
    for (index, one) in providers.iter().enumerate() {
        setup = setup.upstream(&format!("up{index}"), &upstream.url(), &lines(one));
    }
    setup.start()
}

const CLIENT: &str = "{ id = \"gateway\", secret = { env = \"GATEWAY_SECRET\" } }";

fn ungranted(_: Fault) -> (u16, &'static str) {
    (502, "grant_unavailable")
}

fn clients_of(gateway: &Gateway, home: &Issuer, user: &str, count: usize) -> Vec<Client> {
    let of = |index: usize| gateway.client_of(Some(&format!("up{index}")), home, user).awaiting("echo");
    (0..count).map(of).collect()
}

#[test]
fn an_exchanged_credential_serves_while_the_token_endpoint_is_in_trouble() {
    let (home, upstream, elsewhere) = (Issuer::good(), Recorder::good(Era::Modern), elsewhere());
    let at = |seen: &Seen| seen.field("subject_token").is_some();
    let lie = |seen: &Seen| {
        let token = seen.field("subject_token").unwrap();
        let issued = "urn:ietf:params:oauth:token-type:access_token";
        let answer = json!({ "access_token": token, "token_type": "Bearer", "issued_token_type": issued });
        Reply::json(200, &answer)
    };
    let providers = Troubled::each(|_| None, at, lie, &elsewhere);
    let gateway = upstreams("faults-exchange", &home, &upstream, &providers, |one| {
        let endpoint = format!("token_endpoint = \"{}/token\", resource = \"{}\"", one.issuer.url(), upstream.url());
        format!("grant = {{ strategy = \"exchange\", {endpoint}, client = {CLIENT} }}")
    });
    let (kept, needy) =
        (clients_of(&gateway, &home, "kept", providers.len()), clients_of(&gateway, &home, "needy", providers.len()));
    grants_endure(&providers, (&gateway, &upstream), (&kept, &needy));
    nobody_came(&elsewhere);
}

/// Calls for which there is a credential, and calls that need one, while what gives credentials is in trouble.
fn grants_endure(
    providers: &[Troubled],
    (gateway, upstream): (&Gateway, &Recorder),
    (kept, needy): (&[Client], &[Client]),
) {
    let trial = Trial {
        providers,
        gateway,
        upstream,
        kept: Some(&|index| call(&kept[index], KEPT)),
        kept_for: Duration::from_secs(240),
        needy: &|index, _| call(&needy[index], NEEDY),
        refused: ungranted,
        requests: 1,
        in_background: false,
    };
    trial.endure();
    trial.recorded("grant_unavailable");
}

/// An assertion as the home's provider makes it (not signed: whoever redeems it judges that).
fn asserting(seen: &Seen) -> Option<Reply> {
    let kind = "urn:ietf:params:oauth:token-type:id-jag";
    (seen.field("requested_token_type")? == kind).then(|| {
        let claims = json!({
            "iss": "home", "sub": "somebody", "aud": seen.field("audience"), "client_id": "gateway",
            "resource": seen.field("resource"), "jti": uuid::Uuid::new_v4().to_string(), "exp": now() + 300,
        });
        let assertion = format!("e30.{}.c2ln", BASE64URL.encode(claims.to_string()));
        let answer =
            json!({ "access_token": assertion, "issued_token_type": kind, "token_type": "N_A", "expires_in": 300 });
        Reply::json(200, &answer)
    })
}

/// A server of another domain, which redeems assertions.
fn redeeming(seen: &Seen) -> Option<Reply> {
    let origin = format!("http://{}", seen.header("host").unwrap_or_default());
    let profiles = ["urn:ietf:params:oauth:grant-profile:id-jag"];
    let metadata = json!({
        "issuer": origin, "token_endpoint": format!("{origin}/token"), "authorization_grant_profiles_supported": profiles,
    });
    at_metadata(seen).then(|| Reply::json(200, &metadata))
}

fn asserted(home: &Issuer, server: &Troubled, upstream: &Recorder) -> String {
    let (home, server, resource) = (home.url(), server.issuer.url(), upstream.url());
    format!(
        "grant = {{ strategy = \"id_jag\", subject = \"access_token\", token_endpoint = \"{home}/token\", client = {CLIENT}, \
         issuer = \"{server}\", issuer_client = {CLIENT}, resource = \"{resource}\", scopes = [] }}\n\
         discovery = {{ strategy = \"none\" }}"
    )
}

#[test]
fn a_redeemed_assertion_serves_while_the_other_domain_is_in_trouble() {
    let (home, upstream, elsewhere) = (Issuer::scripted(asserting), Recorder::good(Era::Modern), elsewhere());
    let at = |seen: &Seen| seen.path == "/token";
    let lie = |seen: &Seen| {
        Reply::json(200, &json!({ "access_token": seen.field("assertion").unwrap(), "token_type": "Bearer" }))
    };
    let servers = Troubled::each(redeeming, at, lie, &elsewhere);
    let gateway =
        upstreams("faults-redemption", &home, &upstream, &servers, |server| asserted(&home, server, &upstream));
    let (kept, needy) =
        (clients_of(&gateway, &home, "kept", servers.len()), clients_of(&gateway, &home, "needy", servers.len()));
    grants_endure(&servers, (&gateway, &upstream), (&kept, &needy));
    nobody_came(&elsewhere);
}

#[test]
fn metadata_of_the_other_domain_are_needed_once_and_serve_while_they_are_in_trouble() {
    let (home, upstream, elsewhere) = (Issuer::scripted(asserting), Recorder::good(Era::Modern), elsewhere());
    let servers = Troubled::each(redeeming, at_metadata, metadata_of_another, &elsewhere);
    // From before the gateway's start: it looks then whether they take assertions.
    servers.iter().for_each(Troubled::breaks);
    let gateway =
        upstreams("faults-other-metadata", &home, &upstream, &servers, |server| asserted(&home, server, &upstream));
    let needy = clients_of(&gateway, &home, "needy", servers.len());
    let trial = Trial {
        providers: &servers,
        gateway: &gateway,
        upstream: &upstream,
        kept: None,
        kept_for: Duration::MAX,
        needy: &|index, _| call(&needy[index], NEEDY),
        refused: ungranted,
        requests: 2,
        in_background: false,
    };
    trial.endure();
    trial.recorded("grant_unavailable");
    // Now they are known, for whoever comes next.
    for (index, server) in servers.iter().enumerate().filter(|(_, server)| server.fault != Fault::Away) {
        server.breaks();
        let next = gateway.client_of(Some(&format!("up{index}")), &home, "next");
        let (before, answer) = (server.asked(), call(&next, KEPT));
        assert_eq!((answer.status(), server.asked()), (200, before), "{:?}: {}", server.fault, answer.text());
    }
    nobody_came(&elsewhere);
}

/// What accounts are connected at: the tokens of `kept` live for ten minutes, and those of anybody else for seconds.
fn granting(seen: &Seen) -> Option<Reply> {
    let given = |life: u64| {
        let token = |kind: &str| format!("{kind}-{}", uuid::Uuid::new_v4());
        let answer = json!({
            "access_token": token("account"), "refresh_token": token("refresh"), "token_type": "Bearer", "expires_in": life,
        });
        Some(Reply::json(200, &answer))
    };
    match seen.field("grant_type")?.as_str() {
        "authorization_code" => {
            let asked: Value = serde_json::from_slice(&BASE64URL.decode(seen.field("code")?).ok()?).ok()?;
            given(if asked["login_hint"] == "kept" { 600 } else { ACCOUNT_LIFE_S })
        }
        "refresh_token" => given(600),
        _ => None,
    }
}

const ACCOUNT_LIFE_S: u64 = 10;

fn refreshes(seen: &Seen) -> bool {
    seen.field("grant_type").as_deref() == Some("refresh_token")
}

fn refresh_token_handed_back(seen: &Seen) -> Reply {
    Reply::json(200, &json!({ "access_token": seen.field("refresh_token").unwrap(), "token_type": "Bearer" }))
}

fn accounts(name: &str, home: &Issuer, upstream: &Recorder, servers: &[Troubled]) -> Gateway {
    let mut setup = Setup::usual(name, home)
        .environment("GATEWAY_SECRET", "gateway-secret")
        .section(&format!("[[logins]]\nissuer = \"{}\"\nclient = {CLIENT}", home.url()));
    for (index, server) in servers.iter().enumerate() {
        let at = format!("issuer = \"{}\", resource = \"{}\"", server.issuer.url(), upstream.url());
        let grant = format!("grant = {{ strategy = \"user_grant\", {at}, client = {CLIENT} }}");
        let id = format!("up{index}");
        setup = setup.upstream(&id, &upstream.url(), &format!("{grant}\ndiscovery = {{ strategy = \"none\" }}"));
    }
    setup.start()
}

/// Connects an account of `user`, as the page says that a call names.
#[track_caller]
fn connect(client: &Client, user: &str) {
    let named = client.call("echo", &json!({}));
    let url = named.json()["error"]["data"]["elicitations"][0]["url"].clone();
    let mut browser = Browser::of(user);
    let first = browser.get(url.as_str().unwrap_or_else(|| panic!("no page: {}", named.text())));
    let asked = browser.press(&first);
    let done = browser.press(&asked);
    assert!(done.answer.text().contains("<h1>Connected</h1>"), "{} {}", done.at, done.answer.text());
}

#[test]
fn an_account_serves_until_its_token_ends_while_its_server_is_in_trouble() {
    let (home, upstream, elsewhere) = (Issuer::good(), Recorder::good(Era::Modern), elsewhere());
    let mut servers = Troubled::each(granting, refreshes, refresh_token_handed_back, &elsewhere);
    // The pages of one address are few; the endpoint is read as the one of an exchange is.
    let some = [Fault::Away, Fault::Hangs, Fault::Status500, Fault::Html, Fault::Lies];
    servers.retain(|server| some.contains(&server.fault));
    let gateway = accounts("faults-refresh", &home, &upstream, &servers);
    let (kept, needy) =
        (clients_of(&gateway, &home, "kept", servers.len()), clients_of(&gateway, &home, "needy", servers.len()));
    for index in 0..servers.len() {
        connect(&kept[index], "kept");
        connect(&needy[index], "needy");
    }
    thread::sleep(Duration::from_secs(ACCOUNT_LIFE_S + 1)); // there is nothing to be seen of a token that ends
    grants_endure(&servers, (&gateway, &upstream), (&kept, &needy));
    nobody_came(&elsewhere);
}

/// A token that should be renewed, and cannot be, is good as long as it is; and not a moment longer.
#[test]
fn what_is_left_of_an_accounts_token_is_used_while_it_cannot_be_renewed() {
    let (home, upstream, elsewhere) = (Issuer::good(), Recorder::good(Era::Modern), elsewhere());
    let mut servers = Troubled::each(granting, refreshes, refresh_token_handed_back, &elsewhere);
    servers.retain(|server| [Fault::Away, Fault::Status500, Fault::Html].contains(&server.fault));
    let gateway = accounts("faults-renewal", &home, &upstream, &servers);
    let clients = clients_of(&gateway, &home, "needy", servers.len());
    thread::scope(|scope| {
        for (server, client) in servers.iter().zip(&clients) {
            scope.spawn(move || {
                connect(client, "needy");
                let life = Duration::from_secs(ACCOUNT_LIFE_S);
                let ends = server.issuer.asked().last().unwrap().at + life;
                server.breaks();
                let (mut served, mut served_late) = (0, 0);
                let refused = place::wait_for("the end of the token", SOON, || {
                    thread::sleep(Duration::from_millis(100));
                    let is_late = Instant::now() > ends - life / 2;
                    let answer = call(client, KEPT);
                    let is_served = answer.status() == 200;
                    served += usize::from(is_served);
                    served_late += usize::from(is_served && is_late);
                    (!is_served).then_some(answer)
                });
                assert_eq!((refused.status(), code(&refused).as_str()), (502, "grant_unavailable"));
                let early = ends.saturating_duration_since(Instant::now());
                assert!(early < Duration::from_secs(2), "{:?}: {early:?} before the end", server.fault);
                // It is to be renewed from the half of such a short life on.
                assert!(served_late > 0 && served > 2, "{:?}: served {served} times, {served_late} late", server.fault);
                assert!(server.asked() <= 16, "{:?}: asked {} times", server.fault, server.asked());
                assert!(server.fault == Fault::Away || server.asked() > 0, "{:?}", server.fault);
                server.heals();
                place::wait_for("the renewal", SOON, || (call(client, KEPT).status() == 200).then_some(()));
            });
        }
    });
    nobody_came(&elsewhere);
}
