//! What does a list cost, where many callers each see another part of many tools?
//!
//! `tools/list` of one Tollgate before twenty upstreams, each caller let through to a part of them that no other caller
//! has; once with lists that are kept and once without (`list_cache_bytes = 0`), in turn. It calls no tool.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::Algorithm;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    at,
    certificates::Authority,
    parties::{self, Connection, Process},
    peers::{self, Issuer, Reply},
    wire::Wire,
};

/// How much of what.
#[derive(Clone, Copy)]
pub struct Settings {
    pub callers: usize,
    pub upstreams: usize,
    pub tools: usize,
    pub rounds: usize,
}

/// A Tollgate, and the request of each caller.
struct Door {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    tls: TlsConnector,
    requests: Vec<Vec<u8>>,
}

/// What some lists took.
struct Taken {
    latencies: Vec<f64>,
    cpu_us: f64,
    sent: f64,
    copied: f64,
}

pub async fn run(settings: Settings) {
    let folder = tempfile::Builder::new().prefix("lists-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tls = Authority::new(folder.path()).trusted();
    let (upstream, issuer) = (upstream(settings).await, Issuer::start(&[Algorithm::ES256]).await);
    let doors = [("kept", 16 << 20), ("not kept", 0)].map(|(name, list_cache_bytes)| {
        let estate = Estate { settings, list_cache_bytes, upstream, issuer: &issuer, certificates: folder.path() };
        estate.open(name, &tls)
    });
    for door in &doors {
        door.ready(settings).await;
    }
    let Settings { callers, upstreams, tools, rounds } = settings;
    println!(
        "lists: {tools} tools of {upstreams} upstreams, {callers} callers, {rounds} rounds in turn, one list at a time"
    );
    println!(
        "{:<24}{:>9}{:>9}{:>9}{:>13}{:>12}{:>14}{:>10}",
        "", "p50 ms", "p99 ms", "max ms", "CPU µs/list", "KiB a list", "KiB copied", "RSS MiB"
    );
    let mut connections = Vec::new();
    for door in &doors {
        let mut connection = door.connect().await;
        door.taken(&mut connection, 1).await.print(door, "first");
        connections.push(connection);
    }
    let mut again: Vec<Vec<Taken>> = doors.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((door, connection), taken) in doors.iter().zip(&mut connections).zip(&mut again) {
            taken.push(door.taken(connection, LISTS_A_TURN).await);
        }
    }
    for (door, taken) in doors.iter().zip(again) {
        Taken::all(taken).print(door, "again");
    }
}

impl Door {
    async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        Wire::new(Box::new(self.tls.connect(name, stream).await.unwrap()))
    }

    /// Waits until all tools are read; asked by nobody whose list is measured.
    async fn ready(&self, settings: Settings) {
        let gauge = "tollgate_upstream_up{";
        for _ in 0..300 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if TcpStream::connect(self.admin).await.is_err() {
                continue;
            }
            let metrics = parties::metrics(self.admin).await;
            let up = metrics.lines().filter(|line| line.starts_with(gauge) && line.ends_with(" 1")).count();
            if up == settings.upstreams {
                return;
            }
        }
        panic!("{} does not read its upstreams: {}", self.name, self.process.output());
    }

    /// Bytes of lists so far: all, and those that were written for one answer.
    async fn bytes(&self) -> (f64, f64) {
        let metrics = parties::metrics(self.admin).await;
        let of = |outcome: &str| {
            let begins = format!("tollgate_lists_bytes_total{{tollgate_outcome=\"{outcome}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&begins)?.trim().parse::<f64>().ok()).unwrap_or(0.0)
        };
        (of("hit") + of("miss"), of("miss"))
    }

    /// Every caller's list, so many times.
    async fn taken(&self, connection: &mut Connection, times: usize) -> Taken {
        let (cpu, (sent, copied)) = (self.process.cpu_us(), self.bytes().await);
        let mut latencies = Vec::with_capacity(times * self.requests.len());
        for request in self.requests.iter().cycle().take(times * self.requests.len()) {
            let began = Instant::now();
            connection.send(request).await;
            let answer = connection.receive().await.expect("the connection closed");
            latencies.push(began.elapsed().as_secs_f64() * 1_000.0);
            let whole = answer.status() == 200 && answer.text().contains("\"tools\":[{");
            assert!(whole, "HTTP {}: {}", answer.status(), answer.text());
        }
        let after = self.bytes().await;
        Taken { latencies, cpu_us: self.process.cpu_us() - cpu, sent: after.0 - sent, copied: after.1 - copied }
    }
}

impl Taken {
    fn all(parts: Vec<Self>) -> Self {
        let mut all = Self { latencies: Vec::new(), cpu_us: 0.0, sent: 0.0, copied: 0.0 };
        for part in parts {
            all.latencies.extend(part.latencies);
            all.cpu_us += part.cpu_us;
            all.sent += part.sent;
            all.copied += part.copied;
        }
        all
    }

    fn print(mut self, door: &Door, which: &str) {
        let count = self.latencies.len() as f64;
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| at(&mut self.latencies, share));
        let [sent, copied] = [self.sent, self.copied].map(|bytes| bytes / count / 1_024.0);
        let name = format!("{}, {which}", door.name);
        let (cpu, rss) = (self.cpu_us / count, door.process.rss_mib());
        println!("{name:<24}{p50:>9.2}{p99:>9.2}{max:>9.2}{cpu:>13.1}{sent:>12.1}{copied:>14.2}{rss:>10.1}");
    }
}

/// What one Tollgate is told.
struct Estate<'a> {
    settings: Settings,
    list_cache_bytes: usize,
    upstream: SocketAddr,
    issuer: &'a Issuer,
    certificates: &'a Path,
}

impl Estate<'_> {
    fn open(&self, name: &'static str, tls: &TlsConnector) -> Door {
        let (address, admin) = (parties::free_address(), parties::free_address());
        let folder = self.certificates.join(name.replace(' ', "-"));
        fs::create_dir_all(folder.join("policies")).unwrap();
        fs::write(folder.join("policies/teams.cedar"), policies(self.settings)).unwrap();
        fs::write(folder.join("upstreams.toml"), self.configuration(address, admin)).unwrap();
        let process = Process::start(&folder, parties::program(), &["serve", "--config", "upstreams.toml"]);
        let requests = (0..self.settings.callers).map(|caller| self.request(address, caller)).collect();
        Door { name, process, address, admin, tls: tls.clone(), requests }
    }

    fn configuration(&self, address: SocketAddr, admin: SocketAddr) -> String {
        let Self { settings, list_cache_bytes, upstream, issuer, certificates } = self;
        let (issuer, folder) = (&issuer.url, certificates.display());
        let mut text = format!(
            r#"[gateway]
public_url = "https://{address}"
listen = "{address}"
admin_listen = "{admin}"
policies = "policies"
workers = 1
tls = {{ certificate = "{folder}/tls.crt", key = "{folder}/tls.key" }}

[[issuers]]
issuer = "{issuer}"
algorithms = ["ES256"]
claims = {{ tenant = "tenant", groups = "groups" }}

[audit]
directory = "audit"
durability = "os"

[limits]
list_cache_bytes = {list_cache_bytes}
"#
        );
        for number in 0..settings.upstreams {
            let table = format!("[upstreams.s{number}]\nurl = \"http://{upstream}/s{number}/mcp\"\nera = \"modern\"");
            let rule = format!("[[upstreams.s{number}.tools]]\nmatch = \"list_*\"\ntags = [\"read\"]");
            write!(text, "\n{table}\ngrant = {{ strategy = \"none\" }}\n\n{rule}\n").unwrap();
        }
        text
    }

    /// A list for one of the callers. Two teams each, no two callers the same two.
    fn request(&self, address: SocketAddr, caller: usize) -> Vec<u8> {
        let teams = self.settings.upstreams;
        let (one, apart) = (caller % teams, caller / teams + 1);
        let groups = [format!("team-{one}"), format!("team-{}", (one + apart) % teams), "everybody".to_owned()];
        let token = self.issuer.token(&format!("https://{address}/mcp"), &format!("caller-{caller}"), &groups);
        let own = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}"#;
        let body = format!(r#"{{"jsonrpc":"2.0","id":{caller},"method":"tools/list","params":{{"_meta":{{{own}}}}}}}"#);
        let head = [
            "POST /mcp HTTP/1.1".to_owned(),
            format!("host: {address}"),
            "content-type: application/json".to_owned(),
            "accept: application/json, text/event-stream".to_owned(),
            "mcp-protocol-version: 2026-07-28".to_owned(),
            "mcp-method: tools/list".to_owned(),
            format!("authorization: Bearer {token}"),
            format!("content-length: {}", body.len()),
        ];
        format!("{}\r\n\r\n{body}", head.join("\r\n")).into_bytes()
    }
}

/// A team sees all of one upstream, and everybody what only reads.
fn policies(settings: Settings) -> String {
    let mut text = String::from(
        "@id(\"reading\")\npermit (principal in Group::\"everybody\", action in Action::\"read\", resource);\n",
    );
    for number in 0..settings.upstreams {
        let scope = format!("principal in Group::\"team-{number}\", action, resource == Upstream::\"s{number}\"");
        write!(text, "\n@id(\"team-{number}\")\npermit ({scope});\n").unwrap();
    }
    text
}

/// All upstreams in one: the path says which.
async fn upstream(settings: Settings) -> SocketAddr {
    let each = settings.tools / settings.upstreams;
    let lists: Arc<[String]> = (0..settings.upstreams).map(|number| tools(number, each).to_string()).collect();
    let discovery = peers::discovery().to_string();
    peers::serve(move |request| {
        let body = request.text();
        let id = peers::member(body, "\"id\":");
        let with = |result: &str| Reply::Json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#));
        let number = request.path().trim_start_matches("/s").trim_end_matches("/mcp");
        match request.header("mcp-method") {
            Some("tools/list") => with(&lists[number.parse::<usize>().unwrap()]),
            Some("server/discover") => with(&discovery),
            // It never says that its tools change (RS-12).
            _ => Reply::Absent(format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"method not found"}}}}"#
            )),
        }
    })
    .await
}

/// One in five only reads.
fn tools(upstream: usize, count: usize) -> Value {
    let tools: Vec<Value> = (0..count)
        .map(|number| {
            let verb = if number % 5 == 0 { "list" } else { "change" };
            let mut tool = peers::tool(&format!("{verb}_{number}"));
            tool["description"] =
                json!(format!("What upstream {upstream} does with number {number}, in a sentence or two."));
            tool
        })
        .collect();
    json!({ "resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "public", "tools": tools })
}

/// Of each caller.
const LISTS_A_TURN: usize = 5;
