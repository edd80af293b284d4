//! Upstreams that are programs: who gets which process, how each begins and ends, and that none is left.

use std::time::Duration;

use serde_json::json;

use super::{input::call, refused, text_of};
use crate::harness::{
    gateway::{Gateway, Setup},
    issuer::Issuer,
    place,
    program::{Program, runs},
    recorder::{Era, Recorder},
};

const PATIENCE: Duration = place::PATIENCE;

fn behind(name: &str, issuer: &Issuer, era: Era, mood: &'static str, lines: &str) -> (Gateway, Program) {
    let setup = Setup::usual(name, issuer);
    let program = Program::new(&setup, "up", era, mood);
    (setup.program("up", &program.command(&[]), lines).start(), program)
}

fn process_of(gateway: &Gateway, issuer: &Issuer, user: &str) -> u32 {
    let client = gateway.client_of(Some("up"), issuer, user);
    text_of(&client.call("pid", &json!({}))).parse().unwrap()
}

#[test]
fn clients_of_both_eras_call_programs_of_both_eras() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let (gateway, program) = behind("programs-cells", &issuer, era, "good", "");
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
        let modern: u32 = text_of(&client.call("pid", &json!({}))).parse().unwrap();
        let legacy: u32 = text_of(&client.initialize().call("pid", &json!({}))).parse().unwrap();
        assert!(modern == legacy && program.started().contains(&modern), "{era:?}");
        assert!(gateway.verify().status.success());
    }
}

#[test]
fn a_program_of_2024_is_still_spoken_to() {
    let issuer = Issuer::good();
    let (gateway, program) = behind("programs-old", &issuer, Era::Legacy, "old", "");
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
    let process = text_of(&client.call("pid", &json!({}))).parse().unwrap();
    assert!(program.running().contains(&process), "{process} is not among {:?}", program.started());
}

#[test]
fn a_legacy_program_has_a_process_for_each_caller_and_a_modern_one_serves_all() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let (gateway, program) = behind("programs-processes", &issuer, era, "good", "");
        gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
        let [alice, bob, again] = ["alice", "bob", "alice"].map(|user| process_of(&gateway, &issuer, user));
        assert_eq!(alice, again, "{era:?}");
        assert_eq!(alice == bob, era == Era::Modern, "{era:?}");
        if era == Era::Legacy {
            let calls = |process| program.seen_by(process).iter().filter(|line| line.contains("tools/call")).count();
            assert_eq!((calls(alice), calls(bob)), (2, 1));
        }
    }
}

#[test]
fn a_program_sees_the_variables_that_are_named_and_no_others() {
    let issuer = Issuer::good();
    let setup = Setup::usual("programs-environment", &issuer);
    let program = Program::new(&setup, "up", Era::Modern, "good");
    let lines = "directory = \"/tmp\"\n\
                 environment = { API_KEY = { env = \"GATEWAY_KEY\" }, MODE = \"quiet; $(id)\", LANG = \"C\" }";
    let gateway = setup
        .environment("GATEWAY_KEY", "0f4c9e77ab5541e0")
        .environment("GATEWAY_SECRET", "not for anybody")
        .environment("HOME", "/nowhere")
        .program("up", &program.command(&["$(id)", "a b", "*", "; exit 1", "--flag=\"x\""]), lines)
        .start();
    gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
    let environ = program.file("environ");
    let mut variables: Vec<&str> = environ.split_terminator('\0').filter(|entry| !entry.starts_with("PATH=")).collect();
    variables.sort_unstable();
    assert_eq!(variables, ["API_KEY=0f4c9e77ab5541e0", "HOME=/nowhere", "LANG=C", "MODE=quiet; $(id)"]);
    // No shell has looked at these.
    assert_eq!(program.file("words"), "$(id)\na b\n*\n; exit 1\n--flag=\"x\"\n");
    assert_eq!(program.file("directory").trim_end(), "/tmp");
}

#[test]
fn a_call_that_its_process_ends_over_is_lost_once_and_the_next_one_has_another_process() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let (gateway, program) = behind("programs-die", &issuer, era, "good", "");
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
        let before = process_of(&gateway, &issuer, "alice");
        let died = refused(&client.call("die", &json!({})));
        assert_eq!(died, (502, 50203, "upstream_lost".to_owned()), "{era:?}");
        assert_eq!(program.seen().iter().filter(|line| line.contains("\"name\":\"die\"")).count(), 1, "{era:?}");
        let after = process_of(&gateway, &issuer, "alice");
        assert!(after != before && !runs(before), "{era:?}");
    }
}

#[test]
fn a_crash_loop_costs_little_and_its_callers_are_told_at_once() {
    let issuer = Issuer::good();
    let setup = Setup::usual("programs-crash-loop", &issuer);
    let program = Program::new(&setup, "up", Era::Modern, "crashing");
    let good = Program::new(&setup, "good", Era::Modern, "good");
    let gateway = setup
        .program("up", &program.command(&[]), "")
        .program("good", &good.command(&[]), "")
        .section("[limits]\ncalls_max = 100")
        .start();
    let federated = gateway.client_of(None, &issuer, "alice").awaiting("good__pid");
    place::wait_for("three starts", PATIENCE, || (program.started().len() >= 3).then_some(()));
    let listed = gateway.client_of(Some("up"), &issuer, "alice").modern("tools/list", &json!({}));
    assert_eq!(listed.status(), 503, "{}", listed.text());
    let before = program.started().len();
    for _ in 0..20 {
        assert_eq!(federated.call("good__pid", &json!({})).status(), 200);
        gateway.client_of(Some("up"), &issuer, "alice").call("pid", &json!({}));
    }
    // It rests twice as long after each fall; forty requests may take their time.
    assert!(program.started().len() <= before + 8, "{before}, then {:?}", program.started());
    program.all_gone(PATIENCE);
}

#[test]
fn a_call_that_is_given_up_is_taken_back_in_both_eras() {
    let issuer = Issuer::good();
    for era in [Era::Modern, Era::Legacy] {
        let (gateway, program) = behind("programs-cancel", &issuer, era, "good", "");
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
        let mut connection = client.connection();
        connection
            .send(&client.modern_bytes(&json!(1), "tools/call", &json!({ "name": "hang", "arguments": {} })))
            .unwrap();
        let called = |line: &String| line.contains("\"name\":\"hang\"");
        let line = place::wait_for("the call", PATIENCE, || program.seen().into_iter().find(called));
        drop(connection);
        let id = serde_json::from_str::<serde_json::Value>(&line).unwrap()["id"].clone();
        let word = format!("\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},");
        place::wait_for("its cancellation", PATIENCE, || {
            program.seen().iter().any(|line| line.contains(&word)).then_some(())
        });
        assert!(!text_of(&client.call("pid", &json!({}))).is_empty());
    }
}

#[test]
fn no_more_processes_than_allowed_and_the_least_used_goes() {
    let issuer = Issuer::good();
    let setup = Setup::usual("programs-bound", &issuer);
    let program = Program::new(&setup, "up", Era::Legacy, "good");
    let gateway =
        setup.section("[limits]\nchildren_max = 3").program("up", &program.command(&[]), "era = \"legacy\"").start();
    gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
    // One is the gateway's own, on which it listens for changes.
    let processes = ["alice", "bob", "carol", "dave"].map(|user| {
        let process = process_of(&gateway, &issuer, user);
        assert!(program.running().len() <= 3, "{:?}", program.running());
        process
    });
    assert!(!runs(processes[0]) && !runs(processes[1]) && runs(processes[2]) && runs(processes[3]), "{processes:?}");
    let again = process_of(&gateway, &issuer, "alice");
    assert!(!processes.contains(&again));
}

/// What a client says that it can do makes a session of its own: one caller could have them all.
#[test]
fn one_caller_takes_no_more_than_a_share_of_processes_and_sessions() {
    let issuer = Issuer::good();
    let recorder = Recorder::good(Era::Legacy);
    let setup = Setup::usual("programs-share", &issuer);
    let program = Program::new(&setup, "up", Era::Legacy, "good");
    let setup = setup.section("[limits]\nchildren_max = 8").open_upstream("remote", &recorder.url());
    let gateway = setup.program("up", &program.command(&[]), "era = \"legacy\"").start();
    let [alice, remote] = [("up", "pid"), ("remote", "echo")]
        .map(|(id, tool)| gateway.client_of(Some(id), &issuer, "alice").awaiting(tool));
    let bob = process_of(&gateway, &issuer, "bob");
    let mut declared = Vec::new();
    for elicitation in [json!(null), json!({ "form": {} }), json!({ "url": {} }), json!({ "form": {}, "url": {} })] {
        for sampling in [
            json!(null),
            json!({}),
            json!({ "tools": {} }),
            json!({ "context": {} }),
            json!({ "tools": {}, "context": {} }),
        ] {
            for roots in [json!(null), json!({})] {
                let mut all = json!({ "elicitation": elicitation, "sampling": sampling, "roots": roots });
                all.as_object_mut().unwrap().retain(|_name, value| !value.is_null());
                declared.push(all);
            }
        }
    }
    for capabilities in &declared[..10] {
        assert_eq!(call(&alice, capabilities, json!({ "name": "pid" })).status(), 200, "{capabilities}");
    }
    assert_eq!(process_of(&gateway, &issuer, "bob"), bob, "his own, for he has nothing of what is hers");
    for capabilities in &declared {
        assert_eq!(call(&remote, capabilities, json!({})).status(), 200, "{capabilities}");
    }
    let ended = || recorder.seen().iter().filter(|seen| seen.method == "DELETE").count();
    place::wait_for("her oldest sessions end", PATIENCE, || (ended() >= declared.len() - 32).then_some(()));
}

/// A program that was silent for once is not taken for a legacy one for good.
#[test]
fn what_silence_said_of_a_program_is_asked_again() {
    let issuer = Issuer::good();
    let lines = "timeout_ms = 2_000\nrefresh_s = 1";
    let (gateway, program) = behind("programs-waking", &issuer, Era::Modern, "waking", lines);
    let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
    assert!(program.seen().iter().any(|line| line.contains("\"method\":\"initialize\"")), "so far it is a legacy one");
    place::wait_for("a call in the modern era", PATIENCE, || {
        client.call("pid", &json!({}));
        let is_modern = |line: &String| line.contains("tools/call") && line.contains("2026-07-28");
        program.seen().iter().any(is_modern).then_some(())
    });
}

#[test]
fn an_idle_process_ends_and_its_session_begins_anew() {
    let issuer = Issuer::good();
    let setup = Setup::usual("programs-idle", &issuer);
    let program = Program::new(&setup, "up", Era::Legacy, "good");
    let gateway = setup.section("[limits]\nsession_idle_ms = 1_000").program("up", &program.command(&[]), "").start();
    gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid");
    let first = process_of(&gateway, &issuer, "alice");
    place::wait_for("its end", PATIENCE, || (!runs(first)).then_some(()));
    assert_ne!(process_of(&gateway, &issuer, "alice"), first);
    // The process that was gone saw nothing of the second call.
    let outcomes = gateway.recorded("outcome", 2);
    assert!(outcomes.iter().all(|outcome| outcome["result"]["attempts"].is_null()), "{outcomes:?}");
}

#[test]
fn nothing_is_left_when_the_gateway_ends() {
    let issuer = Issuer::good();
    for mood in ["good", "prolific", "stubborn"] {
        let (mut gateway, program) = behind("programs-drain", &issuer, Era::Legacy, mood, "");
        gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid").call("pid", &json!({}));
        assert!(program.running().len() >= 2, "{mood}");
        gateway.stop();
        program.all_gone(PATIENCE);
        assert!(gateway.verify().status.success(), "{mood}");
    }
}

/// A program has no status that says that nothing was executed: once it is at work, its error is the answer (I6).
#[test]
fn what_a_program_has_begun_is_not_sent_again() {
    let issuer = Issuer::good();
    for (tool, sent) in [("turned", 2), ("begun", 1)] {
        let (gateway, program) = behind("programs-begun", &issuer, Era::Modern, "good", "");
        let client = gateway.client_of(Some("up"), &issuer, "alice").awaiting(tool);
        let params = json!({ "name": tool, "arguments": {}, "_meta": { "progressToken": "t" } });
        let answer = client.modern("tools/call", &params);
        let text = answer.text();
        assert!(text.contains("upstream_error") && text.contains("-32603"), "{tool}: {text}");
        let calls = program.seen().iter().filter(|line| line.contains("tools/call")).count();
        assert_eq!(calls, sent, "{tool}");
    }
}

#[test]
fn nothing_is_left_when_the_gateway_is_killed() {
    let issuer = Issuer::good();
    for mood in ["good", "prolific", "stubborn"] {
        let (mut gateway, program) = behind("programs-kill", &issuer, Era::Legacy, mood, "");
        gateway.client_of(Some("up"), &issuer, "alice").awaiting("pid").call("pid", &json!({}));
        assert!(program.running().len() >= 2, "{mood}");
        gateway.process.kill();
        program.all_gone(PATIENCE);
    }
}

#[test]
fn a_program_that_leaves_the_configuration_ends() {
    let issuer = Issuer::good();
    let setup = Setup::usual("programs-reload", &issuer);
    let (kept, gone) =
        (Program::new(&setup, "kept", Era::Modern, "good"), Program::new(&setup, "gone", Era::Legacy, "prolific"));
    let gateway = setup.program("kept", &kept.command(&[]), "").program("gone", &gone.command(&[]), "").start();
    let client = gateway.client_of(None, &issuer, "alice").awaiting("gone__pid").awaiting("kept__pid");
    assert_eq!(client.call("gone__pid", &json!({})).status(), 200);
    gateway.reconfigure(|text| text.split_once("[upstreams.gone]").unwrap().0.to_owned());
    gone.all_gone(PATIENCE);
    assert_eq!(client.awaiting("kept__pid").call("kept__pid", &json!({})).status(), 200);
}
