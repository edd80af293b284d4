//! What does an upstream ask of the client, and may it?
//!
//! Elicitation, sampling and roots in both of their forms: a request in the middle of a legacy call, and an entry of a
//! modern `input_required` (RS-30). Read once into [`Ask`]s, checked against what was declared, written in the client's
//! form; and the client's answers, judged as far as the record needs. It does not know who is asked.

use std::borrow::Cow;

use bytes::Bytes;
use url::Url;

use super::{Answer, Outcome, Sent, forms};
use crate::{
    refusal::Refusal,
    rpc::{
        Asker, Capabilities,
        json::{Bounds, Document, Kind as Json, Value},
        meta::{Meta, RELATED_TASK},
        outbound, versions,
    },
};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `elicitation/create`: a form.
    Form,
    /// `elicitation/create`: a page to visit.
    Url,
    /// `sampling/createMessage`.
    Sampling,
    /// `roots/list`.
    Roots,
}

impl Kind {
    /// The method.
    #[must_use]
    pub const fn method(self) -> &'static str {
        match self {
            Self::Form | Self::Url => "elicitation/create",
            Self::Sampling => "sampling/createMessage",
            Self::Roots => "roots/list",
        }
    }

    /// The word in records and in sealed states.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Url => "url",
            Self::Sampling => "sampling",
            Self::Roots => "roots",
        }
    }

    /// The kind that `word` names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Form, Self::Url, Self::Sampling, Self::Roots].into_iter().find(|kind| kind.as_str() == word)
    }

    /// What a client has to have declared to be asked this.
    #[must_use]
    pub const fn capability(self) -> Capabilities {
        match self {
            Self::Form => Capabilities::FORM,
            Self::Url => Capabilities::URL,
            Self::Sampling => Capabilities::SAMPLING,
            Self::Roots => Capabilities::ROOTS,
        }
    }

    /// What `result` answers, as far as it shows: where nobody knows any more what was asked.
    #[must_use]
    pub fn answered_by(result: Value<'_>) -> Self {
        let fits = |kind: &Self| kind.action(result).is_some();
        [Self::Form, Self::Roots].into_iter().find(fits).unwrap_or(Self::Sampling)
    }

    /// What the client did, for the record: `accept`, `decline`, `cancel` or `answer`; nothing where `result` is no
    /// answer to this.
    #[must_use]
    pub fn action(self, result: Value<'_>) -> Option<&'static str> {
        match self {
            Self::Form | Self::Url => {
                let action = result.get("action")?.text()?;
                ["accept", "decline", "cancel"].into_iter().find(|word| *word == action)
            }
            Self::Sampling => result.is_object().then_some("answer"),
            Self::Roots => result.get("roots").filter(|roots| roots.kind() == Json::Array).map(|_| "answer"),
        }
    }
}

/// Why something cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// The protocol has no such thing to ask.
    Method,
    /// The client did not declare that it can do this.
    Undeclared(Capabilities),
    /// The parameters are not those of the method.
    Malformed,
}

/// One thing that an upstream asks, in the upstream's own words.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What is asked.
    pub kind: Kind,
    params: Option<Document>,
}

impl Ask {
    /// Reads `method` and `params`, where `declared` allows them; `version` is the upstream's.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn of(method: &str, params: Option<Value<'_>>, declared: Capabilities, version: &str) -> Result<Self, Unfit> {
        if params.is_some_and(|params| !params.is_object()) {
            return Err(Unfit::Malformed);
        }
        let (kind, needed) = match method {
            "elicitation/create" => {
                let may = declared.has(Capabilities::FORM) || declared.has(Capabilities::URL);
                let unfit = if may { Unfit::Malformed } else { Unfit::Undeclared(Capabilities::FORM) };
                let kind = elicitation(params).ok_or(unfit)?;
                (kind, kind.capability())
            }
            "sampling/createMessage" => (Kind::Sampling, sampling(params, version)),
            "roots/list" => (Kind::Roots, Capabilities::ROOTS),
            _ => return Err(Unfit::Method),
        };
        if !declared.has(needed) {
            return Err(Unfit::Undeclared(needed));
        }
        Ok(Self { kind, params: params.map(Value::detached) })
    }

    /// A page of the gateway's own to visit: `url` is one of ours, and `message` says why.
    ///
    /// # Errors
    /// [`Refusal::Bug`].
    pub fn page(message: &str, url: &str) -> Result<Self, Refusal> {
        let mut params = br#"{"mode":"url""#.to_vec();
        outbound::member_text(&mut params, "message", message);
        outbound::member_text(&mut params, "url", url);
        params.push(b'}');
        let bounds = Bounds { depth_max: 2, values_max: 8, name_bytes_max: 16, number_chars_max: 1 };
        let params = Document::parse(Bytes::from(params), &bounds);
        Ok(Self {
            kind: Kind::Url,
            params: Some(params.map_err(|_impossible| Refusal::Bug("a page that is no JSON"))?),
        })
    }

    /// Whether it may still be asked of a client that declared this.
    #[must_use]
    pub fn fits(&self, declared: Capabilities, version: &str) -> bool {
        Self::of(self.kind.method(), self.params.as_ref().map(Document::root), declared, version).is_ok()
    }

    /// The bytes that were asked, for a digest.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.params.as_ref().map(|params| params.text().as_ref()).unwrap_or_default()
    }

    /// The request to a legacy client of `version`, under our `id`. The revision that has pages to visit wants a name for
    /// each; where the upstream gave none, the request's own is it.
    #[must_use]
    pub fn request(&self, id: &str, version: &str) -> Vec<u8> {
        let mut out = br#"{"jsonrpc":"2.0""#.to_vec();
        outbound::member_text(&mut out, "id", id);
        outbound::member_text(&mut out, "method", self.kind.method());
        self.write_params(&mut out, version, Some(id));
        out.push(b'}');
        out
    }

    /// The entry of `inputRequests` for a modern client.
    fn write_input_request(&self, out: &mut Vec<u8>, version: &str) {
        out.push(b'{');
        outbound::member_text(out, "method", self.kind.method());
        self.write_params(out, version, None);
        out.push(b'}');
    }

    /// Everything that the upstream wrote, without what the client's revision does not have, and without handles of the
    /// gateway's own conversation with the upstream.
    fn write_params(&self, out: &mut Vec<u8>, version: &str, elicitation_id: Option<&str>) {
        let Some(params) = self.params.as_ref().map(Document::root) else { return };
        outbound::member(out, "params", b"{");
        let mut named = false;
        for (name, value) in params.members() {
            match name.text().as_deref() {
                // Client-side tasks are not bridged (spec §2.5).
                Some("task") => {}
                Some("mode") if !versions::at_least(version, "2025-11-25") => {}
                Some("requestedSchema") if !versions::at_least(version, "2025-11-25") => forms::older(out, value),
                Some("elicitationId") => {
                    if elicitation_id.is_some() {
                        named = true;
                        outbound::member_raw(out, name.raw(), value.raw());
                    }
                }
                Some("_meta") => write_others(out, value),
                _ => outbound::member_raw(out, name.raw(), value.raw()),
            }
        }
        if let Some(id) = elicitation_id.filter(|_| self.kind == Kind::Url && !named) {
            outbound::member_text(out, "elicitationId", id);
        }
        out.push(b'}');
    }
}

/// `_meta` without the members that belong to the conversation with the upstream.
fn write_others(out: &mut Vec<u8>, meta: Value<'_>) {
    let mut own = vec![b'{'];
    for (name, value) in Meta::of(Some(meta)).others().filter(|(name, _)| !name.is(RELATED_TASK)) {
        outbound::member_raw(&mut own, name.raw(), value.raw());
    }
    own.push(b'}');
    if own.len() > 2 {
        outbound::member(out, "_meta", &own);
    }
}

fn elicitation(params: Option<Value<'_>>) -> Option<Kind> {
    let params = params?;
    params.get("message")?.text()?;
    let mode = match params.get("mode") {
        Some(mode) => mode.text()?,
        None => Cow::Borrowed("form"),
    };
    match mode.as_ref() {
        "form" => params.get("requestedSchema")?.is_object().then_some(Kind::Form),
        "url" => {
            // A page, and nothing that a client might run.
            let url = Url::parse(&params.get("url")?.text()?).ok()?;
            matches!(url.scheme(), "https" | "http").then_some(Kind::Url)
        }
        _ => None,
    }
}

/// What a client has to have declared for these parameters. Before 2025-11-25 there was one capability for all of it.
fn sampling(params: Option<Value<'_>>, version: &str) -> Capabilities {
    let has = |name: &str| params.is_some_and(|params| params.get(name).is_some());
    let context = params.and_then(|params| params.get("includeContext")).is_some_and(|context| !context.is("none"));
    let mut needed = Capabilities::SAMPLING;
    if versions::at_least(version, "2025-11-25") {
        if has("tools") || has("toolChoice") {
            needed = needed.and(Capabilities::SAMPLING_TOOLS);
        }
        if context {
            needed = needed.and(Capabilities::SAMPLING_CONTEXT);
        }
    }
    needed
}

/// Everything that one answer of an upstream asks.
#[derive(Debug, Default)]
pub struct Asked {
    /// By the keys under which the answers are expected.
    pub asks: Vec<(String, Ask)>,
    /// The upstream's `requestState`, as JSON text: echoed byte for byte (RC-09).
    pub state: Option<Bytes>,
    /// The upstream's `_meta`.
    meta: Option<Document>,
}

impl Asked {
    /// What is asked by requests in the middle of a legacy call.
    #[must_use]
    pub fn by_requests(asks: Vec<(String, Ask)>) -> Self {
        Self { asks, state: None, meta: None }
    }

    /// A result with `resultType` `input_required` (RS-30).
    ///
    /// # Errors
    /// [`Refusal::UpstreamInvalid`], and [`Refusal::InputUndeclared`] where the client cannot be asked that.
    pub(super) fn by_result(result: Value<'_>, sent: &Sent<'_>) -> Result<Self, Refusal> {
        let state = result.get("requestState");
        if state.is_some_and(|state| state.kind() != Json::String) {
            return Err(invalid("a `requestState` that is not a string"));
        }
        let requests = result.get("inputRequests");
        if requests.is_some_and(|requests| !requests.is_object()) {
            return Err(invalid("`inputRequests` that are not an object"));
        }
        let mut asks = Vec::new();
        for (key, request) in requests.into_iter().flat_map(Value::members) {
            let (key, method) = (key.text().unwrap_or_default(), request.get("method").and_then(Value::text));
            let method = method.ok_or_else(|| invalid("an input request without a method"))?;
            let ask = Ask::of(&method, request.get("params"), sent.declared, sent.version).map_err(unfit)?;
            asks.push((key.into_owned(), ask));
        }
        if asks.is_empty() && state.is_none() {
            return Err(invalid("an `input_required` that asks nothing"));
        }
        Self { asks, state: state.map(Value::raw_bytes), meta: result.get("_meta").map(Value::detached) }.bounded()
    }

    /// Error -32042 of a legacy upstream: pages to visit before the call is made again.
    ///
    /// # Errors
    /// As [`Self::by_result`].
    pub(super) fn by_error(data: Option<Value<'_>>, sent: &Sent<'_>) -> Result<Self, Refusal> {
        let listed = data.and_then(|data| data.get("elicitations")).into_iter().flat_map(Value::elements);
        let mut asks = Vec::new();
        for (nth, elicitation) in listed.enumerate() {
            let ask = Ask::of("elicitation/create", Some(elicitation), sent.declared, sent.version);
            match ask.map_err(unfit)? {
                ask if ask.kind == Kind::Url => asks.push((format!("url-{nth}"), ask)),
                _ => return Err(invalid("an error -32042 that lists something else than pages")),
            }
        }
        if asks.is_empty() {
            return Err(invalid("an error -32042 that lists nothing"));
        }
        Self::by_requests(asks).bounded()
    }

    /// What of it was not answered yet.
    #[must_use]
    pub fn without(mut self, answered: &[String]) -> Self {
        self.asks.retain(|(key, _)| !answered.contains(key));
        self
    }

    fn bounded(self) -> Result<Self, Refusal> {
        let keys: usize = self.asks.iter().map(|(key, _)| key.len()).sum();
        let state = self.state.as_ref().map_or(0, Bytes::len);
        if self.asks.len() > ASKS_MAX || keys > KEYS_BYTES_MAX || state > STATE_BYTES_MAX {
            return Err(invalid("an `input_required` that asks for too much at once"));
        }
        Ok(self)
    }

    /// The result for a modern client; `state` is ours, and `prefix` the upstream's id, where the URIs that the client
    /// sees carry it.
    #[must_use]
    pub fn answer(&self, asker: &Asker, state: &str, prefix: Option<&str>) -> Answer {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
        outbound::member(&mut out, "id", asker.id.raw());
        outbound::member(&mut out, "result", b"{");
        outbound::member_text(&mut out, "resultType", "input_required");
        if !self.asks.is_empty() {
            self.write_requests(&mut out, asker.version);
        }
        outbound::member_text(&mut out, "requestState", state);
        super::write_meta(&mut out, asker.era, self.meta.as_ref().map(Document::root), prefix);
        out.extend_from_slice(b"}}");
        Answer { body: Bytes::from(out), outcome: Outcome::InputRequired }
    }

    /// `inputRequests` for a modern client.
    pub(super) fn write_requests(&self, out: &mut Vec<u8>, version: &str) {
        outbound::member(out, "inputRequests", b"{");
        for (key, ask) in &self.asks {
            outbound::member(out, key, b"");
            ask.write_input_request(out, version);
        }
        out.push(b'}');
    }
}

fn unfit(unfit: Unfit) -> Refusal {
    match unfit {
        Unfit::Method => invalid("an input request with a method that the protocol does not have there"),
        Unfit::Malformed => invalid("an input request with malformed parameters"),
        Unfit::Undeclared(needed) => Refusal::InputUndeclared(needed.json()),
    }
}

fn invalid(why: &'static str) -> Refusal {
    Refusal::UpstreamInvalid(why.to_owned())
}

/// Things that one answer may ask at once: a person reads them.
pub const ASKS_MAX: usize = 16;

/// Their keys travel in the sealed state.
const KEYS_BYTES_MAX: usize = 4 * 1024;

/// And so does the upstream's own.
const STATE_BYTES_MAX: usize = 64 * 1024;
