//! What does each stage cost, in instructions?
//!
//! Runs itself under callgrind, which counts one function only: the loop around a stage. What starting up costs falls out,
//! and what else the machine is doing does not matter. A stage that has a thread of its own is run N and 2N times, and
//! the difference taken. Instructions are no time; `load.rs` has that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a bench may panic and talk to the terminal, and needs only a part of what it shares with the load run"
)]

mod estate;
mod peers;
mod wire;

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use estate::{Callers, Estate, Grant};
use http::{HeaderMap, HeaderValue, header};
use jsonwebtoken::Algorithm;
use tokio::runtime::Runtime;
use tollgate::{
    audit::{
        journal::{self, Journal},
        record::{self, Ending, Outcome},
    },
    bridge::{Opening, Sessions},
    catalog::{Definition, Kind},
    ceiling::{Admission, Ceilings},
    clock::{self, Timestamp},
    config::{self, Config, Durability, Endpoint, Environment, Source, UpstreamId},
    exchange::{Exchange, Summons, Witness},
    identity::{Audience, Authenticator, Identity, Senders, Shown},
    inspect::{self, Sent},
    policy::Policies,
    refusal::Era,
    rpc::{
        self, Call, Capabilities, Message, Method, canonical::canonical, json::Bounds, outbound, reply::Inbound,
        sse::Splitter,
    },
    state::Rates,
};

const HELP: &str = "\
Instructions per stage, counted by callgrind (apt-get install valgrind).

  --only TEXT     only stages with TEXT in their name
  --calls N       calls counted (500)
  --stage S N     run stage S N times and nothing else: what is counted";

/// A stage, and what of it is not its own: a stage that has to come before it each time.
struct Stage {
    name: &'static str,
    without: Option<&'static str>,
    set_up: fn() -> Box<dyn FnMut()>,
}

const STAGES: &[Stage] = &[
    Stage { name: "identity: token remembered", without: None, set_up: || identity() },
    Stage { name: "rpc: read a call of 664 bytes", without: None, set_up: || parse(Era::Modern) },
    Stage { name: "rpc: read the same of a legacy client", without: None, set_up: || parse(Era::Legacy) },
    Stage { name: "catalog: resolve", without: None, set_up: || resolve() },
    Stage { name: "policy: 10, remembered", without: None, set_up: || decide(10, "echo", false) },
    Stage { name: "policy: 100, remembered", without: None, set_up: || decide(100, "echo", false) },
    Stage { name: "policy: 1000, remembered", without: None, set_up: || decide(1_000, "echo", false) },
    Stage { name: "policy: 10, arguments read", without: None, set_up: || decide(10, "pay", false) },
    Stage { name: "policy: 1000, arguments read", without: None, set_up: || decide(1_000, "pay", false) },
    Stage { name: "policy: 10, new caller", without: None, set_up: || decide(10, "echo", true) },
    Stage { name: "policy: 1000, new caller", without: None, set_up: || decide(1_000, "echo", true) },
    Stage { name: "ceiling: two counted", without: Some("policy: 10, remembered"), set_up: || ceiling() },
    Stage { name: "exchange: grant remembered", without: None, set_up: || exchange() },
    Stage { name: "audit: arguments' digest", without: None, set_up: || digest() },
    Stage { name: WITH_A_THREAD, without: Some("ceiling: two counted"), set_up: || audit() },
    Stage { name: "bridge: find the session, track a call", without: None, set_up: || session() },
    Stage { name: "upstream: build the call", without: None, set_up: || outbound(Era::Modern, VERSION) },
    Stage { name: "upstream: modern to legacy", without: None, set_up: || outbound(Era::Modern, estate::LEGACY) },
    Stage { name: "upstream: legacy to modern", without: None, set_up: || outbound(Era::Legacy, VERSION) },
    Stage { name: "upstream: legacy to legacy", without: None, set_up: || outbound(Era::Legacy, estate::LEGACY) },
    Stage { name: "upstream: tripwire", without: None, set_up: || tripwire() },
    Stage { name: "upstream: split one event", without: None, set_up: || split() },
    Stage { name: "inspect: admit 560 bytes", without: None, set_up: || admit(Era::Modern, VERSION) },
    Stage { name: "inspect: modern from legacy", without: None, set_up: || admit(Era::Modern, estate::LEGACY) },
    Stage { name: "inspect: legacy from modern", without: None, set_up: || admit(Era::Legacy, VERSION) },
    Stage { name: "inspect: legacy from legacy", without: None, set_up: || admit(Era::Legacy, estate::LEGACY) },
];

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| &arguments[at + 1..]);
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{HELP}");
        return;
    }
    if let Some([name, count, ..]) = after("--stage") {
        let stage = STAGES.iter().find(|stage| stage.name == name).expect("a stage of this name");
        let mut work = (stage.set_up)();
        measured(&mut *work, count.parse().unwrap());
        // What stopping costs is not to be counted.
        std::process::exit(0);
    }
    let only = after("--only").and_then(<[String]>::first);
    let calls = after("--calls").and_then(<[String]>::first).map_or(500, |calls| calls.parse().unwrap());
    let wanted = |stage: &&Stage| only.is_none_or(|only| stage.name.contains(only.as_str()));
    println!("instructions a call, by callgrind ({calls} calls)\n");
    for stage in STAGES.iter().filter(wanted) {
        let own = per_call(stage.name, calls) - stage.without.map_or(0, |before| per_call(before, calls));
        println!("{:<40}{own:>10}", stage.name);
    }
}

/// What callgrind counts, where it is told to count one function.
#[inline(never)]
fn measured(work: &mut dyn FnMut(), calls: u64) {
    for _ in 0..calls {
        work();
    }
}

fn per_call(name: &str, calls: i64) -> i64 {
    if name == WITH_A_THREAD {
        return (counted(name, calls * 2, &[]) - counted(name, calls, &[])) / calls;
    }
    counted(name, calls, &["--toggle-collect=*overhead::measured*"]) / calls
}

fn counted(name: &str, calls: i64, further: &[&str]) -> i64 {
    let own = std::env::current_exe().unwrap();
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(further)
        .arg(own)
        .args(["--stage", name, &calls.to_string()])
        .output()
        .expect("valgrind is missing: apt-get install -y valgrind");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let counted =
        said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim().to_owned());
    assert!(output.status.success(), "{name}: {said}");
    counted.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("callgrind counted nothing: {said}"))
}

/// Everything that stages are set up with; its issuer answers for as long as `runtime` is driven.
struct Bench {
    runtime: Runtime,
    folder: tempfile::TempDir,
    config: Config,
    token: String,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::Builder::new().prefix("overhead-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (issuer, upstream) =
            runtime.block_on(async { (peers::Issuer::start(&[Algorithm::ES256]).await, peers::upstream().await) });
        let listen = "127.0.0.1:8443".parse().unwrap();
        let estate = Estate {
            listen,
            admin: "127.0.0.1:9443".parse().unwrap(),
            upstream,
            era: Era::Modern,
            issuer: issuer.url.clone(),
            collector: None,
            certificates: None,
            durability: "os",
            policies: 10,
            callers: Callers::Tokens,
            grant: Grant::Exchange,
        };
        estate.write(folder.path());
        let config = config::load(&folder.path().join("upstreams.toml"), &Environment::process()).unwrap();
        Self { runtime, folder, config, token: issuer.caller(AUDIENCE) }
    }

    fn headers(&self, client: Era) -> HeaderMap {
        let pairs = [
            ("host", "127.0.0.1:8443"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        let own: &[_] = match client {
            Era::Modern => {
                &[("mcp-protocol-version", VERSION), ("mcp-method", "tools/call"), ("mcp-name", "bench__echo")]
            }
            Era::Legacy => &[("mcp-protocol-version", estate::LEGACY), ("mcp-session-id", SESSION)],
        };
        let pairs = pairs.iter().chain(own);
        let mut headers: HeaderMap =
            pairs.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        headers.insert(header::AUTHORIZATION, format!("Bearer {}", self.token).parse().unwrap());
        headers
    }

    fn call(&self, client: Era) -> Call {
        let body = Bytes::from(estate::body(client, "echo", TRACE));
        match rpc::parse(&self.headers(client), body, &self.config.limits) {
            Ok(Message::Call(call)) => call,
            other => panic!("{other:?}"),
        }
    }

    /// An authenticator that has its issuer's keys.
    fn authenticator(&self) -> Authenticator {
        let senders = Senders::new(&self.config, tollgate::state::Sealer::new(&self.config.state).unwrap());
        let authenticator = Authenticator::new(&self.config.issuers, &self.config.egress, None, senders).unwrap();
        self.runtime.block_on(async {
            authenticator.start();
            while !authenticator.ready(clock::now()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        authenticator
    }

    fn identity(&self) -> Arc<Identity> {
        let (authenticator, headers, audiences) = (self.authenticator(), self.headers(Era::Modern), audiences());
        let shown = shown(&headers);
        let caller = authenticator.authenticate(&shown, &audiences, clock::now());
        Arc::clone(self.runtime.block_on(caller).unwrap().identity())
    }

    fn tool(&self, name: &str) -> Definition {
        let upstream = &self.config.upstreams[&UpstreamId::parse("bench").unwrap()];
        let tools = peers::tools();
        let tool = tools["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == name).unwrap();
        Definition::read(upstream, Kind::Tool, Bytes::from(tool.to_string())).unwrap()
    }
}

fn shown(headers: &HeaderMap) -> Shown<'_> {
    let (method, endpoint) = (&http::Method::POST, &Endpoint::Federated);
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Shown { headers, query: None, method, endpoint, slashed: false, peer, certificate: None }
}

fn audiences() -> [Audience; 1] {
    [Audience { name: AUDIENCE.to_owned(), forgiven: None }]
}

fn identity() -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let (authenticator, headers, audiences) = (bench.authenticator(), bench.headers(Era::Modern), audiences());
    Box::new(move || {
        let shown = shown(&headers);
        let caller = authenticator.authenticate(&shown, &audiences, clock::now());
        drop(black_box(bench.runtime.block_on(caller).unwrap()));
    })
}

fn parse(client: Era) -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let (headers, body) = (bench.headers(client), Bytes::from(estate::body(client, "echo", TRACE)));
    assert!(rpc::parse(&headers, body.clone(), &bench.config.limits).is_ok());
    Box::new(move || drop(black_box(rpc::parse(&headers, body.clone(), &bench.config.limits))))
}

fn session() -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let sessions = Sessions::new(&bench.config.limits);
    let principal = [1; 32];
    let opening = Opening {
        holder: tollgate::identity::revocation::Holder::default(),
        principal,
        endpoint: Endpoint::Federated,
        version: estate::LEGACY,
        client: ("bench".to_owned(), "1".to_owned()),
        capabilities: Capabilities::NONE,
    };
    let id = sessions.begin(opening, NOW).unwrap().id.clone();
    Box::new(move || {
        let session = sessions.find(&id, &principal, &Endpoint::Federated, NOW).unwrap();
        drop(black_box(session.track(b"7").unwrap()));
    })
}

fn resolve() -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let tools = ["echo", "pay", "hold"].map(|name| Arc::new(bench.tool(name))).to_vec();
    let listing = tollgate::catalog::Listing { tools, ..Default::default() };
    let upstream = UpstreamId::parse("bench").unwrap();
    let catalogue = tollgate::catalog::Catalogue::merge(1, config::Prefix::Always, [(upstream, listing)].into());
    Box::new(move || drop(black_box(catalogue.listed(&Endpoint::Federated, Kind::Tool, "bench__echo"))))
}

/// `fresh`: each call by a caller of a class not seen before.
fn decide(policies: usize, tool: &str, fresh: bool) -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let (mut identity, tool, call) = (owned(bench.identity()), bench.tool(tool), bench.call(Era::Modern));
    let policies = Policies::parse(vec![Source::new("bench.cedar", estate::policies(policies))]).unwrap();
    let mut number = 0_u64;
    Box::new(move || {
        if fresh {
            number += 1;
            identity.class[..8].copy_from_slice(&number.to_le_bytes());
        }
        drop(black_box(policies.decide(&identity, &tool, call.arguments(), NOW).unwrap()));
    })
}

fn owned(identity: Arc<Identity>) -> Identity {
    Arc::into_inner(identity).expect("the authenticator is gone, so nobody else holds it")
}

fn ceiling() -> Box<dyn FnMut()> {
    let mut admit = admission(&Bench::new());
    Box::new(move || drop(black_box(admit())))
}

fn admission(bench: &Bench) -> impl FnMut() -> Admission + use<> {
    let (identity, tool, call) = (bench.identity(), bench.tool("echo"), bench.call(Era::Modern));
    let policies = Policies::parse(vec![Source::new("bench.cedar", estate::policies(10))]).unwrap();
    let source = Source::new("ceilings.toml", estate::CEILINGS);
    let ceilings = Ceilings::parse(Some(&source), Arc::new(Rates::new(1_024))).unwrap();
    move || {
        let permit = policies.decide(&identity, &tool, call.arguments(), NOW).unwrap();
        ceilings.admit(permit, &identity, &tool, NOW).unwrap()
    }
}

fn exchange() -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let identity = bench.identity();
    let exchange =
        Exchange::new(&bench.config.upstreams, tollgate::identity::revocation::Revocations::default()).unwrap();
    let upstream = Arc::clone(&bench.config.upstreams[&UpstreamId::parse("bench").unwrap()]);
    Box::new(move || {
        let grant = exchange.mint((&identity, UNSEEN), &upstream, &[], clock::now());
        drop(black_box(bench.runtime.block_on(grant).unwrap()));
    })
}

fn digest() -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let (journal, call) = (Journal::open(&bench.config.audit).unwrap(), bench.call(Era::Modern));
    Box::new(move || {
        drop(black_box(journal.argument_digest(&canonical(call.arguments().unwrap()))));
    })
}

fn audit() -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let (identity, journal) = (bench.identity(), Journal::open(&bench.config.audit).unwrap());
    let policies: [Arc<str>; 2] = ["staff-calls".into(), "support-calls".into()];
    let (digest, answered) = ("0".repeat(64), Bytes::from(answer()));
    let mut admit = admission(&bench);
    Box::new(move || {
        let intent = record::Intent {
            who: record::Who { identity: Some(&identity), claimed_name: Some("bench"), claimed_version: Some("1") },
            target: record::Target {
                endpoint: "/mcp",
                upstream: "bench",
                kind: "tool",
                name: "echo",
                exposed: "bench__echo",
                definition: Some(&digest),
            },
            grant: record::Grant {
                strategy: "exchange",
                audience: Some("bench-api"),
                scopes: record::Words::Borrowed(&["bench.call"]),
                token_id: None,
                token_digest: Some(&digest[..32]),
                cached: true,
            },
            decision: record::Decision {
                outcome: "allow",
                policies: record::Words::Shared(&policies),
                policy_set: &digest,
                reason: None,
                shadow: &[],
            },
            ceilings: record::Words::Borrowed(&["calls-per-person", "at-once"]),
            request: record::Request {
                id: Some("7"),
                method: Some("tools/call"),
                era: Some(Era::Modern),
                version: Some(VERSION),
                arguments: Some(&digest),
                peer: Some("127.0.0.1:50000".parse().unwrap()),
                ..Default::default()
            },
            continues: None,
        };
        let commit = journal.commit(journal::new_id(), &intent, Durability::Os);
        let receipt = bench.runtime.block_on(commit.receipt(admit())).unwrap();
        let mut outcome = Outcome::new(Ending::Ok);
        outcome.bytes = Some(560);
        outcome.duration_us = Some(900);
        assert!(journal.note_answer(receipt.id(), &outcome, Some(answered.clone())));
    })
}

fn outbound(client: Era, version: &'static str) -> Box<dyn FnMut()> {
    let call = Bench::new().call(client);
    Box::new(move || {
        let outgoing = outbound::Outgoing { traceparent: Some(PARENT), ..outbound::Outgoing::own(7, version) };
        drop(black_box(outbound::call(&outgoing, "echo", &call)));
    })
}

fn tripwire() -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let (identity, body) = (bench.identity(), estate::body(Era::Modern, "echo", TRACE));
    let mut headers = bench.headers(Era::Modern);
    headers.remove(header::AUTHORIZATION);
    Box::new(move || {
        let tripwire = identity.credential.tripwire();
        assert!(!black_box(tripwire.trips("http://127.0.0.1:8080/mcp", &headers, body.as_bytes())));
    })
}

fn split() -> Box<dyn FnMut()> {
    let event = format!("event: message\ndata: {}\n\n", answer());
    let mut events = Vec::new();
    let mut splitter = Splitter::new(65_536);
    Box::new(move || {
        splitter.push(event.as_bytes(), &mut events).unwrap();
        assert_eq!(black_box(events.drain(..)).count(), 1);
    })
}

fn admit(client: Era, version: &'static str) -> Box<dyn FnMut()> {
    let bench = Bench::new();
    let (asker, bounds) = (bench.call(client).asker().unwrap(), Bounds::reply(&bench.config.limits));
    let modern = version == VERSION;
    let answer = Bytes::from(if modern { answer() } else { answer().replace(r#""resultType":"complete","#, "") });
    Box::new(move || {
        let Ok(Inbound::Response(response)) = Inbound::parse(answer.clone(), &bounds) else { panic!("no response") };
        let sent = Sent {
            method: Method::ToolsCall,
            id: 7,
            version,
            declared: Capabilities::NONE,
            as_task: false,
            prefix: None,
            age: Duration::ZERO,
        };
        drop(black_box(inspect::admit(&asker, &sent, &response).unwrap()));
    })
}

fn answer() -> String {
    let text = "x".repeat(440);
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"result":{{"resultType":"complete","content":[{{"type":"text","text":"{text}"}}],"isError":false}}}}"#
    )
}

/// What its own thread does is part of what it costs.
const WITH_A_THREAD: &str = "audit: intent and outcome, os";

/// A witness that lets everything pass.
const UNSEEN: Summons<'static> = &|| Ok(Witness::new(|_| Ok(())));

const VERSION: &str = estate::MODERN;
const SESSION: &str = "wRwYQ2dO0ZpGzNnPCTlXLmVzLrLHV7Dv2mYt0V6pS0k";
const AUDIENCE: &str = "http://127.0.0.1:8443/mcp";
const TRACE: &str = r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00""#;
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
/// Some day in November 2026.
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);
