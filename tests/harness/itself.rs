//! Does the harness itself hold what it says?
//!
//! Only the in-process parties; the published ones are proved in `peers`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use serde_json::json;

use super::{
    certificates::Authority,
    http,
    issuer::{Issuer, Signature, claims_of},
    leaks,
    mcp::Client,
    place,
    process::Process,
    prover::Prover,
    recorder::{Era, Recorder, Reply, Step},
};

#[test]
fn recorder_behaves_in_both_eras_and_keeps_every_byte() {
    for era in [Era::Modern, Era::Legacy] {
        let recorder = Recorder::good(era);
        let client = Client::new(&recorder.url()).token("secret-of-the-caller");
        let answer = match era {
            Era::Modern => client.call("echo", &json!({ "message": "hi" })),
            Era::Legacy => client.initialize().call("echo", &json!({ "message": "hi" })),
        };
        assert_eq!(answer.json()["result"]["content"][0]["text"], "echo {\"message\":\"hi\"}");
        assert_eq!(recorder.seen_method("tools/call").len(), 1);
        assert!(recorder.saw_text("secret-of-the-caller"));
        assert!(!recorder.saw_text("another secret"));
    }
}

/// Recorders judge every other test when they are dropped: here each of them has something to say.
#[test]
fn a_callers_credential_is_noticed_wherever_it_turns_up() {
    let issuer = Issuer::good();
    let (signed, opaque) = (issuer.token("alice", "door"), issuer.opaque(&issuer.claims("alice", "door")));
    let proof = Prover::new().proof("POST", "http://door.example/mcp", Some(&signed));
    let code = "a-code-or-a-key-of-43-characters-at-the-least";
    leaks::remember_own(code);
    let leaf = Authority::new(&place::scratch("leaks")).leaf("client", &["client.example"]);
    leaks::remember_certificate(&leaf);
    let pem = std::fs::read_to_string(&leaf.certificate).unwrap().replace('\n', " ");
    let notices = |recorder: Recorder, request: &dyn Fn(&str)| {
        request(&recorder.origin());
        catch_unwind(AssertUnwindSafe(|| drop(recorder))).is_err()
    };
    let server = || Recorder::serving(|_| Reply::status(200));
    let provider = || server().exchanging();
    let signature = signed.rsplit('.').next().unwrap();
    for text in [signed.as_str(), signature, &opaque, &proof, code, &pem] {
        let header = |origin: &str| drop(http::fetch("GET", origin, &[("X-Any", text)], b""));
        let path =
            |origin: &str| drop(http::fetch("GET", &format!("{origin}/a{}z", http::form(&[("", text)])), &[], b""));
        let query =
            |origin: &str| drop(http::fetch("GET", &format!("{origin}/?a{}", http::form(&[("", text)])), &[], b""));
        let form = http::form(&[("grant_type", "x"), ("resource", text)]);
        let body = |origin: &str| drop(http::fetch("POST", origin, &[], form.as_bytes()));
        let places: [&dyn Fn(&str); 4] = [&header, &path, &query, &body];
        for (index, place) in places.into_iter().enumerate() {
            assert!(notices(server(), place), "an upstream, {index}: {text}");
            assert!(notices(provider(), place), "a provider, {index}: {text}");
        }
        let form = http::form(&[("grant_type", "x"), ("subject_token", text)]);
        let exchanged = |origin: &str| drop(http::fetch("POST", origin, &[], form.as_bytes()));
        assert!(notices(server(), &exchanged), "an upstream: {text}");
        let token = [signed.as_str(), signature, &opaque].contains(&text);
        assert_eq!(notices(provider(), &exchanged), !token, "what is exchanged: {text}");
    }
    assert!(!notices(server(), &|origin| drop(http::fetch("GET", origin, &[("X-Any", "nothing")], b""))));
}

#[test]
fn a_recorder_that_leaves_comes_back_where_it_was() {
    let recorder = Recorder::good(Era::Modern);
    let client = Client::new(&recorder.url());
    assert_eq!(client.call("echo", &json!({})).status(), 200);
    recorder.leave();
    assert!(std::net::TcpStream::connect(&recorder.origin()[7..]).is_err());
    recorder.come_back();
    assert_eq!(client.call("echo", &json!({})).status(), 200);
    assert_eq!(recorder.seen_method("tools/call").len(), 2);
}

#[test]
fn scripted_stream_is_read_event_by_event() {
    let recorder = Recorder::scripted(Era::Modern, |_| {
        let event =
            |n: u64| json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": { "progress": n } });
        let two_in_one = format!("data: {}\n\ndata: {}\n\n", event(2), event(3));
        Some(
            Reply::stream()
                .event(&event(1))
                .step(Step::Pause(Duration::from_millis(20)))
                .step(Step::Bytes(two_in_one.into())),
        )
    });
    let client = Client::new(&recorder.url());
    let mut connection = client.connection();
    connection.send(&client.modern_bytes(&json!(1), "tools/call", &json!({ "name": "echo" }))).unwrap();
    assert_eq!(connection.head().status, 200);
    let progress: Vec<_> =
        std::iter::from_fn(|| connection.event()).map(|event| event["params"]["progress"].clone()).collect();
    assert_eq!(progress, [1, 2, 3]);
    assert_eq!(recorder.abandoned(), 0);
}

#[test]
fn abandoned_answer_is_counted() {
    let recorder =
        Recorder::scripted(Era::Modern, |_| Some(Reply::stream().step(Step::Forever(": still here\n\n".into()))));
    let client = Client::new(&recorder.url());
    let mut connection = client.connection();
    connection.send(&client.modern_bytes(&json!(1), "tools/call", &json!({ "name": "echo" }))).unwrap();
    connection.head();
    drop(connection);
    place::wait_for("abandoned", place::PATIENCE, || (recorder.abandoned() == 1).then_some(()));
}

#[test]
fn issuer_signs_what_jsonwebtoken_accepts_and_forges_what_it_refuses() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, jwk::Jwk};
    let issuer = Issuer::good();
    let keys = http::fetch("GET", &format!("{}/jwks", issuer.url()), &[], b"").json();
    let jwk: Jwk = serde_json::from_value(keys["keys"][0].clone()).unwrap();
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&["door"]);
    let accepts =
        |token: &str| decode::<serde_json::Value>(token, &DecodingKey::from_jwk(&jwk).unwrap(), &rules).is_ok();
    assert!(accepts(&issuer.token("alice", "door")));
    assert!(!accepts(&issuer.token("alice", "window")));
    let forge = |signature| issuer.forge(&issuer.header(), &issuer.claims("alice", "door"), signature);
    for signature in [Signature::Stranger, Signature::HmacOfPublicKey, Signature::Absent] {
        assert!(!accepts(&forge(signature)), "{signature:?}");
    }
    issuer.rotate();
    assert!(!accepts(&issuer.token("alice", "door")));
}

#[test]
fn issuer_exchanges_and_keeps_what_it_was_asked() {
    let issuer = Issuer::good();
    let subject = issuer.token("alice", "door");
    let body =
        http::form(&[("grant_type", "exchange"), ("subject_token", &subject), ("resource", "up"), ("scope", "read")]);
    let answer = http::fetch("POST", &format!("{}/token", issuer.url()), &[], body.as_bytes()).json();
    let claims = claims_of(answer["access_token"].as_str().unwrap());
    assert_eq!(
        (claims["sub"].as_str(), claims["aud"].as_str(), claims["scope"].as_str()),
        (Some("alice"), Some("up"), Some("read"))
    );
    assert_eq!(issuer.asked()[0].field("subject_token"), Some(subject));
}

#[test]
fn leaf_is_what_a_client_of_the_authority_trusts() {
    let folder = place::scratch("certificates");
    let authority = Authority::new(&folder);
    let leaf = authority.leaf("leaf", &["localhost", "127.0.0.1"]);
    let read = |file| std::fs::read_to_string(file).unwrap();
    assert!(read(&leaf.certificate).contains("BEGIN CERTIFICATE"));
    assert!(read(&leaf.key).contains("PRIVATE KEY"));
    assert_eq!(authority.client(&["h2"]).alpn_protocols, [b"h2".to_vec()]);
}

#[test]
fn process_ends_with_its_children() {
    let folder = place::scratch("process");
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "sleep 300 & echo listening $!; wait"]);
    let mut process = Process::start("parent", &folder, command);
    let child = process.until(place::PATIENCE, |process| {
        process.output().lines().find_map(|line| line.strip_prefix("listening ").map(str::to_owned))
    });
    let alive = || std::path::Path::new("/proc").join(&child).join("stat").exists();
    assert!(alive());
    drop(process);
    let state = std::path::Path::new("/proc").join(&child).join("stat");
    place::wait_for("child gone", place::PATIENCE, || {
        // An orphan that nobody has waited for yet is a zombie: ended all the same.
        let text = std::fs::read_to_string(&state).unwrap_or_default();
        (text.is_empty() || text.contains(") Z ")).then_some(())
    });
}
