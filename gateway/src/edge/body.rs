//! How do bodies go in and out?
//!
//! In: whole, within a size and a time. Out: in pieces as fast as the client takes them, with a sign of life on streams
//! that have nothing to say. It looks at no byte of either.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, timeout},
};

use super::activity::{Busy, Flow};
use crate::{lifecycle, refusal::Refusal, tasks};

/// The body of a request, which is read to its end where nobody wants it.
///
/// An answer may be there before all of the body is: a connection that is closed then is reset under a client that still
/// sends, which loses the answer with it (RFC 9112 §9.6), as some do when a stream of HTTP/2 is reset (RFC 9113 §8.1).
#[derive(Debug)]
pub(super) struct Sent {
    body: Option<Incoming>,
    lingers: bool,
}

impl Sent {
    /// Where it `lingers`, what is left of it is read away.
    pub(super) const fn new(body: Incoming, lingers: bool) -> Self {
        Self { body: Some(body), lingers }
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let next = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = &next {
            self.body = None;
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| self.lingers && !body.is_end_stream());
        if let Some(left) = left {
            drop(tasks::background(timeout(LINGER, read_away(left))));
        }
    }
}

async fn read_away(mut body: Incoming) {
    let mut left = LINGER_BYTES_MAX;
    while let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

/// Reads `body` to its end: at most `bytes_max`, at most for `time`.
pub(super) async fn read<B>(body: B, bytes_max: usize, time: Duration) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes>,
{
    // The timer costs nothing where the body came with the head: `timeout` polls the reader first.
    timeout(time, read_all(body, bytes_max)).await.unwrap_or(Err(Refusal::BodyTooSlow))
}

async fn read_all<B>(body: B, bytes_max: usize) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while !body.is_end_stream() {
        let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await else { break };
        // Whatever went wrong underneath, a body that ends early is not what the client meant to say.
        let Ok(data) = frame.map_err(|_cut| Refusal::BodyIncomplete)?.into_data() else { continue };
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        if data.len() > bytes_max.saturating_sub(so_far) {
            return Err(Refusal::BodyTooLarge(bytes_max));
        }
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut joined =
                    BytesMut::with_capacity(expected(&*body, so_far.saturating_add(data.len()), bytes_max));
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                rest = Some(joined);
            }
        }
    }
    // A small body is a part of hyper's read buffer, all of which it would hold for as long as the call lasts.
    Ok(rest.map_or_else(|| Bytes::copy_from_slice(&first), BytesMut::freeze))
}

/// Room for what is here and what is announced; what is announced is only a claim, so it gets no more than a little.
fn expected<B: HttpBody>(body: &B, here: usize, bytes_max: usize) -> usize {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX).min(CLAIM_BYTES_MAX);
    here.saturating_add(announced).min(bytes_max)
}

/// The body of an answer on its way out.
#[derive(Debug)]
pub(super) struct Reply {
    content: Content,
    /// Only where the client can hold the answer up.
    flow: Option<Arc<Flow>>,
    _busy: Option<Busy>,
}

#[derive(Debug)]
enum Content {
    /// What is left, and what comes after it.
    Whole(Bytes, Bytes),
    Stream {
        events: mpsc::Receiver<Bytes>,
        silence: Option<Silence>,
    },
}

/// How long a stream has had nothing to say.
#[derive(Debug)]
struct Silence {
    tick: Interval,
    ticks: u32,
}

impl Reply {
    /// `body`, for a request that is `busy` until this reply is gone.
    pub(super) fn new(body: lifecycle::Body, busy: Option<Busy>) -> Self {
        let content = match body {
            lifecycle::Body::Empty => Content::Whole(Bytes::new(), Bytes::new()),
            lifecycle::Body::Whole(bytes) => Content::Whole(bytes, Bytes::new()),
            lifecycle::Body::Led(own, shared) => Content::Whole(own, shared),
            lifecycle::Body::Stream(events) => Content::Stream { events, silence: None },
        };
        let flow = busy.as_ref().and_then(|busy| match &content {
            Content::Whole(bytes, then) if bytes.is_empty() && then.is_empty() => None,
            // What is one piece is taken at once, unless there is no window for it.
            Content::Whole(bytes, then) => {
                let is_one = bytes.len() <= PIECE_BYTES_MAX && then.is_empty();
                (!is_one || busy.has_windows()).then(|| busy.flow(true))
            }
            Content::Stream { .. } => Some(busy.flow(false)),
        });
        Self { content, flow, _busy: busy }
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.content {
            Content::Whole(rest, then) if rest.is_empty() && then.is_empty() => Poll::Ready(None),
            // In pieces, so that a client that takes nothing is seen to take nothing.
            Content::Whole(rest, then) => {
                if rest.is_empty() {
                    std::mem::swap(rest, then);
                }
                Poll::Ready(Some(rest.split_to(rest.len().min(PIECE_BYTES_MAX))))
            }
            Content::Stream { events, silence } => poll_stream(events, silence, context),
        };
        if let Some(flow) = &self.flow {
            flow.asked(next.is_ready());
        }
        next.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(rest, then) if rest.is_empty() && then.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(rest, then) => {
                let left = rest.len().saturating_add(then.len());
                SizeHint::with_exact(u64::try_from(left).unwrap_or(u64::MAX))
            }
            Content::Stream { .. } => SizeHint::default(),
        }
    }
}

fn poll_stream(
    events: &mut mpsc::Receiver<Bytes>,
    silence: &mut Option<Silence>,
    context: &mut Context<'_>,
) -> Poll<Option<Bytes>> {
    if let Poll::Ready(event) = events.poll_recv(context) {
        if let Some(silence) = silence {
            silence.ticks = 0;
        }
        return Poll::Ready(event);
    }
    let silence = silence.get_or_insert_with(Silence::begin);
    while silence.tick.poll_tick(context).is_ready() {
        silence.ticks = silence.ticks.saturating_add(1);
        if silence.ticks >= SILENT_TICKS {
            silence.ticks = 0;
            return Poll::Ready(Some(Bytes::from_static(KEEP_ALIVE)));
        }
    }
    Poll::Pending
}

impl Silence {
    fn begin() -> Self {
        let mut tick = tokio::time::interval(SILENCE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        Self { tick, ticks: 0 }
    }
}

/// So much of a body that nobody wants is read away, for so long.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
const LINGER: Duration = Duration::from_secs(5);
/// Announced bytes for which room is made before they are there.
const CLAIM_BYTES_MAX: usize = 64 * 1024;
/// An answer goes out in pieces of this size; with the stall time it is also the least speed of a client (1.6 KiB/s).
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// A comment line, which event-stream parsers skip (WHATWG HTML §9.2.6), and which keeps proxies from hanging up (RS-08).
const KEEP_ALIVE: &[u8] = b":\n\n";
/// A stream that is silent for two of these gets a comment: after 7.5 to 15 seconds, without a clock read for each event.
const SILENCE_TICK: Duration = Duration::from_millis(7_500);
const SILENT_TICKS: u32 = 2;

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    async fn next(reply: &mut Reply) -> Option<Bytes> {
        reply.frame().await.map(|frame| frame.unwrap().into_data().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_shows_that_it_lives_and_a_dropped_reply_tells_the_sender() {
        let (sender, events) = mpsc::channel(1);
        let mut reply = Reply::new(lifecycle::Body::Stream(events), None);
        sender.send(Bytes::from_static(b"data: 1\n\n")).await.unwrap();
        assert_eq!(next(&mut reply).await.unwrap(), "data: 1\n\n");
        let before = tokio::time::Instant::now();
        assert_eq!(next(&mut reply).await.unwrap(), ":\n\n");
        assert_eq!(before.elapsed(), Duration::from_secs(15));
        sender.send(Bytes::from_static(b"data: 2\n\n")).await.unwrap();
        assert_eq!(next(&mut reply).await.unwrap(), "data: 2\n\n");
        drop(reply);
        assert!(sender.is_closed());
    }

    #[tokio::test]
    async fn a_large_answer_goes_out_in_pieces_and_whole() {
        let bytes = Bytes::from(vec![7; PIECE_BYTES_MAX * 2 + 1]);
        let mut reply = Reply::new(lifecycle::Body::Whole(bytes.clone()), None);
        assert_eq!(reply.size_hint().exact(), Some(bytes.len() as u64));
        let mut pieces = Vec::new();
        while let Some(piece) = next(&mut reply).await {
            pieces.push(piece);
        }
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces.concat(), bytes);
    }

    fn in_pieces(pieces: &[&'static str]) -> impl HttpBody<Data = Bytes, Error = Infallible> + use<> {
        let (sender, receiver) = mpsc::channel::<Bytes>(8);
        for piece in pieces {
            sender.try_send(Bytes::from_static(piece.as_bytes())).unwrap();
        }
        drop(sender);
        Reply::new(lifecycle::Body::Stream(receiver), None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_whole_within_its_bounds() {
        let second = Duration::from_secs(1);
        assert_eq!(read(Full::new(Bytes::from("abc")), 3, second).await.unwrap(), "abc");
        assert_eq!(read(Full::new(Bytes::from("abcd")), 3, second).await, Err(Refusal::BodyTooLarge(3)));
        assert_eq!(read(in_pieces(&["ab", "c", "de"]), 5, second).await.unwrap(), "abcde");
        assert_eq!(read(in_pieces(&["ab", "c", "de"]), 4, second).await, Err(Refusal::BodyTooLarge(4)));
        assert_eq!(read(in_pieces(&[]), 4, second).await.unwrap(), "");

        let (_never, receiver) = mpsc::channel::<Bytes>(1);
        let silent = Reply::new(lifecycle::Body::Stream(receiver), None);
        assert_eq!(read(silent, 4, second).await, Err(Refusal::BodyTooSlow));

        assert_eq!(read(Cut, 4, second).await, Err(Refusal::BodyIncomplete));
    }

    /// A body whose connection breaks.
    struct Cut;

    impl HttpBody for Cut {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
        }
    }
}
