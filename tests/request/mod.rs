//! The request path, end to end, one file a promise.

mod api_keys;
mod audit;
mod bounds;
mod caching;
mod catalogue;
mod cells;
mod connect;
mod decision;
mod drain;
mod expiry;
mod federation;
mod identity;
pub(crate) mod input;
mod introspection;
mod legacy_streams;
mod legacy_wire;
mod list_changed;
mod listen;
mod logging;
mod metadata;
mod modern_wire;
mod offers;
mod programs;
mod reload;
mod resumption;
mod revocation;
mod sent_at_most_once;
mod step_up;
mod streams;
mod subscribe;
pub(crate) mod task_states;
pub(crate) mod tasks;
mod telemetry;
mod turned_down;
mod upstream_tls;

use crate::harness::http::Answer;

/// What a refusal says to a program: HTTP status, JSON-RPC error code, the gateway's own code.
#[track_caller]
fn refused(answer: &Answer) -> (u16, i64, String) {
    let error = &answer.json()["error"];
    let code = error["code"].as_i64().unwrap_or_else(|| panic!("not refused: {} {}", answer.status(), answer.text()));
    assert_eq!(error["data"]["source"], "gateway", "{error}");
    assert_eq!(error["data"]["version"], "1", "{error}");
    (answer.status(), code, error["data"]["code"].as_str().unwrap().to_owned())
}

/// The text of a tool's result.
#[track_caller]
fn text_of(answer: &Answer) -> String {
    let json = answer.json();
    let text = json["result"]["content"][0]["text"].as_str();
    text.unwrap_or_else(|| panic!("no text: {} {json}", answer.status())).to_owned()
}
