//! What does a policy decision cost, and does it grow with the number of policies?
//!
//! Prints nanoseconds for one decision on 10, 100 and 1,000 policies: answered from the cache, evaluated because a
//! policy reads the arguments, cut anew for a caller not seen before, and the same by Cedar over the whole set.
//! Each figure is the median of several batches on one thread.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a measurement that cannot be made should fail loudly"
)]

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use tollgate::{
    catalog::ToolDefinition,
    clock::{self, Timestamp},
    config::{Grant, Source, Upstream, UpstreamId},
    identity::{Agent, Authentication, Identity, User},
    policy::Policies,
    rpc::json::{Bounds, Document},
    secret::Secret,
};

fn main() {
    let print = |line: String| {
        use std::io::Write;
        writeln!(std::io::stdout(), "{line}").expect("standard output is open");
    };
    print(format!("{:>9} {:>12} {:>12} {:>12}", "policies", "cached ns", "evaluated ns", "cold ns"));
    for count in [10, 100, 1000] {
        let (reading, blind) = (policies(count, true), policies(count, false));
        let tool = tool();
        let arguments =
            Document::parse(Bytes::from_static(br#"{"customer":"c-1","amount":10}"#), &BOUNDS).expect("JSON");
        let who = caller(0);
        let decide = |set: &Policies, who: &Identity| {
            let permit = set.decide(who, &tool, Some(arguments.root()), NOON);
            assert!(black_box(permit).is_ok(), "the last policy permits");
        };
        let cached = measure(20_000, |_| decide(&blind, &who));
        let evaluated = measure(2_000, |_| decide(&reading, &who));
        let strangers: Vec<Identity> = (1..=7 * 500).map(caller).collect();
        let mut next = strangers.iter().cycle();
        let cold = measure(500, |_| decide(&blind, next.next().expect("endless")));
        print(format!("{count:>9} {cached:>12} {evaluated:>12} {cold:>12}"));
    }
}

/// The median over seven batches.
fn measure(times: u32, mut once: impl FnMut(u32)) -> u128 {
    let mut batches: Vec<Duration> = (0..7)
        .map(|_| {
            let start = clock::instant();
            (0..times).for_each(&mut once);
            start.elapsed()
        })
        .collect();
    batches.sort_unstable();
    batches[3].as_nanos() / u128::from(times)
}

/// Policies for other groups, tools and upstreams, and one that permits the call.
fn policies(count: usize, reads_arguments: bool) -> Policies {
    let mut text = String::new();
    for number in 1..count {
        text.push_str(&format!(
            "permit(principal in Group::\"group-{number}\", action == Action::\"crm/tool-{}\", resource == Upstream::\"crm\")\n\
             when {{ principal.scopes.contains(\"crm:{number}\") && context.input.amount <= {number} }};\n",
            number % 50
        ));
    }
    let condition = if reads_arguments { "when { context.input.amount <= 1000 }" } else { "" };
    text.push_str(&format!(
        "permit(principal in Group::\"support\", action == Action::\"crm/create_order\", resource) {condition};\n"
    ));
    Policies::parse(vec![Source::new("bench.cedar", &text)]).expect("valid policies")
}

fn tool() -> Arc<ToolDefinition> {
    let upstream = Upstream {
        id: UpstreamId::parse("crm").expect("an id"),
        url: "https://crm.example/mcp".parse().expect("a URL"),
        era: None,
        timeout: Duration::from_secs(30),
        grant: Grant::Nothing,
        discovery: None,
        ca: None,
        client_certificate: None,
        refresh: Duration::from_secs(60),
        input: tollgate::config::Input::default(),
        tools: Vec::new(),
    };
    let definition = br#"{"name":"create_order","inputSchema":{"type":"object","properties":{"customer":{"type":"string"},"amount":{"type":"integer"}}}}"#;
    Arc::new(ToolDefinition::read(&upstream, Bytes::from_static(definition)).expect("a definition"))
}

fn caller(number: u32) -> Identity {
    let mut class = [0; 32];
    class[..4].copy_from_slice(&number.to_be_bytes());
    let issuer = "https://issuer.example".to_owned();
    Identity {
        user: Some(User { issuer: issuer.clone(), subject: format!("user-{number}") }),
        agent: Agent { client_id: "desk".to_owned(), actors: Vec::new() },
        tenant: Some("acme".to_owned()),
        groups: ["staff", "support", "emea", "desk-4"].map(str::to_owned).to_vec(),
        scopes: ["crm:read", "crm:write", "openid"].map(str::to_owned).to_vec(),
        authentication: Authentication {
            method: "jwt",
            issuer,
            token_id: None,
            token_digest: String::new(),
            acr: None,
            expires_at: NOON,
        },
        principal: class,
        class,
        credential: Secret::new(String::new()),
    }
}

const NOON: Timestamp = Timestamp::from_unix_seconds(1_767_614_400);
const BOUNDS: Bounds = Bounds { depth_max: 64, values_max: 1_000, name_bytes_max: 256, number_chars_max: 64 };
