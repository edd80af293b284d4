//! Every published client answers what a published server asks in the middle of a call, whatever the two speak.

use serde_json::{Value, json};

use crate::harness::{
    gateway::{ALLOW_ALL, Setup},
    issuer::Issuer,
    peer::{self, Dial, Sdk},
};

#[test]
fn every_client_is_asked_by_servers_of_both_eras() {
    let setup = Setup::new("clients-input");
    let folder = setup.folder().to_owned();
    let server = peer::fixture(&folder);
    let issuer = Issuer::good();
    let upstream = |era: &str| format!("era = \"{era}\"\ngrant = {{ strategy = \"none\" }}");
    let gateway = setup
        .issuer(&issuer.url())
        .policy("allow.cedar", ALLOW_ALL)
        .upstream("modern", &server.url(), &upstream("modern"))
        .upstream("legacy", &server.url(), &upstream("legacy"))
        .start();
    // What only a server of one era does, and what the SDK does in both.
    let both = [
        ("test_input_required_result_elicitation", "Hello, ada-name@example.test!"),
        ("test_input_required_result_sampling", "sampled"),
        ("test_input_required_result_list_roots", "roots: file:///work"),
        ("test_input_required_result_request_state", "state-ok"),
        ("test_input_required_result_multiple_inputs", "all three arrived"),
    ];
    let legacy =
        [("test_elicitation", "Elicitation completed: action=accept"), ("test_sampling", "LLM response: sampled")];
    let commands = |tools: &[(&str, &str)]| -> Value {
        tools.iter().map(|(tool, _)| json!({ "call": tool, "arguments": { "message": "m", "prompt": "p" } })).collect()
    };
    for (id, tools) in [("modern", both.to_vec()), ("legacy", [both.to_vec(), legacy.to_vec()].concat())] {
        gateway.client_of(Some(id), &issuer, "alice").awaiting(both[0].0);
        for (sdk, era) in Sdk::IN_EACH_ERA {
            let url = gateway.endpoint(Some(id));
            let token = Some(issuer.token("alice", &url));
            let lines = sdk.run(&folder, &Dial { url, token, era, authority: None, input: true }, &commands(&tools));
            for ((tool, expected), line) in tools.iter().zip(&lines[1..]) {
                let said = line["result"]["content"][0]["text"].as_str().unwrap_or_default();
                assert!(said.starts_with(expected), "{sdk:?} {era} at {id}, {tool}: {line}");
            }
        }
    }
    assert_eq!(gateway.metric("tollgate_holds"), Some(0.0));
    assert!(gateway.verify().status.success());
}
