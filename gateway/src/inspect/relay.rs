//! Which notifications of an upstream belong to the client's request?
//!
//! Progress for the token that the client gave, and log messages of the level that it asked for (RS-07, RS-34);
//! everything else that an upstream sends unasked is dropped, and counted by its caller. It does not read streams.

use bytes::Bytes;

use crate::rpc::{Asker, json::Value, meta::LogLevel, outbound, reply::Notification};

/// Why a notification does not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Progress that nobody asked for, or for another request.
    ProgressUnasked,
    /// Progress that does not increase.
    ProgressBackwards,
    /// Progress or a log message of the wrong shape.
    Malformed,
    /// A log message that nobody asked for, or less severe than asked for.
    LogUnasked,
    /// Any other kind.
    Unsolicited,
}

impl Dropped {
    /// The word for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProgressUnasked => "progress_unasked",
            Self::ProgressBackwards => "progress_backwards",
            Self::Malformed => "malformed",
            Self::LogUnasked => "log_unasked",
            Self::Unsolicited => "unsolicited",
        }
    }
}

/// What may go back before the answer, for one request.
#[derive(Debug)]
pub struct Relay {
    client_token: Option<Bytes>,
    our_token: String,
    log_level: Option<LogLevel>,
    reached: Option<f64>,
}

impl Relay {
    /// For the request of `asker`, which was sent on with `our_token`.
    #[must_use]
    pub fn new(asker: &Asker, our_token: String) -> Self {
        Self { client_token: asker.progress_token.clone(), our_token, log_level: asker.log_level, reached: None }
    }

    /// The notification as the client gets it: JSON text of a whole message.
    ///
    /// # Errors
    /// Why it does not go back.
    pub fn admit(&mut self, notification: &Notification) -> Result<Bytes, Dropped> {
        match notification.method().as_ref() {
            "notifications/progress" => self.progress(notification.params().ok_or(Dropped::Malformed)?),
            "notifications/message" => self.log(notification.params().ok_or(Dropped::Malformed)?),
            _ => Err(Dropped::Unsolicited),
        }
    }

    fn progress(&mut self, params: Value<'_>) -> Result<Bytes, Dropped> {
        let ours = params.get("progressToken").is_some_and(|token| token.is(&self.our_token));
        let Some(client_token) = self.client_token.as_deref().filter(|_| ours) else {
            return Err(Dropped::ProgressUnasked);
        };
        let progress = params.get("progress").and_then(Value::number).ok_or(Dropped::Malformed)?;
        if self.reached.is_some_and(|reached| progress <= reached) {
            return Err(Dropped::ProgressBackwards);
        }
        let mut out = begin("notifications/progress", params);
        outbound::member(&mut out, "progressToken", client_token);
        for (name, value) in params.members().filter(|(name, _)| !name.is("progressToken")) {
            outbound::member_raw(&mut out, name.raw(), value.raw());
        }
        self.reached = Some(progress);
        Ok(end(out))
    }

    /// Progress in the gateway's own words, where the client wants any: the upstream is at work. One step more each time,
    /// because nobody says how much there is to do.
    pub fn report(&mut self, message: Option<&str>) -> Option<Bytes> {
        let client_token = self.client_token.as_deref()?;
        let progress = self.reached.unwrap_or(0.0).max(0.0).floor() + 1.0;
        if self.reached.is_some_and(|reached| progress <= reached) {
            return None;
        }
        let mut out = br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"#.to_vec();
        outbound::member(&mut out, "progressToken", client_token);
        outbound::member(&mut out, "progress", progress.to_string().as_bytes());
        if let Some(message) = message {
            outbound::member_text(&mut out, "message", message);
        }
        self.reached = Some(progress);
        Some(end(out))
    }

    fn log(&self, params: Value<'_>) -> Result<Bytes, Dropped> {
        let level = params.get("level").and_then(Value::text).and_then(|word| LogLevel::parse(&word));
        let level = level.ok_or(Dropped::Malformed)?;
        if self.log_level.is_none_or(|least| level < least) {
            return Err(Dropped::LogUnasked);
        }
        let mut out = begin("notifications/message", params);
        for (name, value) in params.members() {
            outbound::member_raw(&mut out, name.raw(), value.raw());
        }
        Ok(end(out))
    }
}

fn begin(method: &str, params: Value<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(params.raw().len().saturating_add(128));
    out.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    outbound::member_text(&mut out, "method", method);
    outbound::member(&mut out, "params", b"{");
    out
}

fn end(mut out: Vec<u8>) -> Bytes {
    out.extend_from_slice(b"}}");
    Bytes::from(out)
}
