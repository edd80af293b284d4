//! Prompts, resources and completion: through every stage that tools go through, between both eras, and with the names
//! and URIs that belong to the endpoint.

use serde_json::{Value, json};

use super::refused;
use crate::harness::{
    gateway::{Gateway, Setup},
    http::Answer,
    issuer::Issuer,
    recorder::{Era, Recorder, Reply, Seen},
};

const BOTH: [Era; 2] = [Era::Modern, Era::Legacy];

/// Everybody may do everything, but for bob: he may not see the prompt `secret`, and of resources only what is public.
const POLICY: &str = r#"
@id("everybody")
permit (principal, action, resource);
@id("no-secret")
forbid (principal, action == Action::"prompt:up/secret", resource) when { principal.subject == "bob" };
@id("public-only")
forbid (principal, action in [Action::"resources/read", Action::"resources/subscribe"], resource == Upstream::"up")
when { principal.subject == "bob" } unless { context.input.uri like "file:///public/*" };
"#;

/// A server that offers all there is.
fn offering(era: Era) -> Recorder {
    Recorder::scripted(era, move |seen| {
        let call = seen.json();
        if era == Era::Legacy && call["method"] != "initialize" && seen.header("mcp-session-id").is_none() {
            return None;
        }
        let mut result = answered(&call, era)?;
        if era == Era::Modern {
            result["resultType"] = json!("complete");
        }
        if call["method"] == "resources/read" && call["params"]["uri"] == "file:///public/none" {
            return Some(match era {
                Era::Modern => Reply::error(seen, 200, -32602, "no such resource"),
                Era::Legacy => Reply::error(seen, 200, -32002, "no such resource"),
            });
        }
        let reply = Reply::result(seen, &result);
        Some(if call["method"] == "initialize" {
            reply.header("mcp-session-id", "session-of-the-recorder")
        } else {
            reply
        })
    })
}

fn answered(call: &Value, era: Era) -> Option<Value> {
    let params = &call["params"];
    let capabilities = json!({ "tools": {}, "prompts": {}, "resources": {}, "completions": {}, "logging": {} });
    let caching = |mut result: Value| {
        if era == Era::Modern {
            result["ttlMs"] = json!(60_000);
            result["cacheScope"] = json!("public");
        }
        result
    };
    Some(match call["method"].as_str()? {
        "initialize" => json!({
            "protocolVersion": "2025-11-25", "capabilities": capabilities,
            "serverInfo": { "name": "offers", "version": "1" }, "instructions": "ask for `file:///public/a`",
        }),
        "server/discover" => caching(json!({
            "supportedVersions": ["2026-07-28"], "capabilities": capabilities, "instructions": "ask for `file:///public/a`",
        })),
        "prompts/list" => caching(json!({ "prompts": [
            { "name": "greet", "title": "Greet", "arguments": [{ "name": "who", "required": true }] },
            { "name": "secret" },
        ] })),
        "resources/list" => caching(json!({ "resources": [
            { "uri": "file:///public/a", "name": "a" }, { "uri": "file:///private/b", "name": "b" },
            { "uri": "ui://view/main", "name": "view" },
        ] })),
        "resources/templates/list" => {
            caching(json!({ "resourceTemplates": [{ "uriTemplate": "file:///public/{id}", "name": "any" }] }))
        }
        "prompts/get" => json!({ "description": params["name"], "messages": [
            { "role": "user", "content": { "type": "text", "text": format!("hello {}", params["arguments"]["who"]) } },
            { "role": "user", "content": { "type": "resource_link", "uri": "file:///public/a", "name": "a" } },
        ] }),
        "resources/read" => caching(json!({ "contents": [{ "uri": params["uri"], "text": "content" }] })),
        "completion/complete" => {
            json!({ "completion": { "values": (0..120).map(|n| format!("v{n}")).collect::<Vec<_>>() } })
        }
        _ => return None,
    })
}

/// One request of a client of either era.
fn ask(
    gateway: &Gateway,
    issuer: &Issuer,
    (upstream, user): (Option<&str>, &str),
    era: Era,
    call: (&str, Value),
) -> Answer {
    let client = gateway.client_of(upstream, issuer, user);
    match era {
        Era::Modern => client.modern(call.0, &call.1),
        Era::Legacy => client.initialize().request(call.0, &call.1),
    }
}

fn started(name: &str, issuer: &Issuer, recorder: &Recorder) -> Gateway {
    let lines = "grant = { strategy = \"none\" }\ninstructions = true";
    let setup = Setup::new(name).issuer(&issuer.url()).policy("all.cedar", POLICY);
    let gateway = setup.upstream("up", &recorder.url(), lines).start();
    drop(gateway.client_of(None, issuer, "alice").awaiting("up__echo"));
    gateway
}

fn named(list: &Value, member: &str) -> Vec<String> {
    let all = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    all.iter().map(|one| one[member].as_str().unwrap().to_owned()).collect()
}

fn last(recorder: &Recorder, method: &str) -> Seen {
    recorder.seen_method(method).pop().unwrap_or_else(|| panic!("no {method}"))
}

#[test]
fn lists_show_what_the_caller_may_use_under_the_endpoints_names() {
    for (upstream_era, client_era) in BOTH.iter().flat_map(|up| BOTH.map(|down| (*up, down))) {
        let issuer = Issuer::good();
        let recorder = offering(upstream_era);
        let gateway = started("offers-lists", &issuer, &recorder);
        let list = |user, method: &str, member: &str, naming: &str, upstream| {
            let answer = ask(&gateway, &issuer, (upstream, user), client_era, (method, json!({})));
            let result = answer.json()["result"].clone();
            if client_era == Era::Modern {
                assert_eq!((&result["resultType"], &result["cacheScope"]), (&json!("complete"), &json!("private")));
            } else {
                assert!(result["ttlMs"].is_null() && result["resultType"].is_null(), "{result}");
            }
            named(&result[member], naming)
        };
        assert_eq!(list("alice", "prompts/list", "prompts", "name", None), ["up__greet", "up__secret"]);
        assert_eq!(list("bob", "prompts/list", "prompts", "name", None), ["up__greet"]);
        assert_eq!(list("bob", "prompts/list", "prompts", "name", Some("up")), ["greet"]);
        let all = ["ui://up/view/main", "up+file:///private/b", "up+file:///public/a"];
        assert_eq!(list("alice", "resources/list", "resources", "uri", None), all);
        assert_eq!(list("bob", "resources/list", "resources", "uri", None), ["up+file:///public/a"]);
        assert_eq!(list("bob", "resources/list", "resources", "uri", Some("up")), ["file:///public/a"]);
        let templates =
            |endpoint| list("bob", "resources/templates/list", "resourceTemplates", "uriTemplate", endpoint);
        assert_eq!(templates(None), ["up+file:///public/{id}"]);
        assert_eq!(templates(Some("up")), ["file:///public/{id}"]);
    }
}

#[test]
fn prompts_resources_and_completion_cross_between_the_eras() {
    for (upstream_era, client_era) in BOTH.iter().flat_map(|up| BOTH.map(|down| (*up, down))) {
        let issuer = Issuer::good();
        let recorder = offering(upstream_era);
        let gateway = started("offers-cross", &issuer, &recorder);
        let ask = |method, params| ask(&gateway, &issuer, (None, "alice"), client_era, (method, params)).json();

        let prompt =
            ask("prompts/get", json!({ "name": "up__greet", "arguments": { "who": "you" } }))["result"].clone();
        assert_eq!(prompt["messages"][0]["content"]["text"], "hello \"you\"");
        assert_eq!(prompt["messages"][1]["content"]["uri"], "up+file:///public/a", "{prompt}");
        let sent = last(&recorder, "prompts/get");
        assert_eq!(sent.json()["params"]["name"], "greet");
        assert_eq!(sent.header("mcp-name"), (upstream_era == Era::Modern).then_some("greet"));

        // Listed or not, and with the scheme that hosts look for.
        for (outside, own) in [("up+file:///public/zzz", "file:///public/zzz"), ("ui://up/view/main", "ui://view/main")]
        {
            let read = ask("resources/read", json!({ "uri": outside }))["result"].clone();
            assert_eq!(read["contents"][0]["uri"], outside, "{read}");
            let sent = last(&recorder, "resources/read");
            assert_eq!(sent.json()["params"]["uri"], own);
            assert_eq!(sent.header("mcp-name"), (upstream_era == Era::Modern).then_some(own));
            if client_era == Era::Modern {
                let ttl = if upstream_era == Era::Modern { 60_000 } else { 0 };
                assert_eq!((&read["ttlMs"], &read["cacheScope"]), (&json!(ttl), &json!("private")));
            }
        }
        let missing = ask("resources/read", json!({ "uri": "up+file:///public/none" }));
        assert_eq!(missing["error"]["code"], if client_era == Era::Modern { -32602 } else { -32002 }, "{missing}");

        for reference in [
            json!({ "type": "ref/prompt", "name": "up__greet" }),
            json!({ "type": "ref/resource", "uri": "up+file:///public/{id}" }),
        ] {
            let params = json!({ "ref": reference, "argument": { "name": "who", "value": "v" } });
            let completion = ask("completion/complete", params)["result"]["completion"].clone();
            assert_eq!(completion["values"].as_array().unwrap().len(), 100, "RS-35");
            let sent = last(&recorder, "completion/complete").json()["params"]["ref"].clone();
            assert!(sent["name"] == "greet" || sent["uri"] == "file:///public/{id}", "{sent}");
        }
    }
}

#[test]
fn what_is_hidden_cannot_be_used_and_looks_like_what_is_not_there() {
    let issuer = Issuer::good();
    let recorder = offering(Era::Modern);
    let gateway = started("offers-hidden", &issuer, &recorder);
    let ask = |era, method, params| refused(&ask(&gateway, &issuer, (None, "bob"), era, (method, params)));
    let (legacy, modern) = (Era::Legacy, Era::Modern);
    for name in ["up__secret", "up__nothing", "secret"] {
        assert_eq!(ask(modern, "prompts/get", json!({ "name": name })), (200, -32602, "prompt_unknown".into()));
        let params = json!({ "ref": { "type": "ref/prompt", "name": name }, "argument": { "name": "a", "value": "" } });
        let (_, code, word) = ask(modern, "completion/complete", params);
        assert!(code == -32602 && (word == "reference_unknown" || word == "prompt_unknown"), "{word}");
    }
    for uri in
        ["up+file:///private/b", "up+file:///private/unlisted", "file:///private/b", "other+x:y", "UP+file:///public/a"]
    {
        assert_eq!(
            ask(modern, "resources/read", json!({ "uri": uri })),
            (200, -32602, "resource_unknown".into()),
            "{uri}"
        );
        assert_eq!(
            ask(legacy, "resources/read", json!({ "uri": uri })),
            (200, -32002, "resource_unknown".into()),
            "{uri}"
        );
    }
    assert!(recorder.seen_method("prompts/get").is_empty() && recorder.seen_method("resources/read").is_empty());
    let refusals = gateway.recorded("refusal", 16);
    assert!(refusals.iter().any(|record| record["decision"]["policies"][0] == "public-only"), "{refusals:?}");
}

#[test]
fn a_read_is_recorded_before_it_is_sent_and_named_by_its_uri() {
    let issuer = Issuer::good();
    let recorder = offering(Era::Modern);
    let gateway = started("offers-recorded", &issuer, &recorder);
    let read =
        ask(&gateway, &issuer, (None, "bob"), Era::Modern, ("resources/read", json!({ "uri": "file:///public/a" })));
    assert_eq!(read.json()["result"]["contents"][0]["text"], "content", "a bare URI that one upstream alone lists");
    let intent = gateway.recorded("intent", 1).remove(0);
    let target = &intent["target"];
    assert_eq!((&target["kind"], &target["name"]), (&json!("resource"), &json!("file:///public/a")), "{intent}");
    assert_eq!(intent["request"]["method"], "resources/read");
    gateway.recorded("outcome", 1);
}

#[test]
fn each_caller_is_told_what_they_can_use() {
    let issuer = Issuer::good();
    let (all, tools) = (offering(Era::Legacy), Recorder::good(Era::Modern));
    let setup = Setup::new("offers-told").issuer(&issuer.url()).policy("all.cedar", POLICY);
    let open = "grant = { strategy = \"none\" }\ninstructions = true";
    let gateway = setup.upstream("up", &all.url(), open).upstream("plain", &tools.url(), open).start();
    let alice = gateway.client_of(None, &issuer, "alice").awaiting("up__echo").awaiting("plain__echo");
    let told = alice.modern("server/discover", &json!({})).json()["result"].clone();
    for capability in ["tools", "prompts", "resources", "completions", "logging"] {
        assert!(told["capabilities"][capability].is_object(), "{capability}: {told}");
    }
    assert_eq!(told["instructions"], "[up]\nask for `file:///public/a`");
    let plain = gateway.client_of(Some("plain"), &issuer, "alice");
    let told = plain.modern("server/discover", &json!({})).json()["result"].clone();
    assert_eq!(told["capabilities"], json!({ "tools": { "listChanged": true } }));
    assert!(told["instructions"].is_null());
    let session = gateway.client_of(Some("up"), &issuer, "alice").initialize();
    assert!(session.initialized["result"]["capabilities"]["prompts"].is_object(), "{}", session.initialized);
}

#[test]
fn names_carry_their_upstream_as_the_administrator_says() {
    let issuer = Issuer::good();
    let (one, two) = (offering(Era::Modern), Recorder::good(Era::Modern));
    let names = |prefix: &str, known: &str| {
        let setup = Setup::usual("offers-prefix", &issuer).gateway(&format!("prefix = \"{prefix}\""));
        let gateway = setup.open_upstream("up", &one.url()).open_upstream("two", &two.url()).start();
        let alice = gateway.client_of(None, &issuer, "alice").awaiting("up__echo").awaiting(known);
        let (tools, discovered) = (alice.tools(), alice.modern("prompts/list", &json!({})).json());
        let uris = named(&alice.modern("resources/list", &json!({})).json()["result"]["resources"], "uri");
        (tools, named(&discovered["result"]["prompts"], "name"), uris[2].clone())
    };
    let (tools, prompts, uri) = names("always", "two__echo");
    assert_eq!((tools.len(), prompts[0].as_str(), uri.as_str()), (6, "up__greet", "up+file:///public/a"));
    let (tools, prompts, uri) = names("on_conflict", "two__echo");
    assert_eq!((tools.len(), prompts[0].as_str(), uri.as_str()), (6, "greet", "up+file:///public/a"));
}
