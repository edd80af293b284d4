//! How much is taken in from one peer before others have their turn?
//!
//! A connection of HTTP/2 is read by a task of its own, ahead of who waits for the answers: what a peer pours out piles up in
//! between as long as that task has something to read. It does not look at what is read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};

/// A connection that pauses now and again, though there is more to read.
pub(super) struct Paced<S> {
    stream: S,
    /// Since there was nothing to read, or the last pause.
    reads: usize,
}

impl<S> Paced<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, reads: 0 }
    }
}

impl<S: Read + Unpin> Read for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<Result<(), io::Error>> {
        if self.reads >= READS_MAX {
            self.reads = 0;
            // Behind whoever was woken by what has come.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.reads = self.reads.saturating_add(1);
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if read.is_pending() {
            self.reads = 0;
        }
        read
    }
}

impl<S: Write + Unpin> Write for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, io::Error>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, io::Error>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}

/// Some hundred kilobytes, which a call's answer seldom has.
const READS_MAX: usize = 16;
