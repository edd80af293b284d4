//! Client ID metadata documents: who is asked for them, and what is believed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

use super::{CALLBACK, Ground, code_of, page_of, setup};
use crate::harness::{
    certificates::Authority,
    http::{ELSEWHERE, fetch, fetch_from},
    issuer::Issuer,
    login::Browser,
    place,
    recorder::{Era, Recorder, Reply, Step},
};

const WEB: &str = "https://app.example/callback";

/// A gateway that takes documents from `localhost`, and a server of documents there; with `dialled`, `[egress]` lets the
/// gateway go there.
fn ground(
    name: &str,
    dialled: bool,
    answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
) -> (Ground, Recorder, String) {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let setup = setup(name, &provider, &partner, &upstream, "client_domains = [\"localhost\", \"127.0.0.1\"]");
    let authority = Authority::new(setup.folder());
    let leaf = authority.leaf("documents", &["localhost", "127.0.0.1"]);
    let documents = Recorder::serving_tls(Authority::server(&leaf), move |seen| {
        let origin = format!("https://{}", seen.header("host").unwrap_or_default());
        answer(&format!("{origin}{}", seen.path), &seen.path)
    });
    let origin = documents.origin().replace("127.0.0.1", "localhost");
    let origins = if dialled { format!("[\"{origin}\"]") } else { "[]".to_owned() };
    let ca = authority.file();
    let egress = format!("[egress]\norigins = {origins}\nrequests_per_host_max = 16\nca = \"{}\"", ca.display());
    let gateway = setup.section(&egress).start();
    (Ground { provider, partner, upstream, gateway }, documents, origin)
}

fn document(id: &str) -> Value {
    json!({ "client_id": id, "client_name": "By document", "redirect_uris": [WEB] })
}

#[test]
fn a_document_is_believed_where_it_is_the_client_s_own() {
    let (ground, documents, origin) = ground("facade-documents", true, |id, path| match path {
        "/good" => Reply::json(200, &document(id)),
        "/other-id" => Reply::json(200, &document("https://localhost/good")),
        "/slash" => Reply::json(200, &document(&format!("{id}/"))),
        "/secret" => {
            let mut document = document(id);
            document["client_secret"] = json!("x");
            Reply::json(200, &document)
        }
        "/nameless" => Reply::json(200, &json!({ "client_id": id, "redirect_uris": [WEB] })),
        "/plain-http" => {
            let mut document = document(id);
            document["redirect_uris"] = json!(["http://app.example/callback"]);
            Reply::json(200, &document)
        }
        "/html" => Reply::text(200, "text/html", document(id).to_string()),
        "/huge" => Reply::text(200, "application/json", format!("{}{}", document(id), " ".repeat(100_000))),
        "/moved" => Reply::status(302).header("location", "/good"),
        "/error" => Reply::status(500),
        _ => Reply::status(404),
    });
    let landing = Browser::default().go(&ground.page(&format!("{origin}/good"), WEB, &[]), WEB);
    let text = page_of(&landing).text();
    assert!(text.contains("By document") && text.contains("described by <strong>localhost"), "{text}");
    assert!(text.contains("app.example"));
    for path in [
        "/other-id",
        "/slash",
        "/secret",
        "/nameless",
        "/plain-http",
        "/html",
        "/huge",
        "/moved",
        "/error",
        "/none",
        "/",
    ] {
        let page = ground.page(&format!("{origin}{path}"), WEB, &[]);
        let answer = fetch("GET", &page, &[], b"");
        assert_eq!((answer.status(), code_of(&answer).as_str()), (401, "client_invalid"), "{path}: {}", answer.text());
    }
    // Neither good nor bad ones are asked for at each turn.
    let asked = documents.seen().len();
    for path in ["/good", "/html", "/moved"] {
        fetch("GET", &ground.page(&format!("{origin}{path}"), WEB, &[]), &[], b"");
    }
    assert_eq!(documents.seen().len(), asked);
    let elsewhere = fetch("GET", &ground.page(&format!("{origin}/good"), CALLBACK, &[]), &[], b"");
    assert_eq!(code_of(&elsewhere), "redirect_uri_invalid");
    ground.recorded_refusal("client_invalid");
}

#[test]
fn a_client_id_leads_nowhere_inside() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let (ground, _documents, origin) = ground("facade-documents-ssrf", false, move |id, _| {
        counter.fetch_add(1, Ordering::AcqRel);
        Reply::json(200, &document(id))
    });
    let by_address = origin.replace("localhost", "127.0.0.1");
    let metadata = format!("{}/.well-known/oauth-authorization-server", ground.origin());
    assert_eq!(fetch("GET", &metadata, &[], b"").json()["client_id_metadata_document_supported"], true);
    for id in [
        format!("{origin}/client.json"),
        format!("{by_address}/client.json"),
        "https://127.0.0.1/client.json".to_owned(),
        "https://[::1]/client.json".to_owned(),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://metadata.google.internal/computeMetadata".to_owned(),
        format!("{}/client.json", origin.replace("https", "http")),
        "https://localhost@evil.example/client.json".to_owned(),
        "https://evil.example/#@localhost/client.json".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let answer = fetch("GET", &ground.page(&id, WEB, &[]), &[], b"");
        assert_eq!((answer.status(), code_of(&answer).as_str()), (401, "client_invalid"), "{id}: {}", answer.text());
        assert!(!answer.text().contains("refused"), "what is found inside is not told: {}", answer.text());
    }
    assert_eq!(asked.load(Ordering::Acquire), 0, "nobody was dialled");
    assert!(ground.provider.recorder().seen_path("/auth").is_empty());
    ground.recorded_refusal("client_invalid");
}

#[test]
fn a_document_is_fetched_once_for_all_who_wait_for_it() {
    let (ground, documents, origin) = ground("facade-documents-flight", true, |id, path| match path {
        "/good" => Reply::json(200, &document(id)).after(Duration::from_millis(500)),
        _ => Reply::status(404).after(Duration::from_millis(500)),
    });
    for (path, status) in [("/good", 200), ("/none", 401)] {
        let (before, page) = (documents.seen().len(), ground.page(&format!("{origin}{path}"), WEB, &[]));
        let asked = std::thread::scope(|scope| {
            let ask = |_| scope.spawn(|| fetch("GET", &page, &[], b"").status());
            let all: Vec<_> = (0..12).map(ask).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<u16>>()
        });
        assert_eq!(asked, [status; 12], "{path}");
        assert_eq!(documents.seen().len(), before + 1, "{path}");
    }
}

#[test]
fn one_address_does_not_take_all_the_places_in_which_documents_are_fetched() {
    let released = Arc::new(AtomicUsize::new(0));
    let until = Arc::clone(&released);
    let (ground, documents, origin) = ground("facade-documents-places", true, move |id, path| match path {
        "/good" => Reply::json(200, &document(id)),
        _ => Reply::status(200).header("content-type", "application/json").step(Step::until(&until, 1)),
    });
    let hanging = |turn: usize| ground.page(&format!("{origin}/hangs-{turn}"), WEB, &[]);
    let ask = |page: String| fetch_from(ELSEWHERE, "GET", &page, &[], b"");
    // The four are given up after three seconds: where the machine is too busy for the fifth to come in that time, the scene
    // is played again.
    let scene = |number: usize| {
        std::thread::scope(|scope| {
            let (before, first) = (documents.seen().len(), 5 * number);
            let four: Vec<_> = (first..first + 4).map(|turn| scope.spawn(move || ask(hanging(turn)))).collect();
            place::wait_for("four fetches", place::PATIENCE, || (documents.seen().len() >= before + 4).then_some(()));
            let fifth = ask(hanging(first + 4));
            let turned_away = (fifth.status(), code_of(&fifth).as_str()) == (503, "overloaded");
            if turned_away {
                let landing = Browser::default().go(&ground.page(&format!("{origin}/good"), WEB, &[]), WEB);
                assert_eq!(page_of(&landing).status(), 200, "somebody else at the same moment");
                released.store(1, Ordering::Release);
            }
            for one in four {
                assert_eq!(one.join().unwrap().status(), 401, "no document");
            }
            turned_away
        })
    };
    assert!((0..5).any(scene), "a fifth document was fetched for one address");
    let landing = ask(ground.page(&format!("{origin}/good"), WEB, &[]));
    assert_eq!(landing.status(), 200, "the share comes back");
    ground.recorded_refusal("overloaded");
}
