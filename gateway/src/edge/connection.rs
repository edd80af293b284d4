//! How does a connection become requests?
//!
//! From an accepted stream to hyper's codec: a seat, the handshake within its time, the protocol by ALPN, the watchdog,
//! the polite end. What a request says is `http`'s business.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use hyper::{Request, Response, body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use pingora_core::{apps::ServerApp, protocols::Stream, server::ShutdownWatch, tls::TlsAcceptor};
use rustls::HandshakeKind;
use tokio::time::{MissedTickBehavior, timeout};

use super::{
    activity::{Activity, Busy, Verdict},
    body::Reply,
    seats::Seats,
    tls::{Certificates, H2, Standing},
    unread::Unread,
    wire::{Transport, Wire},
};
use crate::{
    clock,
    config::Limits,
    identity::Certificate,
    lifecycle,
    refusal::Refusal,
    tasks::{self, Tasks},
    telemetry::metrics,
};

/// What a listener needs to serve connections: `answer` says what is served on them.
#[derive(Debug)]
pub(super) struct Listener<A> {
    pub(super) answer: Arc<A>,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) seats: Arc<Seats>,
    pub(super) tasks: Tasks,
    pub(super) bounds: Bounds,
}

/// Who answers the requests of a listener: the MCP endpoints, or the admin pages.
pub(super) trait Answer: Send + Sync + 'static {
    /// Answers one request of `peer`; the request is over when `busy` is dropped.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        busy: Busy,
    ) -> impl Future<Output = Response<Reply>> + Send;

    /// What is said to a request of `peer` that never became one; `None` leaves hyper its word.
    fn refuse(&self, refusal: Refusal, peer: SocketAddr) -> Option<lifecycle::Response>;
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// What they showed in the handshake, and the listener's authorities vouch for.
    pub(super) certificate: Option<Arc<Certificate>>,
}

/// A connection that can be spoken on.
struct Secured {
    transport: Transport,
    http2: bool,
    standing: Option<Box<Standing>>,
}

/// The bounds of one connection.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) header_bytes_max: usize,
    pub(super) header_read: Duration,
    pub(super) handshake: Duration,
    pub(super) idle: Duration,
    pub(super) stall: Duration,
    pub(super) streams_max: u32,
}

impl Bounds {
    pub(super) fn of(limits: &Limits) -> Self {
        Self {
            header_bytes_max: limits.header_bytes_max,
            header_read: limits.header_read,
            handshake: limits.handshake,
            idle: limits.idle,
            stall: STALL,
            streams_max: limits.streams_max,
        }
    }

    /// How often the watchdog looks: often enough to keep the times above to a quarter, rarely enough to cost nothing.
    fn look_every(&self) -> Duration {
        let shortest = self.idle.min(self.stall);
        shortest.checked_div(4).unwrap_or(shortest).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX)
    }
}

#[async_trait]
impl<A: Answer> ServerApp for Listener<A> {
    async fn process_new(self: &Arc<Self>, session: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let peer = peer_of(&session);
        let Some(seat) = self.seats.take(peer.ip()) else {
            metrics().connections_refused.increment();
            tracing::debug!(%peer, "connection.refused");
            return None;
        };
        // In a task of its own, which a drain waits for by its seat: pingora's is as large as a TLS handshake of pingora's,
        // which we do not use, and stays so to the end.
        let (listener, shutdown) = (Arc::clone(self), shutdown.clone());
        drop(tasks::background(async move {
            listener.serve(session, peer, shutdown).await;
            drop(seat);
        }));
        None
    }
}

impl<A: Answer> Listener<A> {
    async fn serve(&self, session: Stream, peer: SocketAddr, shutdown: ShutdownWatch) {
        let Some(Secured { transport, http2, standing }) = self.secure(session, peer).await else { return };
        let activity = Arc::new(Activity::new(http2));
        let service = {
            let (answer, activity) = (Arc::clone(&self.answer), Arc::clone(&activity));
            let certificate = standing.as_ref().map(|standing| Arc::clone(standing.certificate()));
            let peer = Peer { address: peer, certificate };
            service_fn(move |request| {
                let (answer, peer, busy) = (Arc::clone(&answer), peer.clone(), activity.begin());
                // On the heap of its own: hyper keeps the room of this future as long as the connection, and an answer's
                // state is many times that of a connection that waits or streams.
                async move { Ok::<_, Infallible>(tasks::placed(|| answer.answer(request, peer, busy)).await) }
            })
        };
        if http2 {
            let io = TokioIo::new(Wire::plain(transport));
            let connection = self.http2().serve_connection(io, service);
            self.watch(connection, (&activity, standing), shutdown).await;
        } else {
            let answer = Arc::clone(&self.answer);
            let unread = Unread::new(self.bounds.header_bytes_max, move |refusal| answer.refuse(refusal, peer));
            let wire = Wire::with_heads(transport, self.bounds.header_read, Arc::clone(&activity), unread);
            let connection = self.http1().serve_connection(TokioIo::new(wire), service);
            self.watch(connection, (&activity, standing), shutdown).await;
        }
    }

    /// The handshake: whether the client wants HTTP/2, and who it says it is; `None` where there is nobody to talk to.
    async fn secure(&self, session: Stream, peer: SocketAddr) -> Option<Secured> {
        let Some(certificates) = &self.certificates else {
            return Some(Secured { transport: Transport::Plain(session), http2: false, standing: None });
        };
        let (current, renewals) = certificates.current();
        let accept = TlsAcceptor::from(current).accept(session);
        match timeout(self.bounds.handshake, accept).await {
            Ok(Ok(stream)) => {
                let tls = stream.get_ref().1;
                let http2 = tls.alpn_protocol() == Some(H2);
                // rustls keeps only what its verifier let through, in a resumed session too.
                let standing = tls.peer_certificates().and_then(|chain| certificates.shown(chain, renewals));
                // A session that is resumed was not judged again, and a revocation list may have run out since.
                let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
                if resumed && standing.as_ref().is_some_and(|standing| !standing.holds()) {
                    return None;
                }
                Some(Secured { transport: Transport::Tls(Box::new(stream)), http2, standing })
            }
            // Port scans and health probes look like this: no reason to fill the log.
            Ok(Err(fault)) => {
                tracing::debug!(%peer, %fault, "handshake.failed");
                None
            }
            Err(_late) => {
                tracing::debug!(%peer, "handshake.timeout");
                None
            }
        }
    }

    fn http1(&self) -> conn::http1::Builder {
        let mut builder = conn::http1::Builder::new();
        // The write side shares this bound, so an answer is buffered no further than this either.
        let buffer_bytes_max = self.bounds.header_bytes_max.saturating_mul(2).max(BUFFER_BYTES_MIN);
        builder
            .max_header_size(self.bounds.header_bytes_max)
            .max_buf_size(buffer_bytes_max)
            // The head's deadline is the wire's, the idle time the watchdog's; see there.
            .header_read_timeout(None);
        builder
    }

    fn http2(&self) -> conn::http2::Builder<OnTasks> {
        let mut builder = conn::http2::Builder::new(OnTasks(self.tasks.clone()));
        let headers = u32::try_from(self.bounds.header_bytes_max).unwrap_or(u32::MAX);
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(headers)
            .max_concurrent_streams(self.bounds.streams_max)
            // Rapid reset (CVE-2023-44487) and its mirror MadeYouReset (CVE-2025-8671).
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .max_local_error_reset_streams(RESET_STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(BUFFER_BYTES_MIN)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        builder
    }

    /// Runs `connection` to its end, or until the watchdog or a drain ends it.
    async fn watch<C: Connection>(
        &self,
        connection: C,
        (activity, mut standing): (&Activity, Option<Box<Standing>>),
        mut shutdown: ShutdownWatch,
    ) {
        let mut connection = pin!(connection);
        let every = self.bounds.look_every();
        let looks = |time: Duration| {
            let count = time.as_micros().div_ceil(every.as_micros().max(1));
            usize::try_from(count).unwrap_or(usize::MAX)
        };
        let (idle_looks, stalled_looks) = (looks(self.bounds.idle), looks(self.bounds.stall));
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        let (mut seen, mut quiet, mut leaving) = (0, 0_usize, false);
        // A connection that was accepted just before the end begins gets the same chance as one that is open then.
        if *shutdown.borrow() {
            shutdown.mark_changed();
        }
        loop {
            tokio::select! {
                biased;
                _over = connection.as_mut() => return,
                () = lost(&mut standing) => return,
                _begun = shutdown.changed(), if !leaving => {
                    if first_call(connection.as_mut(), activity).await.is_break() {
                        return;
                    }
                    leaving = true;
                    connection.as_mut().leave();
                }
                _ = tick.tick() => match activity.look(seen, stalled_looks) {
                    // A call that waits for its answer gets it; streams that began by the certificate end by themselves.
                    Verdict::Quiet if ended_for(&standing).is_some_and(|ended| ended >= ENDED_MAX) => return,
                    Verdict::Alive | Verdict::Quiet if ended_for(&standing).is_some() && !leaving => {
                        leaving = true;
                        connection.as_mut().leave();
                    }
                    Verdict::Alive => (seen, quiet) = (activity.begun(), 0),
                    Verdict::Quiet => {
                        quiet = quiet.saturating_add(1);
                        // Asked to leave and still here: what is left is bytes that the client does not take.
                        if quiet > idle_looks {
                            return;
                        }
                        if quiet == idle_looks {
                            leaving = true;
                            connection.as_mut().leave();
                        }
                    }
                    Verdict::Stalled => return,
                }
            }
        }
    }
}

/// Returns when nobody vouches for the certificate of a connection any more; never where there is none.
async fn lost(standing: &mut Option<Box<Standing>>) {
    let Some(standing) = standing else { return std::future::pending().await };
    standing.lost().await;
}

/// For how long the certificate of a connection has been at its end.
fn ended_for(standing: &Option<Box<Standing>>) -> Option<Duration> {
    standing.as_ref().and_then(|standing| standing.ended_for(clock::now()))
}

/// hyper closes a connection without requests at once, but the first one may be on its way: a little time for that.
/// Says whether the connection ended by itself.
async fn first_call<C: Connection>(mut connection: Pin<&mut C>, activity: &Activity) -> ControlFlow<()> {
    let mut tick = tokio::time::interval(FIRST_CALL_LOOK_EVERY);
    for _ in 0..FIRST_CALL_LOOKS {
        if activity.begun() > 0 {
            break;
        }
        tokio::select! {
            biased;
            _over = connection.as_mut() => return ControlFlow::Break(()),
            _ = tick.tick() => {}
        }
    }
    ControlFlow::Continue(())
}

/// hyper's two connections, which end politely by the same name and no common trait.
trait Connection: Future {
    /// Finishes what has begun and takes nothing new.
    fn leave(self: Pin<&mut Self>);
}

impl<S, F> Connection for conn::http1::Connection<TokioIo<Wire>, S>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Reply>, Error = Infallible, Future = F>,
    F: Future<Output = Result<Response<Reply>, Infallible>>,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, F> Connection for conn::http2::Connection<TokioIo<Wire>, S, OnTasks>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Reply>, Error = Infallible, Future = F>,
    F: Future<Output = Result<Response<Reply>, Infallible>> + Send + 'static,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// HTTP/2 answers its streams beside each other; a drain waits for them.
#[derive(Debug, Clone)]
struct OnTasks(Tasks);

impl<F> hyper::rt::Executor<F> for OnTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, work: F) {
        drop(self.0.spawn(work));
    }
}

/// Who is at the other end. Only a socket that is gone already has no peer; any address will do for its short life.
fn peer_of(session: &Stream) -> SocketAddr {
    let digest = session.get_socket_digest();
    let peer = digest.as_ref().and_then(|digest| digest.peer_addr()?.as_inet().copied());
    peer.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
}

/// How long a client may leave the next piece of an answer untaken.
const STALL: Duration = Duration::from_secs(20);
/// How long a connection without requests may stay once the end has begun: half a second.
const FIRST_CALL_LOOKS: u32 = 50;
const FIRST_CALL_LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long what goes on over a connection may outlast its client's certificate: whoever has a new one comes anew.
const ENDED_MAX: Duration = Duration::from_secs(30);
/// The watchdog's pace.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(20);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);
/// What hyper may buffer of one connection; hyper itself asks for 8 KiB at least.
const BUFFER_BYTES_MIN: usize = 64 * 1024;
/// Streams that a client may reset, or make us reset, before the connection ends.
const RESET_STREAMS_MAX: usize = 32;
/// Body bytes that may wait unread, for one stream and for one connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// A peer that vanished without a word is found out by HTTP/2's own ping (RFC 9113 §6.7).
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
