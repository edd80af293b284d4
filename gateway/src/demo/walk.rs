//! What does the gateway do with a call?
//!
//! Calls the gateway as a client would, over TLS, and shows what came back and what the journal has of it. It knows the
//! gateway's URL and the journal's folder, and nothing of its inside.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, header::AUTHORIZATION, header::CONTENT_TYPE, header::WWW_AUTHENTICATE};
use serde_json::{Value, json};
use url::form_urlencoded::Serializer;

use super::{DemoError, Estate};
use crate::{
    clock,
    egress::{Bounds, Client, Trust},
    secret::Secret,
};

/// A client in front of the gateway.
struct Visitor<'a> {
    estate: &'a Estate,
    client: Client,
    /// Lines of the journal that were shown already.
    seen: BTreeSet<String>,
}

/// One call of a tool.
struct Call {
    tool: &'static str,
    arguments: Value,
}

/// What came back.
struct Answer {
    status: u16,
    challenge: Option<String>,
    message: Value,
}

/// What has to come back for the walk to go on.
enum Expected {
    /// A result that is no error.
    Result,
    /// A refusal with this code.
    Refused(&'static str),
}

impl Estate {
    /// Walks through the gateway's answers and shows them on `out`. The gateway must have been started on
    /// [`Estate::config`]; it may still be starting.
    ///
    /// # Errors
    /// [`DemoError`] where an answer is not what the shipped policies say it has to be.
    pub async fn walk(&self, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        let trust = Trust { ca: Some(self.ca()), ..Trust::default() };
        let client = Client::new(&trust).map_err(|error| DemoError::at("a client for the gateway", error))?;
        let mut visitor = Visitor { estate: self, client, seen: BTreeSet::new() };
        let alice = visitor.login("alice", "crm:read notes:read").await?;
        visitor.awaited(&alice).await?;
        visitor.greet(out)?;
        visitor.allowed(&alice, out).await?;
        visitor.earlier_era(&alice, out).await?;
        visitor.hidden(&alice, out).await?;
        visitor.step_up(out).await?;
        visitor.ceiling(out).await?;
        visitor.one_record(out)
    }

    /// What to paste into a real client.
    ///
    /// # Errors
    /// [`DemoError`] where the issuer gives no token.
    pub async fn invite(&self, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        let client = Client::new(&Trust::default()).map_err(|error| DemoError::at("a client for the issuer", error))?;
        let visitor = Visitor { estate: self, client, seen: BTreeSet::new() };
        let token = visitor.login("alice", "crm:read crm:write notes:read").await?;
        let (url, ca, token) = (format!("{}/mcp", self.public_url), self.ca(), token.expose());
        let meta = meta();
        let text = format!(
            "── your turn ──\n\
             The gateway goes on serving until you stop it.\n\n\
             URL    {url}\nCA     {ca}\ntoken  alice's, for an hour:\n\n export TOKEN={token}\n\n\
             Another token, for alice or bob:\n\n\
             curl -s {issuer}/login -d user=bob -d scope='crm:read crm:write' -d resource={url}\n\n\
             A call with curl:\n\n\
             curl -s --cacert {ca} {url} \\\n  \
               -H 'Authorization: Bearer '\"$TOKEN\" -H 'Content-Type: application/json' \\\n  \
               -H 'Accept: application/json, text/event-stream' \\\n  \
               -H 'MCP-Protocol-Version: {VERSION}' -H 'Mcp-Method: tools/list' \\\n  \
               -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":{{\"_meta\":{meta}}}}}'\n\n\
             The TypeScript SDK (run with NODE_EXTRA_CA_CERTS={ca}):\n\n\
             import {{ Client }} from \"@modelcontextprotocol/sdk/client/index.js\";\n\
             import {{ StreamableHTTPClientTransport }} from \"@modelcontextprotocol/sdk/client/streamableHttp.js\";\n\n\
             const transport = new StreamableHTTPClientTransport(new URL(\"{url}\"), {{\n  \
               requestInit: {{ headers: {{ Authorization: `Bearer ${{process.env.TOKEN}}` }} }},\n\
             }});\n\
             const client = new Client({{ name: \"demo\", version: \"1.0.0\" }});\n\
             await client.connect(transport);\n\
             console.log(await client.listTools());\n",
            ca = ca.display(),
            issuer = self.issuer_url,
        );
        say(out, &text)
    }
}

impl Visitor<'_> {
    fn greet(&self, out: &mut dyn Write) -> Result<(), DemoError> {
        let text = format!(
            "gateway  {}/mcp\nissuer   {}\njournal  {}\n\n\
             alice is in group support, bob in group sales, both on the staff. They act through the agent demo-agent.\n",
            self.estate.public_url,
            self.estate.issuer_url,
            self.estate.journal().display(),
        );
        say(out, &text)
    }

    async fn allowed(&mut self, alice: &Secret, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        say(out, "\n── 1. an allowed call: alice looks for a customer ──\n")?;
        let call = Call { tool: "crm__find_customer", arguments: json!({ "query": "ada" }) };
        let answer = self.step(alice, &call, &Expected::Result, out).await?;
        let received = answer.message.pointer("/result/structuredContent/received_token");
        let received = received.ok_or_else(|| DemoError::at("step 1", "the server did not say what it received"))?;
        say(out, "\n  the token that alice's agent sent, and the token that the server received instead of it:\n")?;
        beside(&claims(alice.expose()), received, out)
    }

    async fn earlier_era(&mut self, alice: &Secret, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        say(out, "\n── 2. the same door, a server of MCP 2025-11-25: alice reads a note ──\n")?;
        let call = Call { tool: "notes__read_note", arguments: json!({ "id": "welcome" }) };
        self.step(alice, &call, &Expected::Result, out).await.map(drop)
    }

    async fn hidden(&mut self, alice: &Secret, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        say(out, "\n── 3. a tool that alice may not use: it is not in her list, and calling it finds nothing ──\n")?;
        let listed = self.request(alice, "tools/list", json!({})).await?;
        let tools = listed.message.pointer("/result/tools").and_then(Value::as_array).cloned().unwrap_or_default();
        let names: Vec<&str> = tools.iter().filter_map(|tool| tool.get("name")?.as_str()).collect();
        say(out, &format!("  tools/list → {}\n", names.join(", ")))?;
        self.records(out).await?;
        if names.is_empty() || names.contains(&HIDDEN) {
            return Err(DemoError::at("step 3", format!("`{HIDDEN}` must not be in a list that has other tools")));
        }
        let call = Call { tool: HIDDEN, arguments: json!({ "id": "c-1" }) };
        self.step(alice, &call, &Expected::Refused("tool_unknown"), out).await.map(drop)
    }

    async fn step_up(&mut self, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        say(out, "\n── 4. a step-up: alice's token has no scope for orders, and the answer says which one ──\n")?;
        let alice = self.login("alice", "crm:read").await?;
        self.step(&alice, &order(ORDER_SMALL), &Expected::Refused("scope_insufficient"), out).await?;
        say(out, "\n  her agent gets a token with that scope, and calls again:\n")?;
        let alice = self.login("alice", "crm:read crm:write").await?;
        self.step(&alice, &order(ORDER_SMALL), &Expected::Result, out).await?;
        say(out, "\n── 5. a denial by argument: the same alice, the same token, the same tool, a larger amount ──\n")?;
        self.step(&alice, &order(ORDER_LARGE), &Expected::Refused("denied"), out).await?;
        say(out, "\n  bob is in sales, where orders may be of any size:\n")?;
        let bob = self.login("bob", "crm:read crm:write").await?;
        self.step(&bob, &order(ORDER_LARGE), &Expected::Result, out).await.map(drop)
    }

    async fn ceiling(&mut self, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        say(out, "\n── 6. a ceiling: bob's agent runs in a loop ──\n")?;
        let bob = self.login("bob", "crm:read crm:write").await?;
        for count in 1..=LOOP_MAX {
            let answer = self.call(&bob, &order(ORDER_SMALL)).await?;
            if answer.code() == Some("ceiling_reached") {
                say(out, &format!("  order {count} in a row → {}\n", answer.shown()))?;
                return self.last_record(out).await;
            }
            if !answer.is_result() {
                return Err(DemoError::at("step 6", answer.message));
            }
        }
        Err(DemoError::at("step 6", format!("{LOOP_MAX} orders in a row reached no ceiling")))
    }

    /// Calls, shows, and makes sure that it went as it has to.
    async fn step(
        &mut self,
        token: &Secret,
        call: &Call,
        expected: &Expected,
        out: &mut (dyn Write + Send),
    ) -> Result<Answer, DemoError> {
        let answer = self.call(token, call).await?;
        say(out, &format!("  {} {}\n  → {}\n", call.tool, call.arguments, answer.shown()))?;
        self.records(out).await?;
        let as_it_has_to = match expected {
            Expected::Result => answer.is_result(),
            Expected::Refused(code) => answer.code() == Some(code),
        };
        if as_it_has_to { Ok(answer) } else { Err(DemoError::at(call.tool, answer.message)) }
    }

    async fn call(&self, token: &Secret, call: &Call) -> Result<Answer, DemoError> {
        self.request(token, "tools/call", json!({ "name": call.tool, "arguments": call.arguments })).await
    }

    async fn request(&self, token: &Secret, method: &str, mut params: Value) -> Result<Answer, DemoError> {
        let name = params.get("name").and_then(Value::as_str).map(str::to_owned);
        if let Some(members) = params.as_object_mut() {
            members.insert("_meta".to_owned(), meta());
        }
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut request = Request::post(format!("{}/mcp", self.estate.public_url))
            .header(AUTHORIZATION, format!("Bearer {}", token.expose()))
            .header(CONTENT_TYPE, "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", VERSION)
            .header("mcp-method", method);
        if let Some(name) = name {
            request = request.header("mcp-name", name);
        }
        let failed = |error: &dyn std::fmt::Display| DemoError::at(method, error);
        let request = request.body(Bytes::from(body.to_string())).map_err(|error| failed(&error))?;
        let response = self.client.fetch(request, BOUNDS).await.map_err(|error| failed(&error))?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let message = message(response.body(), header(CONTENT_TYPE).as_deref());
        Ok(Answer { status: response.status().as_u16(), challenge: header(WWW_AUTHENTICATE), message })
    }

    /// A token of the issuer for `user`, made out to the gateway.
    async fn login(&self, user: &str, scope: &str) -> Result<Secret, DemoError> {
        let door = format!("{}/mcp", self.estate.public_url);
        let mut form = Serializer::new(String::new());
        form.append_pair("user", user).append_pair("scope", scope).append_pair("resource", &door);
        let request = Request::post(format!("{}/login", self.estate.issuer_url))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::from(form.finish()))
            .map_err(|error| DemoError::at("login", error))?;
        let response = self.client.fetch(request, BOUNDS).await.map_err(|error| DemoError::at("login", error))?;
        let answer: Value = serde_json::from_slice(response.body()).map_err(|error| DemoError::at("login", error))?;
        let token = answer.get("access_token").and_then(Value::as_str);
        token.map(|token| Secret::new(token.to_owned())).ok_or_else(|| DemoError::at("login", answer))
    }

    /// Waits until the gateway answers and has read the tools of both servers.
    async fn awaited(&self, token: &Secret) -> Result<(), DemoError> {
        let began = clock::instant();
        loop {
            let last = match self.request(token, "tools/list", json!({})).await {
                Ok(answer) if answer.lists("crm__") && answer.lists("notes__") => return Ok(()),
                Ok(answer) => answer.message.to_string(),
                Err(error) => error.to_string(),
            };
            if clock::instant().duration_since(began) > START_MAX {
                return Err(DemoError::at("the gateway did not begin to serve", last));
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }

    /// Shows what the journal has since it was last looked at, one line a record.
    async fn records(&mut self, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        // The end of a call is on its way to the disk while the answer is on its way to the client.
        let records =
            self.unseen(|records| !records.is_empty() && of(records, "intent") <= of(records, "outcome")).await;
        for record in records {
            say(out, &format!("    journal: {}\n", summary(&record)))?;
        }
        Ok(())
    }

    /// Shows the newest refusal only: a loop leaves many records that say the same.
    async fn last_record(&mut self, out: &mut (dyn Write + Send)) -> Result<(), DemoError> {
        let unseen = self.unseen(|records| of(records, "refusal") > 0).await;
        match unseen.iter().rfind(|record| word(record, "/event") == "refusal") {
            Some(record) => say(out, &format!("    journal: {}\n", summary(record))),
            None => Ok(()),
        }
    }

    /// Shows one record in full.
    fn one_record(&self, out: &mut dyn Write) -> Result<(), DemoError> {
        let intent = lines(&self.estate.journal()).into_iter().find(|line| line.contains("\"event\":\"intent\""));
        let Some(line) = intent else { return Err(DemoError::at("the journal", "no call is in it")) };
        say(out, &format!("\n── one line of the journal, as written before the call was forwarded ──\n{line}\n\n"))
    }

    /// New records, as soon as they are enough, or as many as there are after a while.
    async fn unseen(&mut self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let began = clock::instant();
        let mut records = Vec::new();
        loop {
            let journal = lines(&self.estate.journal());
            let fresh: Vec<String> = journal.into_iter().filter(|line| self.seen.insert(line.clone())).collect();
            let read = fresh.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            records.extend(read.filter(|record| SHOWN.contains(&word(record, "/event"))));
            if enough(&records) || clock::instant().duration_since(began) > RECORD_MAX {
                return records;
            }
            tokio::time::sleep(RECORD_PAUSE).await;
        }
    }
}

impl Answer {
    /// The gateway's own code (`error.data.code`).
    fn code(&self) -> Option<&str> {
        self.message.pointer("/error/data/code").and_then(Value::as_str)
    }

    fn is_result(&self) -> bool {
        self.message.pointer("/result").is_some() && self.message.pointer("/result/isError") != Some(&json!(true))
    }

    fn lists(&self, prefix: &str) -> bool {
        let tools = self.message.pointer("/result/tools").and_then(Value::as_array);
        tools.into_iter().flatten().any(|tool| word(tool, "/name").starts_with(prefix))
    }

    fn shown(&self) -> String {
        let mut text = self.status.to_string();
        if let Some(result) = self.message.pointer("/result/structuredContent") {
            let mut result = result.clone();
            if let Some(members) = result.as_object_mut() {
                members.remove("received_token");
            }
            text.push_str(&format!(" {result}"));
        }
        if let Some(code) = self.code() {
            text.push_str(&format!(" {code}: {}", word(&self.message, "/error/message")));
        }
        if let Some(challenge) = &self.challenge {
            text.push_str(&format!("\n    WWW-Authenticate: {challenge}"));
        }
        text
    }
}

fn of(records: &[Value], event: &str) -> usize {
    records.iter().filter(|record| word(record, "/event") == event).count()
}

fn order(amount: u32) -> Call {
    let arguments = json!({ "customer": "c-2", "amount": amount, "currency": "EUR" });
    Call { tool: "crm__create_order", arguments }
}

/// `_meta` of every modern request.
fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": { "name": "tollgate-demo", "version": "1.0.0" },
    })
}

/// The JSON-RPC answer in a body, or the last one of an event stream.
fn message(body: &[u8], kind: Option<&str>) -> Value {
    if kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
        let text = String::from_utf8_lossy(body);
        let last = text.lines().filter_map(|line| line.strip_prefix("data:")).next_back();
        return last.and_then(|data| serde_json::from_str(data.trim()).ok()).unwrap_or_default();
    }
    serde_json::from_slice(body).unwrap_or_default()
}

/// The claims of a JWS, unverified: for showing them.
fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default()
}

fn beside(sent: &Value, received: &Value, out: &mut dyn Write) -> Result<(), DemoError> {
    for claim in CLAIMS {
        let of = |value: &Value| value.get(claim).map_or_else(|| "–".to_owned(), ToString::to_string);
        say(out, &format!("    {claim:<10} {:<48} {}\n", of(sent), of(received)))?;
    }
    Ok(())
}

/// One record in one line: what a person looks for first.
fn summary(record: &Value) -> String {
    let mut text = format!("{:<8}", word(record, "/event"));
    let parts = [
        ("user", "/user/subject"),
        ("agent", "/agent/client_id"),
        ("tool", "/target/exposed"),
        ("upstream", "/target/upstream"),
        ("decision", "/decision/outcome"),
        ("grant", "/grant/strategy"),
        ("audience", "/grant/audience"),
        ("refused", "/refused/code"),
        ("ending", "/result/ending"),
        ("code", "/result/code"),
    ];
    for (name, pointer) in parts {
        let value = word(record, pointer);
        if !value.is_empty() {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    if let Some(status) = record.pointer("/result/status") {
        text.push_str(&format!(" status={status}"));
    }
    if let Some(took) = record.pointer("/result/duration_us").and_then(Value::as_u64) {
        text.push_str(&format!(" took={:.1}ms", Duration::from_micros(took).as_secs_f64() * 1e3));
    }
    for (name, pointer) in [("policies", "/decision/policies"), ("scopes", "/grant/scopes")] {
        if let Some(values) = record.pointer(pointer).and_then(Value::as_array).filter(|values| !values.is_empty()) {
            let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            text.push_str(&format!(" {name}={}", values.join(",")));
        }
    }
    text
}

fn word<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// All lines of the journal, in the order of the files. A journal of this demo is small.
fn lines(journal: &Path) -> Vec<String> {
    let mut segments: Vec<PathBuf> = within(journal).iter().flat_map(|lane| within(lane)).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    segments.sort();
    let texts = segments.iter().filter_map(|path| fs::read(path).ok());
    texts
        .flat_map(|bytes| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            text.lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// What a folder holds; nothing where it is none. A file stands for itself, so that segments may lie in the journal's
/// folder or in folders within it.
fn within(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.filter_map(Result::ok).map(|entry| entry.path()).collect()
}

fn say(out: &mut dyn Write, text: &str) -> Result<(), DemoError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| DemoError::at("the output", error))
}

const VERSION: &str = "2026-07-28";

/// A tool that the shipped policies give to nobody in the demo.
const HIDDEN: &str = "crm__delete_customer";

/// Amounts on either side of what the shipped policies let support order.
const ORDER_SMALL: u32 = 100;
const ORDER_LARGE: u32 = 1_000_000;

/// More orders in a row than the ceiling of the shipped policies lets through.
const LOOP_MAX: u32 = 100;

/// Records that are about calls.
const SHOWN: [&str; 5] = ["intent", "outcome", "refusal", "grant", "list"];

/// Claims worth comparing.
const CLAIMS: [&str; 9] = ["iss", "sub", "aud", "client_id", "act", "scope", "tenant", "jti", "exp"];

const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(15), bytes_max: 1024 * 1024 };

/// How long the gateway may take to start, and how often it is asked.
const START_MAX: Duration = Duration::from_secs(20);
const START_PAUSE: Duration = Duration::from_millis(100);

/// How long a record may take to its file, and how often that is looked at.
const RECORD_MAX: Duration = Duration::from_secs(5);
const RECORD_PAUSE: Duration = Duration::from_millis(10);
