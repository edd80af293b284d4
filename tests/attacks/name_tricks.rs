//! Names that look, sort or fold like a tool's: case, blanks, zero width, other scripts, other prefixes (I5).

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::Ground;
use crate::harness::{mcp::Client, mcp::MODERN, mcp::modern_body};

fn call(client: &Client, name: &str) -> crate::harness::http::Answer {
    let body = modern_body(&json!(1), "tools/call", &json!({ "name": name, "arguments": { "id": "1" } }));
    let encoded = format!("=?base64?{}?=", STANDARD.encode(name));
    let headers = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", encoded.as_str())];
    client.post(&headers, body.to_string().as_bytes())
}

#[test]
fn name_that_is_not_exactly_a_tools_is_unknown() {
    let ground = Ground::new("name-tricks");
    let one = ground.client("alice");
    let all = ground.gateway.client_of(None, &ground.issuer, "alice");
    assert_eq!(call(&one, "erase").status(), 200);
    assert_eq!(call(&all, "up__erase").status(), 200);
    assert_eq!(ground.calls(), 2);

    let tricks = |name: &str| {
        vec![
            name.to_uppercase(),
            format!("{name} "),
            format!(" {name}"),
            format!("{name}\t"),
            format!("{name}\n"),
            format!("{name}\0"),
            format!("{name}\u{200b}"),
            format!("\u{feff}{name}"),
            format!("{name}\u{ad}"),
            format!("{name}\u{202e}"),
            name.replace('e', "\u{435}"),
            name.replace('s', "\u{17f}"),
            name.replace('a', "\u{ff41}"),
            name.replace('e', "e\u{301}"),
            name.replace('e', "%65"),
            format!("../{name}"),
            format!("{name}/"),
            format!("{name};"),
            format!("{name}*"),
            "*".to_owned(),
            "era*".to_owned(),
        ]
    };
    for name in tricks("erase") {
        ground.refused(&format!("{name:?}"), &["tool_unknown"], || call(&one, &name));
    }
    let mut federated = tricks("up__erase");
    federated.extend(
        ["erase", "up_erase", "up___erase", "up__up__erase", "UP__erase", "__erase", "up__", "up.erase", "up/erase"]
            .map(String::from),
    );
    for name in federated {
        ground.refused(&format!("{name:?}"), &["tool_unknown"], || call(&all, &name));
    }
    for name in [String::new(), "e".repeat(257)] {
        ground.refused(&format!("{name:?}"), &["params_invalid"], || call(&one, &name));
    }
    ground.refused("prefixed on its own endpoint", &["tool_unknown"], || call(&one, "up__erase"));
    assert_eq!(ground.recorded_refusal("tool_unknown")["user"]["subject"], "alice");
    ground.good_call();
}
