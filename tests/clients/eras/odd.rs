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

/// What a legacy server of this oddity says that it has.
fn capabilities() -> Value {
    json!({
        "tools": { "listChanged": true }, "resources": { "subscribe": true }, "logging": {},
        "experimental": { "vendor/odd": {} }, "extensions": { "vendor/odd": {} },
    })
}

fn tools() -> Value {
    let schema =
        json!({ "type": "object", "properties": { "region": { "type": "string", "x-mcp-header": "Region" } } });
    json!([
        { "name": "odd", "inputSchema": { "type": "object" } },
        { "name": "mirrored", "inputSchema": schema, "execution": { "taskSupport": "optional" } },
    ])
}

fn text(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

fn note(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

/// A legacy server in `version`, without a stream of its own.
pub(super) fn legacy(version: &'static str) -> Recorder {
    let responses = Arc::new(Mutex::new(Vec::<Value>::new()));
    let lost = AtomicUsize::new(0);
    Recorder::scripted(Era::Legacy, move |seen| {
        let call = seen.json();
        if call["method"].is_null() && !call["id"].is_null() {
            responses.lock().push(call);
            return Some(Reply::status(202));
        }
        match seen.rpc_method().as_str() {
            "initialize" => {
                let server = json!({ "name": "odd", "version": "1" });
                let result =
                    json!({ "protocolVersion": version, "capabilities": capabilities(), "serverInfo": server });
                Some(Reply::result(seen, &result).header("mcp-session-id", "session-of-the-recorder"))
            }
            "tools/list" => Some(Reply::result(seen, &json!({ "tools": tools() }))),
            "resources/list" => Some(Reply::result(seen, &json!({ "resources": [{ "uri": "odd://a", "name": "a" }] }))),
            "resources/templates/list" => Some(Reply::result(seen, &json!({ "resourceTemplates": [] }))),
            "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" => {
                Some(Reply::result(seen, &json!({})))
            }
            "resources/read" => Some(Reply::error(seen, 200, -32002, "no such resource")),
            "tools/call" => called_at_legacy(seen, &responses, &lost),
            _ => None,
        }
    })
}

fn called_at_legacy(seen: &Seen, responses: &Arc<Mutex<Vec<Value>>>, lost: &AtomicUsize) -> Option<Reply> {
    let call = seen.json();
    let result = |result: Value| json!({ "jsonrpc": "2.0", "id": call["id"], "result": result });
    let token = &call["params"]["_meta"]["progressToken"];
    let progress = |step: u64| note("notifications/progress", &json!({ "progressToken": token, "progress": step }));
    let log = |level: &str| note("notifications/message", &json!({ "level": level, "data": "x" }));
    Some(match call["params"]["arguments"]["how"].as_str().unwrap_or("well") {
        // The answer is the response that the request got.
        "pings" => asking(&call, responses, &json!({ "id": "odd-1", "method": "ping" })),
        "asks" => asking(&call, responses, &json!({ "id": "odd-2", "method": "elicitation/create", "params": form() })),
        "asks for tasks" => asking(&call, responses, &json!({ "id": "odd-3", "method": "tasks/list", "params": {} })),
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
        "waits" => Reply::stream().event(&progress(1)).step(Step::Pause(Duration::from_secs(60))),
        "forgets the session" if lost.fetch_add(1, Ordering::AcqRel) == 0 => {
            Reply::error(seen, 404, -32001, "session not found")
        }
        "fails" => Reply::error(seen, 200, -32010, "its own error"),
        _ => Reply::result(seen, &text("well")),
    })
}

/// A stream with this request, and when the response to it came, the result: its text is the response.
fn asking(call: &Value, responses: &Arc<Mutex<Vec<Value>>>, request: &Value) -> Reply {
    let mut request = request.clone();
    request["jsonrpc"] = json!("2.0");
    let (responses, id, asked) = (Arc::clone(responses), call["id"].clone(), request["id"].clone());
    Reply::stream().event(&request).step(Step::later(move || {
        let mut responses = responses.lock();
        let at = responses.iter().position(|response| response["id"] == asked)?;
        let result = json!({ "jsonrpc": "2.0", "id": id, "result": text(&responses.remove(at).to_string()) });
        Some(format!("data: {result}\n\n").into())
    }))
}

/// A legacy server that asks for something on the stream of its session.
pub(super) fn ambient() -> Recorder {
    Recorder::scripted(Era::Legacy, |seen| {
        let asked = json!({ "jsonrpc": "2.0", "id": "odd-9", "method": "elicitation/create", "params": form() });
        (seen.method == "GET").then(|| Reply::stream().event(&asked).step(Step::Pause(Duration::from_secs(60))))
    })
}

/// A server that speaks only what nobody else does.
pub(super) fn stubborn() -> Recorder {
    Recorder::scripted(Era::Legacy, |seen| {
        let server = json!({ "name": "odd", "version": "1" });
        let result = json!({ "protocolVersion": "1999-01-01", "capabilities": { "tools": {} }, "serverInfo": server });
        (seen.rpc_method() == "initialize")
            .then(|| Reply::result(seen, &result).header("mcp-session-id", "session-of-the-recorder"))
    })
}
