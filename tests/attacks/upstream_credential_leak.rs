//! What is the gateway's own, on its way down: the credential that it minted, what the provider or an upstream said about
//! it, where they live (I3).

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Ground, SOON, code};
use crate::{
    harness::{
        gateway::Setup,
        http::Answer,
        issuer::Issuer,
        place,
        recorder::{Era, Recorder, Reply, Seen, Step},
    },
    request::input::{call, capabilities, form, request},
};

/// Something that only the inside knows.
const INSIDE: &str = "db-7.internal.example";

fn script(seen: &Seen) -> Option<Reply> {
    let call = seen.json();
    let credential = seen.header("authorization").unwrap_or("none");
    let bare = credential.strip_prefix("Bearer ").unwrap_or(credential);
    let result = |text: &str| json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }] });
    let page = format!("<h1>{INSIDE}</h1><p>{credential}</p>");
    Some(match call["params"]["arguments"]["mode"].as_str()? {
        "headers" => Reply::result(seen, &result("fine"))
            .header("set-cookie", "session=cookie-of-the-upstream")
            .header("www-authenticate", "Bearer realm=\"realm-of-the-upstream\"")
            .header("x-powered-by", INSIDE)
            .header("server", INSIDE)
            .header("authorization", credential)
            .header("mcp-session-id", "session-of-the-upstream")
            .header("access-control-allow-origin", "*")
            .header("location", "http://db-7.internal.example/")
            .header("alt-svc", "h2=\"evil.example:443\"")
            .header("strict-transport-security", "max-age=0"),
        "401" => Reply::text(401, "text/html", page).header(
            "www-authenticate",
            "Bearer realm=\"realm-of-the-upstream\", resource_metadata=\"http://db-7.internal.example/\"",
        ),
        "403" => Reply::text(403, "text/html", page)
            .header("www-authenticate", "Bearer error=\"insufficient_scope\", scope=\"realm-of-the-upstream\""),
        "407" => {
            Reply::text(407, "text/html", page).header("proxy-authenticate", "Basic realm=\"realm-of-the-upstream\"")
        }
        "500" => Reply::text(500, "text/html", page),
        "200" => Reply::text(200, "text/html", page),
        "broken" => Reply::text(200, "application/json", format!("{{\"{credential}\": {INSIDE}")),
        "cut" => Reply::status(200)
            .header("content-type", "application/json")
            .step(Step::Bytes(format!("{{\"{INSIDE}").into()))
            .step(Step::Cut),
        "late" => Reply::status(200).after(Duration::from_secs(60)),
        "echo" => Reply::result(seen, &result(&format!("you sent {credential}"))),
        "echo in an event" => Reply::events(&[json!({ "jsonrpc": "2.0", "id": call["id"], "result": result(bare) })]),
        "echo in an error" => Reply::error(seen, 200, 7, &format!("bad token {bare}")),
        "echo as progress" => {
            let token = &call["params"]["_meta"]["progressToken"];
            let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progressToken": token, "progress": 1, "message": bare } });
            Reply::events(&[progress, json!({ "jsonrpc": "2.0", "id": call["id"], "result": result("fine") })])
        }
        _ => return None,
    })
}

fn setup(name: &str) -> Ground {
    Ground::before(name, Recorder::scripted(Era::Modern, script), |setup, issuer, up| {
        setup
            .exchanged_upstream("up", &up.url(), &issuer.url(), "")
            .section("[[upstreams.up.tools]]\nmatch = \"add\"\ntimeout_ms = 1500")
    })
}

/// Everything that came back, headers too.
fn all(answer: &Answer) -> String {
    format!("{:?} {}", answer.head, answer.text())
}

/// Every credential that the upstream was shown.
fn shown(ground: &Ground) -> Vec<String> {
    let seen = ground.upstream.seen_method("tools/call");
    let tokens = seen.iter().filter_map(|seen| Some(seen.header("authorization")?.strip_prefix("Bearer ")?.to_owned()));
    tokens.collect()
}

#[test]
fn what_an_upstream_says_about_itself_stays_inside() {
    let ground = setup("leak-inside");
    let client = ground.client("alice");
    for (mode, expected) in [
        ("headers", ""),
        ("401", "upstream_unauthorized"),
        ("403", "upstream_scope_missing"),
        ("407", "upstream_invalid"),
        ("500", "upstream_invalid"),
        ("200", "upstream_invalid"),
        ("broken", "upstream_invalid"),
        ("cut", "upstream_lost"),
        ("late", "upstream_timeout"),
    ] {
        // One of them has little time.
        let answer = client.call(if mode == "late" { "add" } else { "echo" }, &json!({ "mode": mode }));
        let text = all(&answer);
        assert_eq!(code(&answer), expected, "{mode}: {text}");
        for secret in [
            INSIDE,
            "of-the-upstream",
            "alt-svc",
            "strict-transport-security",
            "set-cookie",
            "www-authenticate",
            "proxy-authenticate",
        ] {
            assert!(!text.contains(secret), "{mode}: {secret}: {text}");
        }
        let port = ground.upstream.origin().rsplit(':').next().unwrap().to_owned();
        assert!(!text.contains(&format!(":{port}")), "{mode}: {text}");
        for token in shown(&ground) {
            assert!(!text.contains(&token), "{mode}: {text}");
        }
    }
    assert!(!shown(&ground).is_empty());
    // A credential that was refused is minted anew, once.
    let calls = ground.upstream.seen_method("tools/call");
    let refused = calls.iter().filter(|call| call.json()["params"]["arguments"]["mode"] == "401").count();
    assert_eq!(refused, 2);
    let record = place::wait_for("the outcome", SOON, || {
        ground.gateway.journal().into_iter().find(|record| record["result"]["code"] == "upstream_unauthorized")
    });
    assert_eq!(record["event"], "outcome");
    ground.good_call();
}

#[test]
fn minted_credential_does_not_come_down_in_any_part_of_an_answer() {
    let ground = setup("leak-echo");
    let client = ground.client("alice");
    for mode in ["echo", "echo in an event", "echo in an error", "echo as progress"] {
        let params = json!({ "name": "echo", "arguments": { "mode": mode }, "_meta": { "progressToken": "p" } });
        let answer = client.modern("tools/call", &params);
        let text = all(&answer);
        let tokens = shown(&ground);
        assert!(!tokens.is_empty());
        for token in tokens {
            assert!(!text.contains(&token), "{mode}: {text}");
            assert!(!text.contains(token.rsplit('.').next().unwrap()), "{mode}: {text}");
        }
    }
    ground.good_call();
}

#[test]
fn upstream_that_is_gone_is_said_without_saying_where_it_was() {
    let gone = Recorder::good(Era::Modern);
    let ground = Ground::before("leak-gone", Recorder::good(Era::Modern), |setup, _, up| {
        setup.open_upstream("up", &up.url()).upstream(
            "gone",
            &gone.url(),
            "era = \"modern\"\ngrant = { strategy = \"none\" }",
        )
    });
    let client = ground.gateway.client_of(Some("gone"), &ground.issuer, "alice");
    place::wait_for("the other upstream's tools", SOON, || {
        (client.call("echo", &json!({})).status() == 200).then_some(())
    });
    let address = gone.origin()[7..].to_owned();
    drop(gone);
    // The connection that was kept may still be there for a moment.
    let answer = place::wait_for("the upstream away", SOON, || {
        let answer = client.call("echo", &json!({}));
        (code(&answer) == "upstream_unreachable").then_some(answer)
    });
    assert_eq!(answer.status(), 502);
    assert!(!all(&answer).contains(&address), "{}", all(&answer));
    let outcome = place::wait_for("the outcome", SOON, || {
        ground.gateway.journal().into_iter().find(|record| record["result"]["code"] == "upstream_unreachable")
    });
    assert_eq!(outcome["result"]["ending"], "not_forwarded");
    ground.good_call();
}

#[test]
fn upstream_that_was_never_there_hides_nothing_of_the_others() {
    let closed = place::free_port();
    let (issuer, upstream) = (Issuer::good(), Recorder::good(Era::Modern));
    let setup = Setup::usual("leak-never", &issuer)
        .open_upstream("up", &upstream.url())
        .open_upstream("never", &format!("http://127.0.0.1:{closed}/mcp"));
    let ground = Ground { gateway: setup.start(), issuer, upstream };
    ground.settle();
    let never = ground.gateway.client_of(Some("never"), &ground.issuer, "alice").call("echo", &json!({}));
    assert_eq!((never.status(), code(&never).as_str()), (503, "catalogue_unavailable"), "{}", never.text());
    assert!(!all(&never).contains(&closed.to_string()));
    let listed = ground.gateway.client_of(None, &ground.issuer, "alice").modern("tools/list", &json!({}));
    assert_eq!(listed.status(), 200);
    assert_eq!(listed.json()["result"]["_meta"]["dev.tollgate/degraded"], json!(["never"]), "{}", listed.text());
    assert!(listed.text().contains("up__echo"));
    ground.good_call();
}

/// A call that is held goes on under the credential of the request that continues it; what it began under stays one.
#[test]
fn credential_that_a_held_call_began_under_does_not_come_down_either() {
    let answered = Arc::new(Mutex::new(false));
    let recorder = Recorder::scripted(Era::Legacy, move |seen| {
        let message = seen.json();
        if message["method"].is_null() && message["id"] == 7 {
            *answered.lock() = true;
            return Some(Reply::status(202));
        }
        if seen.rpc_method() != "tools/call" || message["params"]["arguments"]["mode"] != "echo at the end" {
            return None;
        }
        let (answered, id) = (Arc::clone(&answered), message["id"].clone());
        let content = json!([{ "type": "text", "text": seen.header("authorization").unwrap_or("none") }]);
        let end = Step::later(move || {
            let result = json!({ "jsonrpc": "2.0", "id": id, "result": { "content": content } });
            answered.lock().then(|| format!("data: {result}\n\n").into())
        });
        Some(Reply::stream().event(&request(json!(7), "elicitation/create", form())).step(end))
    });
    let ground = Ground::before("leak-held", recorder, |setup, issuer, up| {
        setup.exchanged_upstream("up", &up.url(), &issuer.url(), "")
    });
    let arguments = json!({ "mode": "echo at the end" });
    let asked = call(&ground.client("alice"), &capabilities(), json!({ "arguments": arguments })).json();
    let state = asked["result"]["requestState"].clone();
    let retry = json!({
        "arguments": arguments, "requestState": state, "inputResponses": { "ask-1": { "action": "decline" } },
    });
    // Another token, for which another credential is minted.
    let answer = call(&ground.client("alice"), &capabilities(), retry);
    let under = |wanted: &dyn Fn(&Value) -> bool| {
        let seen = ground.upstream.seen().into_iter().find(|seen| wanted(&seen.json())).unwrap();
        seen.header("authorization").unwrap().to_owned()
    };
    let (began, continued) =
        (under(&|message| message["method"] == "tools/call"), under(&|message| message["id"] == 7));
    assert_ne!(began, continued);
    assert_eq!(code(&answer), "upstream_invalid", "{}", answer.text());
    assert!(!answer.text().contains(began.strip_prefix("Bearer ").unwrap()));
}

/// What a server lists is shown to everybody; the credential that it was listed under is not.
#[test]
fn credential_that_a_list_repeats_is_published_to_nobody() {
    let issuer = Issuer::good();
    let key = "key-0f4c9e77ab5541e09d3e6c1b2a7f8d60";
    let recorders = [Era::Modern, Era::Legacy].map(|era| {
        Recorder::scripted(era, |seen| {
            let description = format!("Asked with {}.", seen.header("x-key").unwrap_or("nothing"));
            let tools = json!([{ "name": "echo", "description": description, "inputSchema": { "type": "object" } }]);
            let result = json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": tools });
            (seen.rpc_method() == "tools/list").then(|| Reply::result(seen, &result))
        })
    });
    let grant = "grant = { strategy = \"static_secret\", header = \"x-key\", value = { env = \"UP_KEY\" } }";
    let gateway = Setup::usual("leak-list", &issuer)
        .environment("UP_KEY", key)
        .upstream("modern", &recorders[0].url(), grant)
        .upstream("legacy", &recorders[1].url(), grant)
        .start();
    place::wait_for("both lists", SOON, || {
        recorders.iter().all(|recorder| recorder.seen_method("tools/list").len() > 1).then_some(())
    });
    let listed = gateway.client_of(None, &issuer, "alice").modern("tools/list", &json!({}));
    assert!(!listed.text().contains(key), "{}", listed.text());
    assert_eq!(listed.json()["result"]["_meta"]["dev.tollgate/degraded"], json!(["legacy", "modern"]));
    assert!(!gateway.process.errors().contains(key) && !gateway.process.output().contains(key));
}
