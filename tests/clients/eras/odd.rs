//! How does a server behave as no published one does?
//!
//! Recorders of both eras whose tool `odd` does, to the byte, what its argument `how` names.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    harness::recorder::{Era, Recorder, Reply, Seen, Step},
    request::input::form,
};

/// A form of 2025-11-25: names for what can be chosen, and values to begin with.
pub(super) fn newest_form() -> Value {
    json!({ "message": "Which?", "requestedSchema": { "type": "object", "properties": {
        "one": { "type": "string", "oneOf": [{ "const": "a", "title": "A" }, { "const": "b", "title": "B" }], "default": "a" },
        "name": { "type": "string", "default": "Ada" },
        "sure": { "type": "boolean", "default": true },
    }, "required": ["one"] } })
}

fn tools() -> Value {
    let schema =
        json!({ "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": "Region" } } });
    json!([
        {
            "name": "odd", "title": "Odd", "inputSchema": { "type": "object" }, "outputSchema": { "type": "array" },
            "icons": [{ "src": "https://odd.example/icon.png" }],
        },
        { "name": "mirrored", "inputSchema": schema, "execution": { "taskSupport": "optional" } },
    ])
}

/// What both eras have to list, besides their own members.
fn listed(method: &str) -> Option<Value> {
    Some(match method {
        "tools/list" => json!({ "tools": tools() }),
        "resources/list" => json!({ "resources": [{ "uri": "odd://a", "name": "a" }] }),
        "resources/templates/list" => json!({ "resourceTemplates": [] }),
        _ => return None,
    })
}

fn text(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

fn note(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

fn request(id: &str, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn updated() -> Value {
    note("notifications/resources/updated", &json!({ "uri": "odd://a" }))
}

/// What a legacy server remembers.
#[derive(Default)]
struct Memory {
    responses: Mutex<Vec<Value>>,
    lost: AtomicUsize,
    subscribed: AtomicUsize,
}

/// A legacy server in `version`. Where it has a stream of its own, it asks for something there, and says that `odd://a`
/// has changed as soon as somebody subscribes to it.
pub(super) fn legacy(version: &'static str, streams: bool) -> Recorder {
    let memory = Arc::new(Memory::default());
    let capabilities = json!({
        "tools": { "listChanged": true }, "resources": { "subscribe": true }, "logging": {},
        "experimental": { "vendor/odd": {} }, "extensions": { "vendor/odd": {} },
    });
    Recorder::scripted(Era::Legacy, move |seen| {
        let call = seen.json();
        if call["method"].is_null() && !call["id"].is_null() {
            memory.responses.lock().push(call);
            return Some(Reply::status(202));
        }
        if let Some(result) = listed(&seen.rpc_method()) {
            return Some(Reply::result(seen, &result));
        }
        match seen.rpc_method().as_str() {
            "initialize" => {
                let server = json!({ "name": "odd", "version": "1" });
                let result = json!({ "protocolVersion": version, "capabilities": capabilities, "serverInfo": server });
                Some(Reply::result(seen, &result).header("mcp-session-id", "session-of-the-recorder"))
            }
            "resources/subscribe" => {
                memory.subscribed.store(1, Ordering::Release);
                Some(Reply::result(seen, &json!({})))
            }
            "resources/unsubscribe" | "logging/setLevel" => Some(Reply::result(seen, &json!({}))),
            "resources/read" => Some(Reply::error(seen, 200, -32002, "no such resource")),
            "tools/call" => Some(called_at_legacy(seen, &memory)),
            "" if streams && seen.method == "GET" => {
                let memory = Arc::clone(&memory);
                let word = format!("data: {}\n\n", updated());
                let later =
                    Step::later(move || (memory.subscribed.load(Ordering::Acquire) == 1).then(|| word.clone().into()));
                let stream = Reply::stream().event(&request("odd-9", "elicitation/create", &form()));
                Some(stream.step(later).step(Step::Pause(Duration::from_secs(60))))
            }
            _ => None,
        }
    })
}

fn called_at_legacy(seen: &Seen, memory: &Arc<Memory>) -> Reply {
    let call = seen.json();
    let result = |result: Value| json!({ "jsonrpc": "2.0", "id": call["id"], "result": result });
    let token = &call["params"]["_meta"]["progressToken"];
    let progress = |step: u64| note("notifications/progress", &json!({ "progressToken": token, "progress": step }));
    let log = |level: &str| note("notifications/message", &json!({ "level": level, "data": "x" }));
    let asks = |requests: &[Value]| asking(&call, memory, requests);
    match call["params"]["arguments"]["how"].as_str().unwrap_or("well") {
        "pings" => asks(&[request("odd-1", "ping", &json!({}))]),
        "asks" => asks(&[request("odd-2", "elicitation/create", &form())]),
        "asks for a visit" => {
            let page =
                json!({ "mode": "url", "elicitationId": "e", "url": "https://pages.example/", "message": "Connect" });
            asks(&[request("odd-7", "elicitation/create", &page)])
        }
        "asks for tasks" => asks(&[request("odd-3", "tasks/list", &json!({}))]),
        "asks twice" => {
            asks(&[request("odd-4", "elicitation/create", &form()), request("odd-5", "roots/list", &json!({}))])
        }
        "asks at length" => asks(&[request("odd-6", "elicitation/create", &newest_form())]),
        "completes" => {
            let complete = note("notifications/elicitation/complete", &json!({ "elicitationId": "e" }));
            Reply::events(&[complete, result(text("done"))])
        }
        "goes backwards" => {
            Reply::events(&[progress(1), progress(3), progress(2), progress(3), progress(4), result(text("done"))])
        }
        "logs" => Reply::events(&[log("debug"), log("warning"), log("error"), result(text("done"))]),
        "breaks off" => {
            Reply::stream().event(&progress(1)).step(Step::Pause(Duration::from_millis(50))).step(Step::Cut)
        }
        "forgets the session" if memory.lost.fetch_add(1, Ordering::AcqRel) == 0 => {
            Reply::error(seen, 404, -32001, "session not found")
        }
        "wants a page" => {
            let page = json!({ "mode": "url", "elicitationId": "page-1", "url": "https://pages.example/", "message": "Connect" });
            let error = json!({ "code": -32042, "message": "visit", "data": { "elicitations": [page] } });
            Reply::json(200, &json!({ "jsonrpc": "2.0", "id": call["id"], "error": error }))
        }
        "fails" => Reply::error(seen, 200, -32010, "its own error"),
        "answers in a batch" => Reply::json(200, &json!([progress(1), result(text("done"))])),
        _ => Reply::result(seen, &text("well")),
    }
}

/// A stream with these requests, and when all responses came, the result: its text is a list of them, in order.
fn asking(call: &Value, memory: &Arc<Memory>, requests: &[Value]) -> Reply {
    let (memory, id) = (Arc::clone(memory), call["id"].clone());
    let asked: Vec<Value> = requests.iter().map(|request| request["id"].clone()).collect();
    let stream = requests.iter().fold(Reply::stream(), |stream, request| stream.event(request));
    stream.step(Step::later(move || {
        let mut responses = memory.responses.lock();
        let place = |id: &Value| responses.iter().position(|response| response["id"] == *id);
        let all: Option<Vec<Value>> = asked.iter().map(|id| Some(responses[place(id)?].clone())).collect();
        let all = all?;
        responses.retain(|response| !asked.contains(&response["id"]));
        let result = json!({ "jsonrpc": "2.0", "id": id, "result": text(&Value::from(all).to_string()) });
        Some(format!("data: {result}\n\n").into())
    }))
}

/// A server that speaks only what nobody else does.
pub(super) fn stubborn() -> Recorder {
    Recorder::scripted(Era::Legacy, |seen| {
        let server = json!({ "name": "odd", "version": "1" });
        let result = json!({ "protocolVersion": "1999-01-01", "capabilities": { "tools": {} }, "serverInfo": server });
        let reply = || Reply::result(seen, &result).header("mcp-session-id", "session-of-the-recorder");
        (seen.rpc_method() == "initialize").then(reply)
    })
}

/// A modern server. Its tool list, and `odd://a`, change with each call that says so.
pub(super) fn modern() -> Recorder {
    let (changes, minded) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    Recorder::scripted(Era::Modern, move |seen| {
        let call = seen.json();
        let lasting = |mut result: Value| {
            (result["ttlMs"], result["cacheScope"]) = (json!(600_000), json!("private"));
            complete(seen, result)
        };
        let now = changes.load(Ordering::Acquire);
        if let Some(mut result) = listed(&seen.rpc_method()) {
            if let Some(tools) = result["tools"].as_array_mut() {
                tools.push(json!({ "name": format!("after-{now}"), "inputSchema": { "type": "object" } }));
            }
            return Some(lasting(result));
        }
        match seen.rpc_method().as_str() {
            "server/discover" => Some(lasting(json!({
                "supportedVersions": ["2026-07-28"],
                "capabilities": { "tools": { "listChanged": true }, "resources": { "subscribe": true } },
            }))),
            "subscriptions/listen" => {
                let uris = &call["params"]["notifications"]["resourceSubscriptions"];
                let (stream, word) = if uris.is_array() {
                    let honoured: Vec<&Value> =
                        uris.as_array().unwrap().iter().filter(|uri| **uri == "odd://a").collect();
                    let honoured = json!({ "notifications": { "resourceSubscriptions": honoured } });
                    (Reply::stream().event(&note("notifications/subscriptions/acknowledged", &honoured)), updated())
                } else {
                    let honoured = json!({ "notifications": { "toolsListChanged": true } });
                    let begun = Reply::stream().event(&note("notifications/subscriptions/acknowledged", &honoured));
                    (begun, note("notifications/tools/list_changed", &json!({})))
                };
                let words = (now + 1..now + 9)
                    .fold(stream, |stream, next| stream.step(Step::until(&changes, next)).event(&word));
                Some(words.step(Step::Pause(Duration::from_secs(60))))
            }
            "resources/read" => Some(Reply::error(seen, 200, -32602, "no such resource")),
            "tools/call" => Some(called_at_modern(seen, &changes, &minded)),
            _ => None,
        }
    })
}

fn complete(seen: &Seen, mut result: Value) -> Reply {
    result["resultType"] = json!("complete");
    Reply::result(seen, &result)
}

fn called_at_modern(seen: &Seen, changes: &AtomicUsize, minded: &AtomicUsize) -> Reply {
    let call = seen.json();
    let params = &call["params"];
    let asks = |asked: Value, state: Option<String>| {
        let mut result = json!({ "resultType": "input_required" });
        if !asked.is_null() {
            result["inputRequests"] = json!({ "odd": asked });
        }
        if let Some(state) = state {
            result["requestState"] = json!(state);
        }
        Reply::result(seen, &result)
    };
    let answers = &params["inputResponses"];
    let round = params["requestState"].as_str().map_or(0, |state| state.parse::<u32>().unwrap());
    let how = params["arguments"]["how"].as_str().unwrap_or("well");
    let first = || minded.fetch_add(1, Ordering::AcqRel).is_multiple_of(2);
    let asked = match how {
        "asks" => json!({ "method": "elicitation/create", "params": form() }),
        "asks at length" => json!({ "method": "elicitation/create", "params": newest_form() }),
        "asks the model" => json!({ "method": "sampling/createMessage", "params": { "messages": [], "maxTokens": 1 } }),
        _ => Value::Null,
    };
    match how {
        _ if !asked.is_null() && answers.is_null() => asks(asked, None),
        "is busy" if round < 2 => asks(Value::Null, Some((round + 1).to_string())),
        "sends to a page" if round < 2 => {
            let page = json!({ "mode": "url", "url": "https://pages.example/connect", "message": "Connect" });
            asks(json!({ "method": "elicitation/create", "params": page }), Some((round + 1).to_string()))
        }
        "changes" => {
            changes.fetch_add(1, Ordering::AcqRel);
            complete(seen, text("changed"))
        }
        "lists" => {
            let mut result = text("[1,2]");
            result["structuredContent"] = json!([1, 2]);
            complete(seen, result)
        }
        "minds the headers once" if first() => Reply::error(seen, 400, -32020, "headers do not agree"),
        "minds the version once" if first() => Reply::error(seen, 400, -32022, "not this version"),
        "minds the headers" => Reply::error(seen, 400, -32020, "headers do not agree"),
        "minds the version" => Reply::error(seen, 400, -32022, "not this version"),
        "is of another type" => Reply::result(seen, &json!({ "resultType": "vendor/odd" })),
        _ if answers.is_null() => complete(seen, text("well")),
        _ => complete(seen, text(&answers["odd"].to_string())),
    }
}
