//! Does the journal keep its promises when it is attacked, killed or denied its disk?

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;
use uuid::Uuid;

use super::{
    chain::{Chain, Checkpoint},
    journal::{Journal, new_id},
    json::Json,
    keys::{RootKey, public_of_folder},
    lane::{EXPORT_BYTES_MAX, EXPORT_FILES},
    record::{
        Change, Connect, Counted, Decision, Ending, Grant, Intent, List, Mint, Outcome, Record, Recovered, Refused,
        Request, Revoked, Stamp, Start, Stop, Subject, Summary, Target, Who, Words, line,
    },
    segment,
    show::{Query, show},
    verify::{Fault, FaultKind, Report, verify},
};
use crate::{
    ceiling::admission,
    clock::Timestamp,
    config::{ArgumentRecord, Audit, Durability},
    identity::{Agent, Authentication, Binding, Credential, Identity, User},
    policy::{Finding, Shadow},
    refusal::{Era, Refusal},
    secret::Secret,
};

// ── what records look like ──

const HOSTILE: &str =
    "x\",\"event\":\"forged\"}\n{\"seq\":1}\r\u{1b}[2J\u{0}\u{7f}\u{85}\u{2028}\u{2029}\u{202e}\u{2066}\\";

fn identity(text: &str) -> Identity {
    Identity {
        user: Some(User { issuer: text.to_owned(), subject: text.to_owned() }),
        agent: Agent { client_id: text.to_owned(), actors: vec![text.to_owned()] },
        tenant: Some(text.to_owned()),
        groups: Vec::new(),
        scopes: Vec::new(),
        authentication: Authentication {
            method: "jwt",
            issuer: text.to_owned(),
            token_id: Some(text.to_owned()),
            token_digest: "00112233445566778899aabbccddeeff".to_owned(),
            login_id: None,
            acr: Some(text.to_owned()),
            issued_at: Timestamp::from_unix_ms(0),
            auth_time: Some(Timestamp::from_unix_seconds(1_700_000_000)),
            binding: Binding::Key(text.to_owned()),
            may_act: None,
            expires_at: Timestamp::from_unix_ms(0),
        },
        principal: [0; 32],
        class: [0; 32],
        credential: Credential::new("must-never-be-written".to_owned()),
    }
}

fn who<'a>(identity: &'a Identity, text: &'a str) -> Who<'a> {
    Who { identity: Some(identity), claimed_name: Some(text), claimed_version: Some(text) }
}

fn request(text: &str) -> Request<'_> {
    Request {
        session: Some(text),
        id: Some(text),
        method: Some(text),
        era: Some(Era::Modern),
        version: Some(text),
        arguments: Some(text),
        trace_id: Some(text),
        span_id: Some(text),
        peer: Some("[2001:db8::1]:443".parse().unwrap()),
    }
}

fn target(text: &str) -> Target<'_> {
    Target { endpoint: "/mcp", upstream: text, kind: "tool", name: text, exposed: text, definition: Some(text) }
}

fn decision<'a>(text: &'a str, policies: &'a [&'a str]) -> Decision<'a> {
    Decision {
        outcome: "allow",
        policies: Words::Borrowed(policies),
        policy_set: text,
        reason: Some(text),
        shadow: &[],
    }
}

fn grant<'a>(text: &'a str, scopes: &'a [&'a str]) -> Grant<'a> {
    Grant {
        strategy: "exchange",
        audience: Some(text),
        scopes: Words::Borrowed(scopes),
        token_id: Some(text),
        token_digest: Some(text),
        cached: true,
    }
}

fn intent<'a>(identity: &'a Identity, text: &'a str, words: &'a [&'a str]) -> Intent<'a> {
    Intent {
        who: who(identity, text),
        target: target(text),
        grant: grant(text, words),
        decision: decision(text, words),
        ceilings: Words::Borrowed(words),
        request: request(text),
        continues: None,
    }
}

fn outcome(ending: Ending) -> Outcome<'static> {
    Outcome {
        status: Some(200),
        rpc_code: Some(-32603),
        code: Some("upstream_timeout"),
        reason: Some("late"),
        bytes: Some(560),
        duration_us: Some(1234),
        attempts: 2,
        token_digest: Some("d16e57"),
        ..Outcome::new(ending)
    }
}

fn connect<'a>(text: &'a str, scopes: &'a [&'a str]) -> Connect<'a> {
    Connect {
        user: Some((text, text)),
        upstream: text,
        outcome: "connected",
        scopes: Words::Borrowed(scopes),
        grant: Some(Grant { strategy: "user_grant", cached: false, ..grant(text, scopes) }),
        reason: Some(text),
        request: request(text),
    }
}

fn revoked(text: &str) -> Revoked<'_> {
    Revoked {
        state: "enforced",
        id: Uuid::from_u128(7),
        kind: "user",
        name: text,
        issuer: Some(text),
        blocks: true,
        at: Timestamp::from_unix_seconds(1_767_614_400),
        until: Some(Timestamp::from_unix_seconds(1_767_618_000)),
        by: Some(text),
        why: Some(text),
        ended: Some([1, 2, 3, 4]),
    }
}

const STAMP: Stamp = Stamp { now: Timestamp::from_unix_ms(1_785_240_000_123), monotonic_ms: 42 };

fn sealed<R: Record>(record: &R) -> String {
    let key = RootKey::parse(&Secret::new("11".repeat(32))).unwrap();
    let mut out = Vec::new();
    Chain::new(Uuid::nil()).seal(&key.chain, &line(Uuid::nil(), STAMP, record), &mut out);
    String::from_utf8(out).unwrap()
}

/// One line of every event with `text` in every text, with the chain's own masked.
fn every_event(text: &str) -> Vec<String> {
    let identity = identity(text);
    let words = [text];
    let nobody = Who { claimed_name: Some(text), ..Who::default() };
    let trial = [
        Finding { policy: text.into(), outcome: Shadow::Permits, changes: true },
        Finding { policy: text.into(), outcome: Shadow::Fails, changes: false },
    ];
    let counted =
        [Counted { peer: "192.0.2.1".parse().unwrap(), code: "token_invalid", fault: Some("expired"), count: 7 }];
    let refused = Refused {
        who: who(&identity, text),
        target: Some(target(text)),
        decision: Some(Decision { outcome: "deny", shadow: &trial, ..decision(text, &words) }),
        ceilings: Words::Borrowed(&words),
        request: request(text),
        code: "denied",
        reason: text,
        status: 403,
    };
    let unknown = Refused {
        who: nobody,
        target: None,
        decision: None,
        ceilings: Words::default(),
        request: Request::default(),
        ..refused
    };
    let change = |subject| Change { subject, digest: text, previous: Some(text), rejected: Some(text) };
    let (call, grant) = (Some(Uuid::nil()), grant(text, &words));
    let mint = Mint { who: nobody, upstream: text, grant, call, request: request(text) };
    let list = List { who: nobody, endpoint: "/mcp", request: request(text), shown: 3, withheld: 4, policy_set: text };
    let recovered = Recovered {
        cause: "crash",
        reason: Some(text),
        segment: Some(text),
        bytes_dropped: 17,
        digest: Some(text),
        open_calls: 2,
        missing_to: Some(9),
        lost: 0,
    };
    vec![
        sealed(&intent(&identity, text, &words)),
        sealed(&outcome(Ending::Failed)),
        sealed(&Outcome::new(Ending::Unknown)),
        sealed(&refused),
        sealed(&unknown),
        sealed(&mint),
        sealed(&connect(text, &words)),
        sealed(&list),
        sealed(&change(Subject::Config)),
        sealed(&Change { rejected: None, ..change(Subject::Policy) }),
        sealed(&revoked(text)),
        sealed(&crate::audit::record::Key {
            state: "made",
            id: text,
            user: Some(text),
            agent: text,
            tenant: Some(text),
            scopes: Words::Borrowed(&words),
            until: Timestamp::from_unix_seconds(1_767_618_000),
        }),
        sealed(&Start { version: text, config: text, policy_set: text }),
        sealed(&Stop { reason: text }),
        sealed(&Summary { sources: &counted, others: 5 }),
        sealed(&recovered),
    ]
}

#[test]
fn whoever_calls_is_shown_as_an_address_is() {
    for text in ["192.0.2.1:9", "0.10.200.255:65535", "127.0.0.1:0", "[2001:db8::1]:443"] {
        let mut line = Vec::new();
        Json::begin(&mut line).address("peer", text.parse().unwrap());
        assert_eq!(String::from_utf8(line).unwrap(), format!("{{\"peer\":\"{text}\""));
    }
}

#[test]
fn every_event_has_the_form_that_is_promised() {
    let lines = every_event("t").into_iter().map(|line| {
        let (head, mac) = line.split_once(",\"mac\":\"").unwrap();
        assert_eq!(mac.len(), 64 + 3);
        format!("{head},\"mac\":\"[mac]\"}}\n")
    });
    insta::assert_snapshot!(lines.collect::<String>());
}

#[test]
fn no_text_can_forge_a_line_or_a_member_or_act_on_a_terminal() {
    for line in every_event(HOSTILE) {
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let bad =
            |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}' | '\u{2066}');
        assert!(!line.contains(bad), "{line:?}");
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_ne!(parsed["event"], "forged");
        assert_eq!(parsed["seq"], 1);
        assert!(!line.contains("must-never-be-written"));
    }
    let parsed: Value = serde_json::from_str(&every_event(HOSTILE)[0]).unwrap();
    assert_eq!(parsed["target"]["name"], HOSTILE, "what was escaped reads back as it was");
}

#[test]
fn long_texts_and_arrays_are_cut_and_say_so() {
    let long = "ä".repeat(5_000);
    let many = vec!["p"; 100];
    let identity = identity(&long);
    let line = sealed(&intent(&identity, &long, &many));
    assert!(line.len() < 16_384, "{}", line.len());
    let parsed: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(parsed["target"]["name"], format!("{}…+9744", "ä".repeat(128)));
    assert_eq!(parsed["ceilings"].as_array().unwrap().len(), 33);
    assert_eq!(parsed["ceilings"][32], "… of 100");
}

// ── the journal on a disk ──

fn config(folder: &Path) -> Audit {
    Audit {
        directory: folder.to_owned(),
        arguments: ArgumentRecord::Digest,
        durability: Durability::Fsync,
        segment_bytes_max: 64 << 20,
        segment_age_max: Duration::from_secs(3600),
        queue_max: 8192,
        wait_max: Duration::from_secs(10),
        key: None,
    }
}

fn proved(folder: &Path) -> Result<Report, Fault> {
    proved_against(folder, &[])
}

fn proved_against(folder: &Path, anchors: &[Checkpoint]) -> Result<Report, Fault> {
    verify(folder, &RootKey::of_folder(folder).unwrap(), &public_of_folder(folder).unwrap(), anchors)
}

/// Every record of the folder, lane by lane.
fn records(folder: &Path) -> Vec<Value> {
    let mut records = Vec::new();
    for lane in super::verify::lanes(folder).unwrap() {
        for (_, path) in segment::list(&lane).unwrap() {
            let bytes = fs::read(path).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            records.extend(text.trim_end_matches('\0').lines().map(|line| serde_json::from_str(line).unwrap()));
        }
    }
    records
}

async fn call(journal: &Journal, name: &str) -> Result<Uuid, Refusal> {
    let identity = identity("alice");
    let receipt =
        journal.commit(new_id(), &intent(&identity, name, &["w"]), Durability::Os).receipt(admission()).await?;
    Ok(receipt.id())
}

/// A journal with `calls` calls, closed properly.
async fn written(folder: &Path, calls: usize, change: impl FnOnce(&mut Audit)) {
    let mut config = config(folder);
    change(&mut config);
    let journal = Journal::open(&config).unwrap();
    journal.write(&Start { version: "0", config: "c", policy_set: "p" }).await.unwrap();
    for nth in 0..calls {
        let id = call(&journal, &format!("tool-{nth}")).await.unwrap();
        assert!(journal.note(id, &outcome(Ending::Ok)));
    }
    journal.write(&Stop { reason: "sigterm" }).await.unwrap();
    assert!(journal.close().await);
}

fn first_segment(folder: &Path) -> PathBuf {
    folder.join("lane-0").join(segment::name(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_calls_are_all_durable_and_numbered_without_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Arc::new(Journal::open(&config(folder.path())).unwrap());
    let calls: Vec<_> = (0..1000)
        .map(|nth| {
            let journal = Arc::clone(&journal);
            crate::tasks::background(async move { call(&journal, &format!("tool-{nth}")).await.unwrap() })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for call in calls {
        acknowledged.push(call.await.unwrap());
    }
    // What is on the disk now is what a crash at this moment would leave.
    let records = records(folder.path());
    let seqs: Vec<u64> = records.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=u64::try_from(seqs.len()).unwrap()).collect::<Vec<_>>());
    let ids: HashMap<String, usize> = records
        .iter()
        .filter(|record| record["event"] == "intent")
        .map(|record| (record["id"].as_str().unwrap().to_owned(), 1))
        .collect();
    assert_eq!(ids.len(), 1000);
    assert!(acknowledged.iter().all(|id| ids.contains_key(&id.to_string())));
    assert!(journal.close().await);
    let report = proved(folder.path()).unwrap();
    assert!(report.lanes[0].checkpoints >= 2, "{report:?}");
    assert_eq!(report.lanes[0].open_calls, 1000);
    assert!(matches!(call(&journal, "late").await, Err(Refusal::AuditUnavailable(_))));
}

#[tokio::test]
async fn a_chain_that_nobody_touched_is_proved_across_segments_and_starts() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 40, |config| config.segment_bytes_max = 8 << 10).await;
    written(folder.path(), 5, |_| ()).await;
    let report = proved(folder.path()).unwrap();
    assert!(report.lanes[0].segments > 5, "{report:?}");
    assert_eq!((report.lanes[0].open_calls, report.lanes[0].recoveries, report.lanes[0].torn_bytes), (0, 0, 0));
    assert_eq!(report.records(), u64::try_from(records(folder.path()).len()).unwrap());
    for (_, path) in segment::list(&folder.path().join("lane-0")).unwrap() {
        assert!(fs::metadata(path).unwrap().len() < (8 << 10) + 2048);
    }
}

#[tokio::test]
async fn a_segment_is_closed_at_its_age() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3, |config| config.segment_age_max = Duration::ZERO).await;
    assert!(proved(folder.path()).unwrap().lanes[0].segments >= 3);
}

/// Writes a journal, lets `tamper` change the lines of a segment, and expects a fault there.
async fn check_tampering(
    tamper: impl FnOnce(&mut Vec<Vec<u8>>),
    expect: impl FnOnce(u64) -> (FaultKind, u64, Option<u64>),
) {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 10, |_| ()).await;
    let path = first_segment(folder.path());
    let mut lines: Vec<Vec<u8>> =
        fs::read(&path).unwrap().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let count = u64::try_from(lines.len()).unwrap();
    tamper(&mut lines);
    fs::write(&path, lines.concat()).unwrap();
    let fault = proved(folder.path()).unwrap_err();
    let (kind, line, seq) = expect(count);
    assert_eq!((&fault.kind, fault.line, fault.seq), (&kind, line, seq), "{fault}");
    let before: usize = lines.iter().take(usize::try_from(line.saturating_sub(1)).unwrap()).map(Vec::len).sum();
    if line > 0 && kind != FaultKind::Truncated {
        assert_eq!(fault.offset, u64::try_from(before).unwrap(), "{fault}");
    }
}

#[tokio::test]
async fn the_first_bad_record_is_named_whatever_was_done_to_it() {
    check_tampering(|lines| lines[4][200] ^= 1, |_| (FaultKind::Changed, 5, Some(5))).await;
    // Two lines made one: it ends as the second does, so the first is what is missing.
    check_tampering(|lines| *lines[4].last_mut().unwrap() = b' ', |_| (FaultKind::Removed, 5, Some(5))).await;
    check_tampering(|lines| drop(lines.remove(4)), |_| (FaultKind::Removed, 5, Some(5))).await;
    check_tampering(|lines| drop(lines.drain(4..7)), |_| (FaultKind::Removed, 5, Some(5))).await;
    check_tampering(|lines| lines.swap(4, 5), |_| (FaultKind::Reordered, 5, Some(6))).await;
    check_tampering(|lines| lines.insert(5, lines[4].clone()), |_| (FaultKind::Duplicate, 6, Some(5))).await;
    check_tampering(|lines| lines.insert(9, lines[2].clone()), |_| (FaultKind::Duplicate, 10, Some(3))).await;
    check_tampering(|lines| drop(lines.remove(0)), |_| (FaultKind::Removed, 1, Some(1))).await;
    // The tail: the last checkpoint beside the segment speaks of the record before itself.
    check_tampering(|lines| lines.truncate(6), |count| (FaultKind::Truncated, 7, Some(count - 1))).await;
}

#[tokio::test]
async fn every_single_flipped_bit_of_a_record_is_found() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3, |_| ()).await;
    let path = first_segment(folder.path());
    let whole = fs::read(&path).unwrap();
    let (key, public) = (RootKey::of_folder(folder.path()).unwrap(), public_of_folder(folder.path()).unwrap());
    // The very last line feed apart: without it the last line counts as torn, which the report says.
    for at in (0..whole.len() - 1).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        verify(folder.path(), &key, &public, &[]).unwrap_err();
    }
}

#[tokio::test]
async fn faults_across_segments_are_found() {
    // How many segments there are depends on how records fell into batches, so the newest is looked up where it is.
    let newest = |lane: &Path| segment::list(lane).unwrap().last().unwrap().clone();
    let check = async |tamper: &dyn Fn(&Path), kind: FaultKind, named: Option<u64>| {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), 30, |config| config.segment_bytes_max = 8 << 10).await;
        let lane = folder.path().join("lane-0");
        tamper(&lane);
        let fault = proved(folder.path()).unwrap_err();
        let named = named.unwrap_or_else(|| newest(&lane).0);
        assert_eq!((fault.kind.clone(), fault.segment.clone()), (kind, segment::name(named)), "{fault}");
    };
    let of = |lane: &Path, index| lane.join(segment::name(index));
    check(&|lane| fs::remove_file(of(lane, 3)).unwrap(), FaultKind::MissingSegment, Some(3)).await;
    check(&|lane| fs::remove_file(of(lane, 1)).unwrap(), FaultKind::MissingSegment, Some(1)).await;
    let swap = |lane: &Path| {
        fs::rename(of(lane, 2), lane.join("x")).unwrap();
        fs::rename(of(lane, 3), of(lane, 2)).unwrap();
        fs::rename(lane.join("x"), of(lane, 3)).unwrap();
    };
    check(&swap, FaultKind::Removed, Some(2)).await;
    check(&|lane| assert!(fs::copy(of(lane, 2), of(lane, 3)).is_ok()), FaultKind::Duplicate, Some(3)).await;
    let cut = |lane: &Path| {
        let bytes = fs::read(of(lane, 2)).unwrap();
        let end = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
        fs::write(of(lane, 2), &bytes[..=end]).unwrap();
    };
    check(&cut, FaultKind::Removed, Some(2)).await;
    check(&|lane| fs::remove_file(newest(lane).1).unwrap(), FaultKind::Truncated, None).await;
}

#[tokio::test]
async fn a_checkpoint_kept_elsewhere_proves_what_the_machine_alone_cannot() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 10, |_| ()).await;
    let lane = folder.path().join("lane-0");
    let exported = fs::read_to_string(lane.join("checkpoints.jsonl")).unwrap();
    let anchor = Checkpoint::parse(exported.lines().last().unwrap()).unwrap();
    // Somebody with all of the machine cuts the tail and the checkpoints beside it.
    let whole = fs::read_to_string(first_segment(folder.path())).unwrap();
    let kept: String = whole.split_inclusive('\n').take(5).collect();
    fs::write(first_segment(folder.path()), kept).unwrap();
    fs::remove_file(lane.join("checkpoints.jsonl")).unwrap();
    proved(folder.path()).unwrap();
    let fault = proved_against(folder.path(), std::slice::from_ref(&anchor)).unwrap_err();
    assert_eq!((fault.kind, fault.seq), (FaultKind::Truncated, Some(anchor.seq)));
    // A checkpoint that somebody else signed proves nothing.
    let forged = Checkpoint { seq: 2, ..anchor.clone() };
    assert_eq!(proved_against(folder.path(), &[forged]).unwrap_err().kind, FaultKind::BadCheckpoint);
    // The whole chain replaced by a fresh one under the same keys.
    fs::remove_dir_all(&lane).unwrap();
    written(folder.path(), 10, |_| ()).await;
    proved(folder.path()).unwrap();
    assert_eq!(proved_against(folder.path(), &[anchor]).unwrap_err().kind, FaultKind::MissingSegment);
}

#[tokio::test]
async fn a_chain_that_is_taken_away_or_copied_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 10, |_| ()).await;
    let (lane, copy) = (folder.path().join("lane-0"), folder.path().join("lane-5"));
    fs::create_dir(&copy).unwrap();
    fs::copy(first_segment(folder.path()), copy.join(segment::name(1))).unwrap();
    let fault = proved(folder.path()).unwrap_err();
    assert_eq!((fault.kind, fault.lane.as_str()), (FaultKind::Duplicate, "lane-5"));
    fs::remove_dir_all(copy).unwrap();
    // The segments, but not what was signed of them.
    let exported = fs::read_to_string(lane.join("checkpoints.jsonl")).unwrap();
    let last = Checkpoint::parse(exported.lines().last().unwrap()).unwrap();
    fs::remove_file(first_segment(folder.path())).unwrap();
    assert_eq!(proved(folder.path()).unwrap_err().kind, FaultKind::MissingSegment);
    written(folder.path(), 10, |_| ()).await;
    let recovered = records(folder.path()).into_iter().find(|record| record["event"] == "recovered").unwrap();
    assert_eq!(recovered["recovered"]["missing_to"], last.seq);
    assert_eq!(proved(folder.path()).unwrap_err().kind, FaultKind::MissingSegment, "a new chain does not hide it");
}

#[tokio::test]
async fn checkpoints_beside_the_segments_are_a_bounded_part() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3, |_| ()).await;
    let lane = folder.path().join("lane-0");
    let (path, older) = (lane.join(EXPORT_FILES[1]), lane.join(EXPORT_FILES[0]));
    let exported = fs::read_to_string(&path).unwrap();
    let last = exported.lines().last().unwrap();
    let times = usize::try_from(EXPORT_BYTES_MAX).unwrap() / last.len() + 1;
    fs::write(&path, format!("{last}\n").repeat(times)).unwrap();
    written(folder.path(), 3, |_| ()).await;
    assert!(fs::metadata(&older).unwrap().len() >= EXPORT_BYTES_MAX);
    assert!(fs::metadata(&path).unwrap().len() < 4096);
    let report = proved(folder.path()).unwrap();
    assert!(report.lanes[0].checkpoints > u64::try_from(times).unwrap(), "the older ones count, too");
    // A start between the two files.
    fs::rename(path, older).unwrap();
    written(folder.path(), 1, |_| ()).await;
    assert_eq!(proved(folder.path()).unwrap().lanes[0].recoveries, 0);
}

#[tokio::test]
async fn another_key_neither_verifies_nor_continues_a_chain() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 2, |_| ()).await;
    let other = Secret::new("22".repeat(32));
    let public = public_of_folder(folder.path()).unwrap();
    let fault = verify(folder.path(), &RootKey::parse(&other).unwrap(), &public, &[]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OtherKey);
    let config = Audit { key: Some(other), ..config(folder.path()) };
    let refused = Journal::open(&config).unwrap_err().to_string();
    assert!(refused.contains("another audit key"), "{refused}");
    proved(folder.path()).unwrap();
}

// ── crashes ──

/// Copies a journal's folder as a crash at this moment would leave it.
fn crash_image(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    fs::create_dir(to.path().join("lane-0")).unwrap();
    for (source, target) in [(from.to_owned(), to.path().to_owned()), (from.join("lane-0"), to.path().join("lane-0"))] {
        // By name, so checkpoints before the segments that they speak of: the writer may be at work.
        let mut entries: Vec<_> = fs::read_dir(source).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
            }
        }
    }
    to
}

#[tokio::test]
async fn calls_that_a_crash_left_open_get_an_outcome_and_the_chain_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.segment_bytes_max = 4 << 10;
    let journal = Journal::open(&config).unwrap();
    let mut ids = Vec::new();
    for nth in 0..10 {
        ids.push(call(&journal, &format!("tool-{nth}")).await.unwrap());
    }
    for id in &ids[..7] {
        assert!(journal.note(*id, &outcome(Ending::Ok)));
    }
    journal.write(&Change { subject: Subject::Policy, digest: "d", previous: None, rejected: None }).await.unwrap();
    let image = crash_image(folder.path());
    assert_eq!(proved(image.path()).unwrap().lanes[0].open_calls, 3, "a crashed journal verifies as it is");
    written(image.path(), 1, |_| ()).await;
    let report = proved(image.path()).unwrap();
    assert_eq!((report.lanes[0].open_calls, report.lanes[0].recoveries), (0, 1));
    let unknown: Vec<String> = records(image.path())
        .iter()
        .filter(|record| record["result"]["ending"] == "unknown")
        .map(|record| record["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(unknown, ids[7..].iter().map(Uuid::to_string).collect::<Vec<_>>());
    written(image.path(), 1, |_| ()).await;
    assert_eq!(proved(image.path()).unwrap().lanes[0].recoveries, 1, "a proper stop needs no recovery");
}

#[tokio::test]
async fn a_crash_while_a_crash_is_mended_leaves_no_call_without_an_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(folder.path())).unwrap();
    let id = call(&journal, "tool").await.unwrap();
    // Only what the new segment began with was durable when the power went, or not even that: the header alone.
    for lines in [3, 2, 1] {
        let image = crash_image(folder.path());
        assert!(Journal::open(&config(image.path())).unwrap().close().await);
        let segment = image.path().join("lane-0").join(segment::name(2));
        let text = fs::read_to_string(&segment).unwrap();
        let kept: String = text.split_inclusive('\n').take(lines).collect();
        assert_eq!(kept.contains("\"event\":\"recovered\""), lines == 3, "{text}");
        fs::write(&segment, kept).unwrap();
        fs::remove_file(image.path().join("lane-0").join("checkpoints.jsonl")).unwrap_or_default();
        written(image.path(), 1, |_| ()).await;
        assert_eq!(proved(image.path()).unwrap().lanes[0].open_calls, 0);
        let unknown = |record: &&Value| record["result"]["ending"] == "unknown" && record["id"] == id.to_string();
        assert_eq!(records(image.path()).iter().filter(unknown).count(), 1, "{lines}");
    }
}

#[tokio::test]
async fn a_torn_tail_is_recognised_set_aside_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(folder.path())).unwrap();
    for nth in 0..4 {
        let id = call(&journal, &format!("tool-{nth}")).await.unwrap();
        assert!(journal.note(id, &outcome(Ending::Ok)));
    }
    journal.write(&Start { version: "0", config: "c", policy_set: "p" }).await.unwrap();
    let image = crash_image(folder.path());
    let path = first_segment(image.path());
    let bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert!(bytes.len() > used, "space is written ahead");
    // Cut anywhere within the last record, with and without the zeros that were written ahead.
    let start = bytes[..used - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for (nth, cut) in [start + 1, start + 90, used - 1].into_iter().enumerate() {
        let torn = crash_image(image.path());
        let mut tail = bytes.clone();
        tail[cut..].fill(0);
        if nth % 2 == 0 {
            tail.truncate(cut);
        }
        fs::write(first_segment(torn.path()), &tail).unwrap();
        fs::write(torn.path().join("lane-0").join("checkpoints.jsonl"), b"{\"schema\":\"tollgate.au").unwrap();
        let before = proved(torn.path()).unwrap();
        assert_eq!(before.lanes[0].torn_bytes, u64::try_from(cut - start).unwrap());
        written(torn.path(), 1, |_| ()).await;
        let after = proved(torn.path()).unwrap();
        assert_eq!((after.lanes[0].torn_bytes, after.lanes[0].recoveries), (0, 1));
        let recovered = records(torn.path()).into_iter().find(|record| record["event"] == "recovered").unwrap();
        assert_eq!(recovered["recovered"]["bytes_dropped"], u64::try_from(cut - start).unwrap());
        let kept = fs::read(torn.path().join("lane-0").join("segment-00000001.torn-0")).unwrap();
        assert_eq!(kept, &bytes[start..cut]);
    }
}

#[tokio::test]
async fn a_segment_whose_header_was_not_written_whole_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 2, |_| ()).await;
    let next = folder.path().join("lane-0").join(segment::name(2));
    for content in [&b""[..], b"{\"schema\":\"tollg", &[0; 100]] {
        fs::write(&next, content).unwrap();
        let image = crash_image(folder.path());
        written(image.path(), 1, |_| ()).await;
        let report = proved(image.path()).unwrap();
        assert_eq!((report.lanes[0].segments, report.lanes[0].recoveries), (2, 1));
    }
}

#[tokio::test]
async fn recovery_does_not_hide_a_tail_that_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 10, |_| ()).await;
    let whole = fs::read_to_string(first_segment(folder.path())).unwrap();
    let kept: String = whole.split_inclusive('\n').take(6).collect();
    fs::write(first_segment(folder.path()), kept).unwrap();
    written(folder.path(), 10, |_| ()).await;
    let recovered = records(folder.path()).into_iter().find(|record| record["event"] == "recovered").unwrap();
    assert!(recovered["recovered"]["missing_to"].as_u64().unwrap() > 6);
    assert_eq!(proved(folder.path()).unwrap_err().kind, FaultKind::BadCheckpoint);
}

#[tokio::test]
async fn two_processes_write_two_lanes_and_a_crashed_lane_is_mended_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let old = Journal::open(&config(folder.path())).unwrap();
    let new = Journal::open(&config(folder.path())).unwrap();
    call(&old, "old").await.unwrap();
    call(&new, "new").await.unwrap();
    assert!(old.close().await);
    assert!(new.close().await);
    let report = proved(folder.path()).unwrap();
    assert_eq!(report.lanes.iter().map(|lane| lane.open_calls).collect::<Vec<_>>(), [1, 1]);
    let next = Journal::open(&config(folder.path())).unwrap();
    assert!(next.close().await);
    let report = proved(folder.path()).unwrap();
    assert_eq!(report.lanes.iter().map(|lane| lane.open_calls).collect::<Vec<_>>(), [0, 0]);
}

// ── a disk that fails, callers that leave ──

async fn until(mut holds: impl FnMut() -> bool) {
    let limit = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    limit.await.expect("it comes true in time");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_refuses_every_call_until_it_does_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.segment_bytes_max = 4 << 10;
    let journal = Journal::open(&config).unwrap();
    let before = call(&journal, "before").await.unwrap();
    // The lane's folder goes away, so that the next segment cannot be made.
    let (lane, gone) = (folder.path().join("lane-0"), folder.path().join("gone"));
    fs::rename(&lane, &gone).unwrap();
    let mut refused = 0;
    for nth in 0..20 {
        if let Err(refusal) = call(&journal, &format!("during-{nth}")).await {
            assert_eq!(refusal.code(), "audit_unavailable");
            refused += 1;
        }
    }
    assert!(refused > 0);
    assert!(!journal.healthy());
    assert!(journal.note(before, &outcome(Ending::Ok)), "the outcome of a call that was forwarded is kept");
    fs::rename(&gone, &lane).unwrap();
    until(|| journal.healthy()).await;
    call(&journal, "after").await.unwrap();
    assert!(journal.close().await);
    let report = proved(folder.path()).unwrap();
    assert_eq!(report.lanes[0].recoveries, 1);
    let records = records(folder.path());
    let id = before.to_string();
    let with_outcome = records.iter().filter(|record| record["event"] == "outcome" && record["id"] == *id).count();
    assert_eq!(with_outcome, 1);
    let intents = records.iter().filter(|record| record["event"] == "intent").count();
    assert_eq!(intents, 22 - refused, "what was refused is not there, what was acknowledged is");
}

#[tokio::test]
async fn refusals_leave_room_for_the_outcomes_of_what_was_forwarded() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.queue_max = 8;
    config.segment_bytes_max = 4 << 10;
    let journal = Journal::open(&config).unwrap();
    let mut forwarded = Vec::new();
    for _ in 0..8 {
        forwarded.push(call(&journal, "forwarded").await.unwrap());
    }
    let (lane, gone) = (folder.path().join("lane-0"), folder.path().join("gone"));
    fs::rename(&lane, &gone).unwrap();
    until(|| {
        let _taken = journal.note(new_id(), &Stop { reason: &"full ".repeat(100) });
        !journal.healthy()
    })
    .await;
    let mut noted = 0;
    until(|| {
        noted += usize::from(journal.note(new_id(), &Stop { reason: "refused meanwhile" }));
        noted >= 100
    })
    .await;
    for id in &forwarded {
        until(|| journal.note(*id, &outcome(Ending::Ok))).await;
    }
    fs::rename(&gone, &lane).unwrap();
    until(|| journal.healthy()).await;
    assert!(journal.close().await);
    assert_eq!(proved(folder.path()).unwrap().lanes[0].open_calls, 0);
    let lost = records(folder.path()).into_iter().find(|record| record["event"] == "recovered").unwrap();
    assert!(lost["recovered"]["lost"].as_u64().unwrap() > 0, "what had no room is counted: {lost}");
}

#[tokio::test]
async fn what_is_taken_while_the_journal_closes_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(folder.path())).unwrap();
    let late = async {
        let mut taken = 0_usize;
        while taken < 4000 && journal.note(new_id(), &Stop { reason: "late" }) {
            taken += 1;
            if taken.is_multiple_of(16) {
                tokio::task::yield_now().await;
            }
        }
        taken
    };
    let (closed, taken) = tokio::join!(journal.close(), late);
    assert!(closed);
    assert!(!journal.note(new_id(), &Stop { reason: "too late" }));
    assert_eq!(call(&journal, "too-late").await.unwrap_err().code(), "audit_unavailable");
    let late = records(folder.path()).iter().filter(|record| record["process"]["reason"] == "late").count();
    assert_eq!(late, taken);
}

#[tokio::test]
async fn a_caller_who_leaves_while_the_record_is_written_leaves_no_open_call() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(folder.path())).unwrap();
    let identity = identity("alice");
    for _ in 0..200 {
        drop(journal.commit(new_id(), &intent(&identity, "gone", &[]), Durability::Fsync));
    }
    until(|| {
        assert!(journal.note(new_id(), &Stop { reason: "probe" }));
        records(folder.path()).iter().any(|record| record["event"] == "stop")
    })
    .await;
    assert!(journal.close().await);
    assert_eq!(proved(folder.path()).unwrap().lanes[0].open_calls, 0);
}

#[tokio::test]
async fn a_full_queue_refuses_calls_and_still_takes_outcomes() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.queue_max = 0;
    let journal = Journal::open(&config).unwrap();
    let refusal = call(&journal, "tool").await.unwrap_err();
    assert_eq!(refusal, Refusal::AuditUnavailable("the journal's queue is full".to_owned()));
    assert!(!journal.note(new_id(), &Stop { reason: "" }));
    assert!(journal.note(new_id(), &Outcome::new(Ending::Ok)));
}

#[tokio::test]
async fn unauthenticated_refusals_become_one_bounded_summary() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(folder.path())).unwrap();
    for nth in 0..5000_u32 {
        journal.count_refusal(std::net::Ipv4Addr::from(nth % 3000).into(), "token_missing", None);
    }
    until(|| records(folder.path()).iter().any(|record| record["event"] == "refusals_summary")).await;
    assert!(journal.close().await);
    let counted: u64 = records(folder.path())
        .iter()
        .filter(|record| record["event"] == "refusals_summary")
        .map(|record| {
            let sources = record["refusals"]["sources"].as_array().unwrap();
            assert!(sources.len() <= 64);
            let named: u64 = sources.iter().map(|source| source["count"].as_u64().unwrap()).sum();
            named + record["refusals"]["others"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(counted, 5000);
}

#[tokio::test]
async fn argument_digests_are_stable_and_need_the_key() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Journal::open(&config(one.path())).unwrap();
    let digest = first.argument_digest(b"{}");
    assert_eq!(digest.len(), 64);
    assert!(first.close().await);
    assert_eq!(Journal::open(&config(one.path())).unwrap().argument_digest(b"{}"), digest);
    assert_ne!(Journal::open(&config(two.path())).unwrap().argument_digest(b"{}"), digest);
}

#[tokio::test]
async fn an_answer_is_known_by_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(folder.path())).unwrap();
    let (answered, not) = (call(&journal, "answered").await.unwrap(), call(&journal, "not").await.unwrap());
    let large = call(&journal, "large").await.unwrap();
    let answer = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    let long = Bytes::from("x".repeat(8 * 1024 * 1024));
    let expected = [&answer, &long].map(|answer| Value::from(journal.argument_digest(answer)));
    assert!(journal.note_answer(answered, &outcome(Ending::Ok), Some(answer)));
    assert!(journal.note_answer(large, &outcome(Ending::Ok), Some(long.clone())));
    assert!(long.is_unique(), "what is queued does not hold it");
    assert!(journal.note_answer(not, &Outcome::new(Ending::Unknown), None));
    assert!(journal.close().await);
    proved(folder.path()).unwrap();
    let digest = |id: Uuid| {
        let is = |record: &&Value| record["event"] == "outcome" && record["id"] == id.to_string();
        records(folder.path()).iter().find(is).unwrap()["result"]["digest"].clone()
    };
    assert_eq!([digest(answered), digest(large)], expected);
    assert_eq!(digest(not), Value::Null);
}

// ── asking ──

#[tokio::test]
async fn what_stands_behind_the_end_of_a_segment_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3, |config| config.segment_age_max = Duration::ZERO).await;
    let open = || {
        let mut out = Vec::new();
        let query = Query { outcome: Some("open".to_owned()), ..Query::default() };
        (show(folder.path(), &query, &mut out).unwrap(), String::from_utf8(out).unwrap())
    };
    assert_eq!(open(), (0, String::new()));
    // A sync that failed, and the disk would not cut the segment either: who waited for this was refused.
    let path = first_segment(folder.path());
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str(sealed(&intent(&identity("alice"), "unsynced", &["w"])).trim_end());
    text.push('\n');
    fs::write(&path, text).unwrap();
    proved(folder.path()).unwrap();
    assert_eq!(open(), (0, String::new()));
}

#[tokio::test]
async fn calls_are_found_by_who_what_when_and_how_they_ended() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(folder.path())).unwrap();
    let (alice, bob) = (identity("alice"), identity("bob"));
    for (who, tool, ending) in
        [(&alice, "create", Some(Ending::Ok)), (&alice, "delete", Some(Ending::ToolError)), (&bob, "create", None)]
    {
        let id = new_id();
        let receipt = journal.commit(id, &intent(who, tool, &[]), Durability::Os).receipt(admission()).await.unwrap();
        if let Some(ending) = ending {
            assert!(journal.note(receipt.id(), &outcome(ending)));
        }
    }
    let refused = Refused {
        who: who(&bob, "c"),
        target: Some(target("delete")),
        decision: None,
        ceilings: Words::default(),
        request: Request::default(),
        code: "denied",
        reason: "no",
        status: 403,
    };
    assert!(journal.note(new_id(), &refused));
    journal.write(&Stop { reason: "end" }).await.unwrap();
    let check = |query: Query, expect: &[(&str, &str)]| {
        let mut out = Vec::new();
        let count = show(folder.path(), &query, &mut out).unwrap();
        let found: Vec<(String, String)> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| {
                let record: Value = serde_json::from_str(line).unwrap();
                let name = record["target"]["name"].as_str().unwrap_or_default().to_owned();
                (name, record["outcome"]["ending"].as_str().unwrap_or("-").to_owned())
            })
            .collect();
        let expect: Vec<_> = expect.iter().map(|(name, ending)| ((*name).to_owned(), (*ending).to_owned())).collect();
        assert_eq!(found, expect);
        assert_eq!(count, u64::try_from(expect.len()).unwrap());
    };
    let some = |text: &str| Some(text.to_owned());
    check(Query { user: some("alice"), ..Query::default() }, &[("create", "ok"), ("delete", "tool_error")]);
    check(Query { agent: some("bob"), ..Query::default() }, &[("delete", "-"), ("create", "-")]);
    check(Query { tool: some("create"), ..Query::default() }, &[("create", "ok"), ("create", "-")]);
    check(Query { outcome: some("tool_error"), ..Query::default() }, &[("delete", "tool_error")]);
    check(Query { outcome: some("refused"), ..Query::default() }, &[("delete", "-")]);
    check(Query { outcome: some("open"), ..Query::default() }, &[("create", "-")]);
    check(Query { upstream: some("create"), tenant: some("alice"), ..Query::default() }, &[("create", "ok")]);
    check(Query { to: Some(Timestamp::from_unix_ms(1)), ..Query::default() }, &[]);
    let long_ago = Query { from: Some(Timestamp::from_unix_ms(1)), tool: some("delete"), ..Query::default() };
    check(long_ago, &[("delete", "tool_error"), ("delete", "-")]);
    check(Query { event: some("stop"), ..Query::default() }, &[("", "-")]);
}
