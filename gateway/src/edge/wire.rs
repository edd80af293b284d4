//! What does an accepted connection look like to HTTP?
//!
//! One byte stream for both kinds of transport, and the deadline for a request's head. It does not know HTTP: the deadline
//! runs from the first byte after the last request until the next request has begun.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pingora_core::{protocols::Stream, tls::ServerTlsStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{activity::Activity, unread::Unread};

/// The bytes of a connection, in clear.
#[derive(Debug)]
pub(super) enum Transport {
    /// TCP as accepted.
    Plain(Stream),
    /// After the handshake.
    Tls(Box<ServerTlsStream<Stream>>),
}

/// A [`Transport`] whose peer has to finish the heads that it begins.
#[derive(Debug)]
pub(super) struct Wire {
    transport: Transport,
    head: Option<HeadDeadline>,
    unread: Option<Unread>,
}

/// The deadline of slowloris.
///
/// hyper has one too, but it also runs between requests, where a connection may rightly be idle for much longer.
#[derive(Debug)]
struct HeadDeadline {
    time: Duration,
    activity: Arc<Activity>,
    /// How many requests had begun when the deadline was last looked at.
    begun: u64,
    /// Bytes of a head may be there without the rest.
    partial: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// HTTP/1.1: the first head is expected at once, each one within `time`.
    pub(super) fn with_heads(transport: Transport, time: Duration, activity: Arc<Activity>, unread: Unread) -> Self {
        let head = HeadDeadline { time, activity, begun: 0, partial: true, alarm: None };
        Self { transport, head: Some(head), unread: Some(unread) }
    }

    /// HTTP/2, where frames come between requests; the header list is bounded and the idle time covers the rest.
    pub(super) fn plain(transport: Transport) -> Self {
        Self { transport, head: None, unread: None }
    }

    /// Sends what goes out in the place of hyper's own answer.
    fn poll_unread(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(unread) = &mut self.unread else { return Poll::Ready(Ok(())) };
        while !unread.left().is_empty() {
            match ready!(self.transport.poll_write(context, unread.left()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => unread.sent(sent),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Transport {
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }
}

impl HeadDeadline {
    /// After a read: whether it brought bytes, or there are none now. An error ends the connection.
    fn check(&mut self, brought: bool, context: &mut Context<'_>) -> io::Result<()> {
        let begun = self.activity.begun();
        if begun != self.begun {
            // The head is complete: what arrives now is a body, or whatever follows the answer.
            self.begun = begun;
            self.partial = false;
            self.alarm = None;
        }
        if brought {
            self.partial |= !self.activity.in_flight();
            return Ok(());
        }
        if !self.partial {
            return Ok(());
        }
        let time = self.time;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        if alarm.as_mut().poll(context).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let outcome = match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if let Some(head) = &mut this.head {
            head.check(buffer.filled().len() > before, context)?;
        }
        outcome
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_unread(context))?;
        if this.unread.as_mut().is_some_and(|unread| unread.takes(bytes)) {
            return Poll::Ready(Ok(bytes.len()));
        }
        this.transport.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unread(context))?;
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unread(context))?;
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_unread(context))?;
        if let [only] = slices
            && this.unread.as_mut().is_some_and(|unread| unread.takes(only))
        {
            return Poll::Ready(Ok(only.len()));
        }
        match &mut this.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
