//! A provider, or a host of client documents, that is no help: what was granted goes on without it, who needs it hears so
//! in bounded time, and it is not asked in a storm.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use url::Url;

use super::{CALLBACK, Ground, code_of, page_of, parameter, setup};
use crate::harness::{
    certificates::Authority,
    fault::{Fault, INSIDE},
    http::fetch,
    issuer::Issuer,
    login::Browser,
    place,
    recorder::{Era, Recorder, Reply, Seen},
};

/// A provider with a fault at one place, while the flag is up; where its metadata are.
fn provider(fault: &Present, at: fn(&Seen) -> bool, lie: fn() -> Reply, elsewhere: &Recorder) -> Issuer {
    let (fault, elsewhere) = (Present::clone(fault), elsewhere.origin());
    Issuer::scripted(move |seen| {
        let fault = (*fault.lock())?;
        (fault != Fault::Away && at(seen)).then(|| fault.reply(&elsewhere, lie))
    })
}

/// What is the matter now.
type Present = std::sync::Arc<parking_lot::Mutex<Option<Fault>>>;

/// Whoever logs in hears that nobody can.
fn login(ground: &Ground, client: &str) -> Url {
    let began = Instant::now();
    let back = Browser::default().agree(&ground.page(client, CALLBACK, &[]), CALLBACK);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(!back.as_str().contains(INSIDE), "{back}");
    back
}

#[test]
fn nobody_logs_in_while_the_provider_s_metadata_are_in_trouble_and_what_was_granted_goes_on() {
    let lie =
        || Reply::json(200, &json!({ "issuer": "https://evil.example", "token_endpoint": "https://evil.example/" }));
    let elsewhere = Recorder::serving(|_| Reply::status(200));
    thread::scope(|scope| {
        for fault in
            [Fault::Away, Fault::Hangs, Fault::Status500, Fault::Html, Fault::Huge, Fault::Elsewhere, Fault::Lies]
        {
            let elsewhere = &elsewhere;
            scope.spawn(move || {
                let present = Present::default();
                let metadata = |seen: &Seen| seen.path.starts_with("/.well-known/");
                let ground = Ground::with("facade-faults", provider(&present, metadata, lie, elsewhere), "");
                let robot = [("grant_type", "client_credentials"), ("client_id", "robot")];
                let secret = ("client_secret", "robot secret: with odd/characters");
                let resource = ground.resource();
                let asks = [&robot[..], &[secret, ("resource", &resource)]].concat();
                let token = ground.token(&asks).json()["access_token"].as_str().unwrap().to_owned();
                let client = ground.registered(CALLBACK);
                let recorder = ground.provider.recorder();
                let asked = || recorder.seen().iter().filter(|seen| metadata(seen)).count();
                *present.lock() = Some(fault);
                if fault == Fault::Away {
                    recorder.leave();
                }
                let (began, before) = (Instant::now(), asked());
                let fails = || {
                    let error = parameter(&login(&ground, &client), "error");
                    assert_eq!(error.as_deref(), Some("temporarily_unavailable"), "{fault:?}");
                };
                thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(fails))));
                // At two places, by the login and now and then for the keys.
                let most = 4 * (2 + began.elapsed().as_secs() as usize / 5);
                assert!(asked() - before <= most, "{fault:?}: asked {} times", asked() - before);
                ground.serves(&token);
                assert_eq!(ground.token(&asks).status(), 200, "{fault:?}");
                ground.recorded_refusal("login_unavailable");
                *present.lock() = None;
                if fault == Fault::Away {
                    recorder.come_back();
                }
                place::wait_for(&format!("{fault:?} over"), place::PATIENCE, || {
                    thread::sleep(Duration::from_secs(2)); // logins are few for each address
                    parameter(&login(&ground, &client), "code")
                });
            });
        }
    });
    assert!(elsewhere.seen().is_empty(), "a redirect was followed: {:?}", elsewhere.seen());
}

#[test]
fn nobody_logs_in_while_the_provider_s_token_endpoint_is_in_trouble() {
    let (present, elsewhere) = (Present::default(), Recorder::serving(|_| Reply::status(200)));
    let lie = || Reply::json(200, &json!({ "access_token": "x", "token_type": "Bearer" }));
    let ground =
        Ground::with("facade-faults-token", provider(&present, |seen| seen.path == "/token", lie, &elsewhere), "");
    let (client, given) = ground.logged_in("early");
    for fault in Fault::ALL.into_iter().filter(|fault| *fault != Fault::Away) {
        *present.lock() = Some(fault);
        let before = ground.provider.asked().len();
        let back = login(&ground, &client);
        // An answer without a person in it is one all the same.
        let error = if fault == Fault::Lies { "access_denied" } else { "temporarily_unavailable" };
        assert_eq!(parameter(&back, "error").as_deref(), Some(error), "{fault:?}: {back}");
        assert_eq!(ground.provider.asked().len(), before + 1, "{fault:?}: a code is shown once");
        ground.serves(given["access_token"].as_str().unwrap());
        *present.lock() = None;
        assert!(parameter(&login(&ground, &client), "code").is_some(), "{fault:?} over");
    }
    for code in ["login_unavailable", "login_failed"] {
        ground.recorded_refusal(code);
    }
    assert!(elsewhere.seen().is_empty(), "a redirect was followed: {:?}", elsewhere.seen());
}

const WEB: &str = "https://app.example/callback";

#[test]
fn a_client_whose_document_cannot_be_had_is_unknown_and_its_host_is_asked_once() {
    let (provider, partner, upstream) = (Issuer::good(), Issuer::good(), Recorder::good(Era::Modern));
    let elsewhere = Recorder::serving(|_| Reply::status(200));
    let setup = setup("facade-faults-documents", &provider, &partner, &upstream, "client_domains = [\"localhost\"]");
    let authority = Authority::new(setup.folder());
    let leaf = authority.leaf("documents", &["localhost", "127.0.0.1"]);
    let document = |id: &str| json!({ "client_id": id, "client_name": "By document", "redirect_uris": [WEB] });
    let lure = elsewhere.origin();
    let answer = move |seen: &Seen| {
        let id = format!("https://{}{}", seen.header("host").unwrap_or_default(), seen.path);
        let fault = Fault::ALL.into_iter().find(|fault| seen.path == format!("/{fault:?}"));
        let lie = || Reply::json(200, &document(&id.replace("Lies", "good")));
        fault.map_or_else(|| Reply::json(200, &document(&id)), |fault| fault.reply(&lure, lie))
    };
    let server = || Recorder::serving_tls(Authority::server(&leaf), answer.clone());
    let (documents, leaves) = (server(), server());
    let [origin, away] = [&documents, &leaves].map(|server| server.origin().replace("127.0.0.1", "localhost"));
    let egress = format!("[egress]\norigins = [\"{origin}\", \"{away}\"]\nca = \"{}\"", authority.file().display());
    let gateway = setup.section(&egress).start();
    let ground = Ground { provider, partner, upstream, gateway };
    let open = |id: &str| fetch("GET", &ground.page(id, WEB, &[]), &[], b"");
    let known = format!("{away}/good");
    assert!(open(&known).text().contains("By document"));
    let read = leaves.seen().len();
    leaves.leave();

    let unknown = |id: &str| {
        for _ in 0..4 {
            let (began, answer) = (Instant::now(), open(id));
            assert_eq!(
                (answer.status(), code_of(&answer).as_str()),
                (401, "client_invalid"),
                "{id}: {}",
                answer.text()
            );
            assert!(!answer.text().contains(INSIDE) && answer.header("location").is_none(), "{id}");
            assert!(began.elapsed() < Duration::from_secs(20), "{id}: {:?}", began.elapsed());
        }
    };
    unknown(&format!("{away}/other"));
    let (slow, quick): (Vec<Fault>, Vec<Fault>) = Fault::ALL
        .into_iter()
        .filter(|fault| *fault != Fault::Away)
        .partition(|fault| [Fault::Hangs, Fault::Stops, Fault::Endless].contains(fault));
    thread::scope(|scope| {
        for fault in slow {
            let (origin, unknown) = (&origin, &unknown);
            scope.spawn(move || unknown(&format!("{origin}/{fault:?}")));
        }
    });
    quick.iter().for_each(|fault| unknown(&format!("{origin}/{fault:?}")));
    for fault in Fault::ALL.into_iter().filter(|fault| *fault != Fault::Away) {
        assert_eq!(documents.seen_path(&format!("/{fault:?}")).len(), 1, "{fault:?}");
    }
    // What was read is believed for a while, whatever has become of its host.
    assert!(page_of(&Browser::default().go(&ground.page(&known, WEB, &[]), WEB)).text().contains("By document"));
    assert_eq!(leaves.seen().len(), read);
    assert!(ground.provider.recorder().seen_path("/auth").is_empty() && elsewhere.seen().is_empty());
    ground.recorded_refusal("client_invalid");
}
