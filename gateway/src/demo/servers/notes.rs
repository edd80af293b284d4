//! What does a legacy MCP server look like?
//!
//! `notes`, MCP 2025-11-25: `initialize`, a session, answers as server-sent events with progress before them. It serves
//! nothing of what came later.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{Asked, Verifier, answered, failed, lacks, only, result, schema, text};
use crate::{
    demo::{
        loopback::{self, Body, Serve},
        token::{self, Claims},
    },
    tasks,
};

/// The server and its notes.
pub(in crate::demo) struct Notes {
    verifier: Verifier,
    texts: Mutex<BTreeMap<String, String>>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// One client's conversation; only the subject that began it may go on with it.
struct Session {
    subject: String,
    /// Requests that the client no longer wants (`notifications/cancelled`).
    cancelled: Mutex<HashSet<String>>,
}

/// A tool's outcome that takes its time.
struct Report {
    session: Arc<Session>,
    id: Value,
    progress: Option<Value>,
    seconds: u64,
}

impl Notes {
    pub(in crate::demo) fn new(verifier: Verifier) -> Self {
        let texts = BTreeMap::from([("welcome".to_owned(), "A note from a server of an earlier era.".to_owned())]);
        Self { verifier, texts: Mutex::new(texts), sessions: Mutex::default() }
    }

    fn post(&self, headers: &HeaderMap, asked: &Asked, claims: &Claims) -> Response<Body> {
        if asked.method == "initialize" {
            return self.begin(asked, claims);
        }
        let session = match self.session(headers, claims) {
            Ok(session) => session,
            Err(status) => return failed(status, asked.id(), -32600, "no session"),
        };
        if asked.id.is_none() {
            if asked.method == "notifications/cancelled" {
                session.cancel(asked.params.get("requestId"));
            }
            return loopback::empty(StatusCode::ACCEPTED);
        }
        match asked.method.as_str() {
            "ping" => answered(asked.id(), &json!({})),
            "tools/list" if !token::holds(claims, "notes.read") => lacks("notes.read"),
            "tools/list" => answered(asked.id(), &listed()),
            "tools/call" => self.call(asked, claims, session),
            // A 404 would say that the session has ended (MCP 2025-11-25 basic/transports, Session Management).
            _ => failed(StatusCode::OK, asked.id(), -32601, "method not found"),
        }
    }

    fn begin(&self, asked: &Asked, claims: &Claims) -> Response<Body> {
        let mut sessions = self.sessions.lock();
        if sessions.len() >= SESSIONS_MAX {
            return loopback::empty(StatusCode::SERVICE_UNAVAILABLE);
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let session = Session { subject: token::text(claims, "sub").to_owned(), cancelled: Mutex::default() };
        let mut response = answered(
            asked.id(),
            &json!({
                "protocolVersion": VERSION,
                "capabilities": { "tools": {} },
                "serverInfo": { "name": "notes", "version": "1.0.0" },
            }),
        );
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(SESSION_HEADER, value);
        }
        sessions.insert(id, Arc::new(session));
        response
    }

    /// The session that a request belongs to: 400 without an id, 404 where it has ended or is somebody else's.
    fn session(&self, headers: &HeaderMap, claims: &Claims) -> Result<Arc<Session>, StatusCode> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if header("mcp-protocol-version").is_some_and(|version| version != VERSION) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let id = header(SESSION_HEADER).ok_or(StatusCode::BAD_REQUEST)?;
        let session = self.sessions.lock().get(id).map(Arc::clone).ok_or(StatusCode::NOT_FOUND)?;
        if session.subject == token::text(claims, "sub") { Ok(session) } else { Err(StatusCode::NOT_FOUND) }
    }

    fn end(&self, headers: &HeaderMap, claims: &Claims) -> Response<Body> {
        if let Err(status) = self.session(headers, claims) {
            return loopback::empty(status);
        }
        let id = headers.get(SESSION_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        self.sessions.lock().remove(id);
        loopback::empty(StatusCode::NO_CONTENT)
    }

    fn call(&self, asked: &Asked, claims: &Claims, session: Arc<Session>) -> Response<Body> {
        let (name, arguments) = asked.tool();
        let scope = match name {
            "read_note" | "slow_report" => "notes.read",
            "write_note" => "notes.write",
            _ => return failed(StatusCode::OK, asked.id(), -32602, "unknown tool"),
        };
        if !token::holds(claims, scope) {
            return lacks(scope);
        }
        let outcome = match name {
            "read_note" => self.read(&arguments),
            "write_note" => self.write(&arguments),
            _ => match seconds(&arguments) {
                Ok(seconds) => return Report::new(asked, session, seconds).stream(),
                Err(why) => Err(why),
            },
        };
        let (sender, events) = mpsc::channel(1);
        // The channel is empty and has room for one: this cannot fail.
        drop(sender.try_send(event(&json!({ "jsonrpc": "2.0", "id": asked.id(), "result": result(outcome) }))));
        loopback::events(events)
    }

    fn read(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        only(arguments, &["id"])?;
        let id = text(arguments, "id")?;
        let found = self.texts.lock().get(id).cloned().ok_or("no such note")?;
        Ok(json!({ "id": id, "text": found }))
    }

    fn write(&self, arguments: &Map<String, Value>) -> Result<Value, String> {
        only(arguments, &["id", "text"])?;
        let (id, note) = (text(arguments, "id")?, text(arguments, "text")?);
        let mut texts = self.texts.lock();
        if texts.len() >= NOTES_MAX && !texts.contains_key(id) {
            return Err("no room for another note".to_owned());
        }
        texts.insert(id.to_owned(), note.to_owned());
        Ok(json!({ "id": id, "written": note.len() }))
    }
}

impl Serve for Notes {
    async fn serve(&self, request: Request<Bytes>) -> Response<Body> {
        if request.headers().contains_key("origin") {
            return loopback::empty(StatusCode::FORBIDDEN);
        }
        if request.uri().path() != "/mcp" {
            return loopback::empty(StatusCode::NOT_FOUND);
        }
        let claims = match self.verifier.admit(request.headers()).await {
            Ok(claims) => claims,
            Err(refused) => return *refused,
        };
        match *request.method() {
            Method::POST => match Asked::read(request.body()) {
                Ok(asked) => self.post(request.headers(), &asked, &claims),
                Err(refused) => *refused,
            },
            Method::DELETE => self.end(request.headers(), &claims),
            // No stream of its own: everything this server says answers something.
            _ => loopback::empty(StatusCode::METHOD_NOT_ALLOWED),
        }
    }
}

impl Session {
    fn cancel(&self, request: Option<&Value>) {
        let mut cancelled = self.cancelled.lock();
        if let Some(request) = request.filter(|_| cancelled.len() < CANCELLED_MAX) {
            cancelled.insert(request.to_string());
        }
    }
}

impl Report {
    fn new(asked: &Asked, session: Arc<Session>, seconds: u64) -> Self {
        let progress = asked.params.get("_meta").and_then(|meta| meta.get("progressToken")).cloned();
        Self { session, id: asked.id().clone(), progress, seconds }
    }

    fn stream(self) -> Response<Body> {
        let (sender, events) = mpsc::channel(4);
        tasks::background(self.write(sender));
        loopback::events(events)
    }

    /// A disconnect does not cancel in this era, but there is nobody left to write for either.
    async fn write(self, sender: mpsc::Sender<Bytes>) {
        let steps = self.seconds.saturating_mul(STEPS_A_SECOND);
        for step in 1..=steps {
            tokio::time::sleep(STEP).await;
            if self.session.cancelled.lock().remove(&self.id.to_string()) {
                return;
            }
            let Some(token) = &self.progress else { continue };
            let params = json!({ "progressToken": token, "progress": step, "total": steps });
            let progress = json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params });
            if sender.send(event(&progress)).await.is_err() {
                return;
            }
        }
        let report = result(Ok(json!({ "report": "all is well", "seconds": self.seconds })));
        let answer = json!({ "jsonrpc": "2.0", "id": self.id, "result": report });
        // An error says that the client has gone, which is where this ends anyway.
        drop(sender.send(event(&answer)).await);
    }
}

fn seconds(arguments: &Map<String, Value>) -> Result<u64, String> {
    only(arguments, &["seconds"])?;
    let seconds =
        arguments.get("seconds").and_then(Value::as_u64).filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    seconds.ok_or_else(|| format!("`seconds` must be an integer from 1 to {SECONDS_MAX}"))
}

fn event(message: &Value) -> Bytes {
    Bytes::from(format!("event: message\ndata: {message}\n\n"))
}

fn listed() -> Value {
    let words = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "tools": [
            {
                "name": "read_note",
                "description": "Reads a note.",
                "inputSchema": schema(&json!({ "id": words("the note's name") }), &["id"]),
                "annotations": { "readOnlyHint": true },
            },
            {
                "name": "write_note",
                "description": "Writes a note, over one of the same name.",
                "inputSchema": schema(
                    &json!({ "id": words("the note's name"), "text": words("what it says") }),
                    &["id", "text"],
                ),
                "annotations": { "readOnlyHint": false, "destructiveHint": true },
            },
            {
                "name": "slow_report",
                "description": "Takes its time, and says how far it is.",
                "inputSchema": schema(
                    &json!({ "seconds": { "type": "integer", "minimum": 1, "maximum": SECONDS_MAX } }),
                    &["seconds"],
                ),
                "annotations": { "readOnlyHint": true },
            },
        ],
    })
}

const VERSION: &str = "2025-11-25";
const SESSION_HEADER: &str = "mcp-session-id";

/// How long a report may take.
const SECONDS_MAX: u64 = 30;

/// How often a report says how far it is.
const STEP: Duration = Duration::from_millis(500);
const STEPS_A_SECOND: u64 = 2;

const SESSIONS_MAX: usize = 1_024;
const NOTES_MAX: usize = 1_024;
const CANCELLED_MAX: usize = 1_024;
