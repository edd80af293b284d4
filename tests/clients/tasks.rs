//! Published clients, of which none knows of tasks, before published servers whose tools are tasks: they get results.

use serde_json::json;

use crate::harness::{
    gateway::{ALLOW_ALL, Setup},
    issuer::Issuer,
    peer::{self, Dial, Sdk},
    rmcp_tasks,
};

#[test]
fn every_client_gets_the_results_of_tasks_of_both_eras_and_is_asked_for_what_they_need() {
    let setup = Setup::new("clients-tasks");
    let folder = setup.folder().to_owned();
    let (modern, legacy) = (rmcp_tasks::start(), peer::everything(&folder));
    let issuer = Issuer::good();
    let gateway = setup
        .issuer(&issuer.url())
        .policy("allow.cedar", ALLOW_ALL)
        .open_upstream("modern", &format!("{}/mcp", modern.origin()))
        .open_upstream("legacy", &legacy.url())
        .start();
    gateway.client_of(Some("modern"), &issuer, "alice").awaiting("greet");
    gateway.client_of(Some("legacy"), &issuer, "alice").awaiting("simulate-research-query");
    let of_modern = json!([
        { "call": "slow_compute", "arguments": { "seconds": 1 } },
        { "call": "confirm_delete", "arguments": {} },
        { "call": "multi_input", "arguments": {} },
        { "call": "test_tool_with_task", "arguments": {} },
    ]);
    let expected = ["computed", "\"accept\"", "\"accept\" \"accept\"", "{"];
    let of_legacy =
        json!([{ "call": "simulate-research-query", "arguments": { "topic": "tasks", "ambiguous": true } }]);
    for (sdk, era) in Sdk::IN_EACH_ERA {
        for (id, commands, expected) in
            [("modern", &of_modern, expected.as_slice()), ("legacy", &of_legacy, &["# Research Report: tasks"])]
        {
            let url = gateway.endpoint(Some(id));
            let token = Some(issuer.token("alice", &url));
            let lines = sdk.run(&folder, &Dial { url, token, era, authority: None, input: true }, commands);
            assert_eq!(lines.len(), expected.len() + 1, "{sdk:?} {era} at {id}: {lines:?}");
            for (expected, line) in expected.iter().zip(&lines[1..]) {
                let said = line["result"]["content"][0]["text"].as_str().unwrap_or_default();
                assert!(said.starts_with(expected), "{sdk:?} {era} at {id}, {expected}: {line}");
            }
        }
    }
    assert!(gateway.verify().status.success());
}
