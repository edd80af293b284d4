//! Does an upstream say when its lists change?
//!
//! `subscriptions/listen` where it speaks the modern era, the GET stream of a session where it speaks the legacy one. It
//! does not read the lists again; whoever keeps the catalogue does.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::{
    Peer, Spoken,
    session::{Key, OWN, Session},
    subscription::ACKNOWLEDGED,
    transport::{Answered, Outgoing},
};
use crate::{
    exchange::Grant,
    refusal::{Era, Refusal},
    rpc::{
        Capabilities, Topic,
        json::Value,
        outbound,
        reply::{Inbound, Notification, Response},
    },
};

/// What became of listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The stream ended, as streams do: listen again.
    Ended,
    /// The upstream does not serve such a stream.
    Nothing,
}

impl Peer {
    /// Listens until the stream ends, and shakes the trust at every word that a list has changed; once also when the
    /// upstream begins to listen, because what happened before that is not told.
    pub async fn hear(&self, grant: &Arc<Grant>) -> Heard {
        let Some(spoken) = self.spoken() else { return Heard::Ended };
        let opened = match spoken.era {
            Era::Modern => self.subscribe(grant, spoken).await.map(|answered| (answered, None)),
            Era::Legacy => self.attach(grant).await.map(|(answered, session)| (answered, Some(session))),
        };
        let (mut answered, session) = match opened {
            Ok((answered, session)) if answered.status.is_success() && answered.messages.is_stream() => {
                (answered, session)
            }
            // Programs have no status, and some servers say in a body of JSON that they do not know the method.
            Ok((answered, session)) if answered.status.is_success() && spoken.era == Era::Modern => (answered, session),
            Ok((answered, _)) if is_absent(spoken.era, answered.status) => return Heard::Nothing,
            Ok(_) | Err(_) => return Heard::Ended,
        };
        // A modern server says first that it listens (RS-33); until then it may just as well say that it will not.
        let mut begun = false;
        if spoken.era == Era::Legacy {
            self.begins(&mut begun);
        }
        let listening = async {
            while let Ok(Some(message)) = answered.messages.next().await {
                match Inbound::parse(message, &self.bounds) {
                    Ok(Inbound::Notification(word)) if honours_nothing(&word) => return Heard::Nothing,
                    Ok(Inbound::Notification(word)) => {
                        self.begins(&mut begun);
                        self.heed_word(&word.method());
                    }
                    Ok(Inbound::Response(response)) if !begun && is_refused(&response) => return Heard::Nothing,
                    Ok(Inbound::Response(_)) | Err(_) => return Heard::Ended,
                    Ok(Inbound::Request(request)) => self.answer(grant, session.as_deref(), &request).await,
                }
            }
            Heard::Ended
        };
        tokio::time::timeout(STREAM_MAX, listening).await.unwrap_or(Heard::Ended)
    }

    /// What changed before somebody listened was not told.
    fn begins(&self, begun: &mut bool) {
        if !std::mem::replace(begun, true) {
            self.outdate();
            self.shake();
        }
    }

    /// What a notification says about what is known: lists are read again, and answers not given again. Some servers say
    /// it on the stream of a call.
    pub fn heed_word(&self, method: &str) {
        if let Some(topic) = Topic::of(method) {
            let mut said = self.said.lock();
            *said = said.with(topic);
            drop(said);
            self.outdate();
            self.shake();
        } else if method == RESOURCE_UPDATED {
            self.outdate();
        }
    }

    async fn subscribe(&self, grant: &Grant, spoken: Spoken) -> Result<Answered, Refusal> {
        let body = outbound::listen(&outbound::Outgoing::own(self.next_id(), spoken.version));
        let headers = self.headers(spoken, "subscriptions/listen", None);
        Ok(self.exchange(grant, Outgoing::new(body, headers, None)).await?)
    }

    async fn attach(&self, grant: &Arc<Grant>) -> Result<(Answered, Arc<Session>), Refusal> {
        let key = Key { principal: OWN, generation: grant.generation(), capabilities: Capabilities::NONE };
        let session = self.sessions.take(&key, Box::pin(self.begin(grant, Capabilities::NONE, None))).await?;
        let headers = self.headers(session.spoken(), "", None);
        let outgoing = Outgoing::new(Vec::new(), headers, session.id.as_ref());
        let reading = self.reading(self.settings.timeout, None);
        let answered = self.transport.get(grant, outgoing, reading).await?;
        if answered.status == StatusCode::NOT_FOUND {
            self.sessions.forget(&key, &session, answered.status);
        }
        Ok((answered, session))
    }
}

/// 405 says so in the legacy era, where 404 is a lost session (RL-04, RL-06); 404 in the modern one (RS-12).
fn is_absent(era: Era, status: StatusCode) -> bool {
    match era {
        Era::Legacy => status == StatusCode::METHOD_NOT_ALLOWED,
        Era::Modern => matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST),
    }
}

/// An acknowledgement may leave out everything that was asked for (RS-33).
fn honours_nothing(word: &Notification) -> bool {
    let honoured = word.params().and_then(|params| params.get("notifications"));
    word.method() == ACKNOWLEDGED
        && honoured.is_some_and(|honoured| {
            !Topic::ALL.iter().any(|topic| honoured.get(topic.member()).and_then(Value::boolean) == Some(true))
        })
}

/// An error says so, unless it is one that may pass.
fn is_refused(response: &Response) -> bool {
    response.outcome().is_err_and(|error| error.code != INTERNAL_ERROR)
}

/// JSON-RPC 2.0 §5.1.
const INTERNAL_ERROR: i64 = -32603;

/// What was read of a resource is not true any more.
const RESOURCE_UPDATED: &str = "notifications/resources/updated";

/// A stream is opened anew after so long: one whose other end has silently gone is found out by that.
const STREAM_MAX: Duration = Duration::from_secs(600);
