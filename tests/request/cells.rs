//! Any client era in front of any server era: lists and calls.

use serde_json::json;

use crate::harness::{
    gateway::Setup,
    issuer::Issuer,
    recorder::{Era, Recorder},
};

#[test]
fn all_four_cells_list_and_call() {
    let issuer = Issuer::good();
    for up in [Era::Modern, Era::Legacy] {
        let recorder = Recorder::good(up);
        let gateway = Setup::usual("cells", &issuer).open_upstream("up", &recorder.url()).start();
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("echo");
        let modern = client.call("echo", &json!({ "message": "hi" }));
        assert_eq!(modern.json()["result"]["content"][0]["text"], "echo {\"message\":\"hi\"}", "{up:?}");
        let session = client.initialize();
        let legacy = session.call("echo", &json!({ "message": "hi" }));
        assert_eq!(legacy.json()["result"]["content"][0]["text"], "echo {\"message\":\"hi\"}", "{up:?}");
        assert!(gateway.verify().status.success());
    }
}
