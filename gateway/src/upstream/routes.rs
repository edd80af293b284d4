//! For whom is a message that comes over a channel which many calls share?
//!
//! stdio and HTTP+SSE have one channel for everything (MCP basic/transports). Answers find their call by its id, progress
//! by its token, a subscription's words by its id; what names nobody belongs to the one call under way, if it is the only
//! one: with several, a guess would tell one caller what another one's call is about. On a channel that principals share it
//! may be late word of somebody else's call, and belongs to nobody. It sends nothing itself.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::progress_of;
use crate::{
    clock,
    config::UpstreamId,
    refusal::Refusal,
    rpc::{
        json::{Bounds, Value},
        outbound,
        reply::{Inbound, Notification, ServerRequest},
    },
    telemetry::metrics::metrics,
};

/// Who waits for what on one channel.
#[derive(Debug)]
pub(super) struct Routes {
    upstream: UpstreamId,
    bounds: Bounds,
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    waiting: BTreeMap<Place, mpsc::Sender<Arrival>>,
    sharing: Sharing,
    /// How many have waited so far.
    waited: u64,
    listeners: u64,
    messages: u64,
    answers: u64,
    used: Instant,
    ended: Option<Refusal>,
}

type Arrival = Result<Bytes, Refusal>;

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The request with this id, which begins a session.
    Beginning(u64),
    /// The request with this id.
    Call(u64),
    /// Whoever listens to what no request asked for.
    Listener(u64),
}

/// Whose calls a channel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Those of one session, and so of one principal.
    Session,
    /// Everybody's.
    Everybody,
}

/// The messages for one of those who wait.
#[derive(Debug)]
pub(super) struct Routed {
    arrivals: mpsc::Receiver<Arrival>,
    place: Place,
    routes: Arc<Routes>,
}

impl Drop for Routed {
    fn drop(&mut self) {
        self.routes.inside.lock().waiting.remove(&self.place);
    }
}

impl Routed {
    /// The next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.arrivals.recv().await.transpose()
    }
}

impl Routes {
    pub(super) fn new(upstream: &UpstreamId, bounds: Bounds, sharing: Sharing) -> Arc<Self> {
        let inside = Inside {
            waiting: BTreeMap::new(),
            sharing,
            waited: 0,
            listeners: 0,
            messages: 0,
            answers: 0,
            used: clock::instant(),
            ended: None,
        };
        Arc::new(Self { upstream: upstream.clone(), bounds, inside: Mutex::new(inside) })
    }

    /// Makes room for what comes back for the request `id`; `None` where the channel has ended.
    pub(super) fn expect(self: &Arc<Self>, place: Place) -> Option<Routed> {
        self.wait(|_| place)
    }

    /// The same for what no request asks for.
    pub(super) fn listen(self: &Arc<Self>) -> Option<Routed> {
        self.wait(|inside| {
            inside.listeners = inside.listeners.saturating_add(1);
            Place::Listener(inside.listeners)
        })
    }

    fn wait(self: &Arc<Self>, place: impl FnOnce(&mut Inside) -> Place) -> Option<Routed> {
        let mut inside = self.inside.lock();
        if inside.ended.is_some() {
            return None;
        }
        let place = place(&mut inside);
        inside.waited = inside.waited.saturating_add(1);
        let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
        inside.waiting.insert(place, sender);
        Some(Routed { arrivals, place, routes: Arc::clone(self) })
    }

    /// Notes that a message went out.
    pub(super) fn used(&self) {
        let mut inside = self.inside.lock();
        inside.used = clock::instant();
        inside.messages = inside.messages.saturating_add(1);
    }

    /// Nobody waits: the channel can be done without.
    pub(super) fn is_idle(&self) -> bool {
        self.inside.lock().waiting.is_empty()
    }

    /// Whether a call is under way.
    pub(super) fn is_calling(&self) -> bool {
        self.inside.lock().waiting.keys().any(|place| matches!(place, Place::Call(_)))
    }

    /// Whether anything was ever answered.
    pub(super) fn has_answered(&self) -> bool {
        self.inside.lock().answers > 0
    }

    /// When the channel was used last.
    pub(super) fn last_used(&self) -> Instant {
        self.inside.lock().used
    }

    /// Returns when nobody has needed the channel for `idle`.
    pub(super) async fn unused(&self, idle: Duration) {
        while let Some(until) = self.idle_until(idle).filter(|until| *until > clock::instant()) {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// When an unused channel has had its time. One on which nothing followed its first message has less of it: that
    /// was a question about the era, or a session that was not agreed on.
    fn idle_until(&self, limit: Duration) -> Option<Instant> {
        let inside = self.inside.lock();
        let limit = if inside.messages > 1 { limit } else { limit.min(UNSETTLED_MAX) };
        let from = if inside.waiting.is_empty() { inside.used } else { clock::instant() };
        from.checked_add(limit)
    }

    /// The channel has ended: nothing comes any more, and everybody learns why.
    pub(super) fn end(&self, why: &Refusal) {
        let mut inside = self.inside.lock();
        inside.ended = Some(why.clone());
        for waiting in std::mem::take(&mut inside.waiting).into_values() {
            // The last place is kept free for this; a second end finds nobody.
            drop(waiting.try_send(Err(why.clone())));
        }
    }

    /// Takes in one message, and gives what is to be said back at once.
    ///
    /// # Errors
    /// What is wrong with it, where it is no message.
    pub(super) fn deliver(&self, message: Bytes) -> Result<Option<Vec<u8>>, &'static str> {
        match Inbound::parse(message.clone(), &self.bounds)? {
            Inbound::Response(response) => {
                let mut inside = self.inside.lock();
                inside.answers = inside.answers.saturating_add(1);
                let place = match response.id() {
                    // Ours are numbers; in quotes it is another one.
                    Some(id) => id.text().parse().ok().and_then(|id| {
                        [Place::Call(id), Place::Beginning(id)].into_iter().find(|place| inside.has(*place))
                    }),
                    None => inside.only_call(),
                };
                match place.and_then(|place| inside.waiting.remove(&place)) {
                    Some(waiting) => drop(waiting.try_send(Ok(message))),
                    None => self.dropped("id_unknown"),
                }
                Ok(None)
            }
            Inbound::Notification(notification) => {
                self.note(&notification, &message);
                Ok(None)
            }
            Inbound::Request(request) => Ok(self.ask(&request, message)),
        }
    }

    fn note(&self, notification: &Notification, message: &Bytes) {
        let method = notification.method();
        let inside = self.inside.lock();
        let param = |name: &str| notification.params().and_then(|params| params.get(name));
        let subscription = param("_meta").and_then(|meta| meta.get(SUBSCRIPTION_ID)).and_then(number);
        let sent = if method == "notifications/progress" {
            let call = param("progressToken").and_then(Value::text).and_then(|token| progress_of(&token));
            call.is_some_and(|call| inside.offer(Place::Call(call), message))
        } else if let Some(subscription) = subscription {
            inside.offer(Place::Call(subscription), message)
        } else if method.ends_with("/list_changed") || method == "notifications/resources/updated" {
            inside.offer_listeners(message)
        } else {
            inside.only_call().map_or_else(|| inside.offer_listeners(message), |call| inside.offer(call, message))
        };
        drop(inside);
        if !sent {
            self.dropped("recipient_unknown");
        }
    }

    /// A request of the upstream: for the only call under way, whose client may know an answer.
    fn ask(&self, request: &ServerRequest, message: Bytes) -> Option<Vec<u8>> {
        if request.method() == "ping" {
            return Some(outbound::pong(request.id()));
        }
        let inside = self.inside.lock();
        let sent = inside.only_call().is_some_and(|call| inside.offer(call, &message));
        drop(inside);
        if sent {
            return None;
        }
        self.dropped("request_undeclared");
        Some(outbound::method_not_found(request.id()))
    }

    /// Counts a message that reaches nobody.
    pub(super) fn dropped(&self, reason: &str) {
        metrics().upstream_dropped.with([self.upstream.as_str(), reason]).increment();
        tracing::debug!(upstream = %self.upstream, reason, "dropped a message of an upstream");
    }
}

impl Inside {
    fn has(&self, place: Place) -> bool {
        self.waiting.contains_key(&place)
    }

    /// Whom a message means that names nobody: the only call under way; on a channel of everybody's it also has to be the
    /// first that there ever was.
    fn only_call(&self) -> Option<Place> {
        if self.sharing == Sharing::Everybody && self.waited > 1 {
            return None;
        }
        let mut calls = self.waiting.keys().filter(|place| !matches!(place, Place::Listener(_)));
        let first = calls.next().copied();
        first.filter(|_| calls.next().is_none())
    }

    /// Hands a message on, where somebody waits at `place` and takes it in time: one slow client does not hold up the
    /// channel, it goes without. The last place is for the answer.
    fn offer(&self, place: Place, message: &Bytes) -> bool {
        self.waiting
            .get(&place)
            .is_some_and(|waiting| waiting.capacity() > 1 && waiting.try_send(Ok(message.clone())).is_ok())
    }

    fn offer_listeners(&self, message: &Bytes) -> bool {
        let listeners = self.waiting.keys().filter(|place| matches!(place, Place::Listener(_)));
        // Each of them is asked: `any` would stop at the first.
        listeners.filter(|place| self.offer(**place, message)).count() > 0
    }
}

/// A subscription's id as we gave it, in either spelling.
fn number(value: Value<'_>) -> Option<u64> {
    value.integer().and_then(|id| u64::try_from(id).ok()).or_else(|| value.text()?.parse().ok())
}

/// Messages that may wait for one call, its answer among them.
const ARRIVALS_MAX: usize = 17;

/// So long a channel is kept on which nothing followed the first message.
const UNSETTLED_MAX: Duration = Duration::from_secs(60);

/// On the words of a subscription (MCP basic/patterns/subscriptions).
const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Arc<Routes> {
        routes_of(Sharing::Session)
    }

    fn routes_of(sharing: Sharing) -> Arc<Routes> {
        let bounds = Bounds { depth_max: 64, values_max: 10_000, name_bytes_max: 256, number_chars_max: 64 };
        Routes::new(&UpstreamId::parse("up").unwrap(), bounds, sharing)
    }

    fn deliver(routes: &Routes, text: &str) -> Option<String> {
        routes.deliver(Bytes::copy_from_slice(text.as_bytes())).unwrap().map(|back| String::from_utf8(back).unwrap())
    }

    fn waiting(routed: &mut Routed) -> Vec<String> {
        let mut texts = Vec::new();
        while let Ok(Ok(text)) = routed.arrivals.try_recv() {
            texts.push(String::from_utf8(text.to_vec()).unwrap());
        }
        texts
    }

    #[test]
    fn answers_and_progress_find_their_call_among_others() {
        let routes = routes();
        let mut one = routes.expect(Place::Call(1)).unwrap();
        let mut two = routes.expect(Place::Call(2)).unwrap();
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"tollgate-2","progress":1}}"#;
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        deliver(&routes, progress);
        deliver(&routes, answer);
        deliver(&routes, r#"{"jsonrpc":"2.0","id":3,"result":{}}"#);
        deliver(&routes, r#"{"jsonrpc":"2.0","id":"1","result":{}}"#);
        assert_eq!((waiting(&mut one), waiting(&mut two)), (vec![answer.to_owned()], vec![progress.to_owned()]));
    }

    #[test]
    fn what_names_nobody_reaches_the_only_call_or_none() {
        let routes = routes();
        let log =
            r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"secret of one"}}"#;
        let asks = r#"{"jsonrpc":"2.0","id":"s","method":"sampling/createMessage","params":{}}"#;
        let mut one = routes.expect(Place::Call(1)).unwrap();
        assert_eq!(deliver(&routes, log), None);
        assert_eq!(deliver(&routes, asks), None);
        assert_eq!(waiting(&mut one).len(), 2);
        let mut two = routes.expect(Place::Call(2)).unwrap();
        deliver(&routes, log);
        assert!(deliver(&routes, asks).unwrap().contains("-32601"));
        assert!(deliver(&routes, r#"{"jsonrpc":"2.0","id":5,"method":"ping"}"#).unwrap().contains("\"result\":{}"));
        assert_eq!((waiting(&mut one).len(), waiting(&mut two).len()), (0, 0));
    }

    #[test]
    fn late_word_of_one_callers_call_does_not_reach_the_next_caller() {
        let routes = routes_of(Sharing::Everybody);
        let log = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"alice's"}}"#;
        let error = r#"{"jsonrpc":"2.0","error":{"code":-32603,"message":"alice's"}}"#;
        let asks = r#"{"jsonrpc":"2.0","id":"s","method":"sampling/createMessage","params":{}}"#;
        let mut alice = routes.expect(Place::Call(1)).unwrap();
        assert_eq!(deliver(&routes, log), None);
        assert_eq!(waiting(&mut alice).len(), 1, "there never was anybody else");
        drop(alice);
        let mut bob = routes.expect(Place::Call(2)).unwrap();
        deliver(&routes, log);
        deliver(&routes, error);
        assert!(deliver(&routes, asks).unwrap().contains("-32601"));
        let answer = r#"{"jsonrpc":"2.0","id":2,"result":{}}"#;
        deliver(&routes, answer);
        assert_eq!(waiting(&mut bob), [answer]);
    }

    #[test]
    fn changes_reach_listeners_and_subscriptions_and_no_call() {
        let routes = routes();
        let mut call = routes.expect(Place::Call(1)).unwrap();
        let (mut first, mut second) = (routes.listen().unwrap(), routes.listen().unwrap());
        deliver(&routes, r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
        assert_eq!((waiting(&mut first).len(), waiting(&mut second).len(), waiting(&mut call).len()), (1, 1, 0));
        let mut subscription = routes.expect(Place::Call(9)).unwrap();
        deliver(
            &routes,
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":9}}}"#,
        );
        assert_eq!((waiting(&mut subscription).len(), waiting(&mut first).len()), (1, 0));
    }

    #[test]
    fn a_call_that_does_not_read_loses_words_and_never_its_answer() {
        let routes = routes();
        let mut call = routes.expect(Place::Call(1)).unwrap();
        for _ in 0..100 {
            deliver(&routes, r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#);
        }
        deliver(&routes, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
        let got = waiting(&mut call);
        assert!(got.len() == ARRIVALS_MAX && got.last().unwrap().contains("result"), "{got:?}");
    }

    #[test]
    fn everybody_learns_of_the_end_and_nobody_waits_after_it() {
        let routes = routes();
        let mut call = routes.expect(Place::Call(1)).unwrap();
        assert!(routes.is_calling());
        routes.end(&Refusal::UpstreamLost("gone".to_owned()));
        assert!(matches!(call.arrivals.try_recv(), Ok(Err(Refusal::UpstreamLost(_)))));
        assert!(routes.expect(Place::Call(2)).is_none() && routes.is_idle());
    }
}
