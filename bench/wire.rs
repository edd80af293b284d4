//! How do the load and the bench's own servers speak HTTP?
//!
//! HTTP/1.1 with known lengths, just enough for bytes that this bench wrote itself, so that its own share of the machine
//! stays small. It is no HTTP implementation: what it does not expect, it panics at.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One connection, on either side.
pub struct Wire<S> {
    stream: S,
    buffer: Vec<u8>,
}

/// A message as it lies in the buffer.
pub struct Message<'a> {
    head: &'a str,
    /// The body, whole; of a stream of events, as much as has come.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    /// The path of a request.
    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.head, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(self.body).unwrap()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::with_capacity(4_096) }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next message, whole; `None` where the peer has gone.
    pub async fn receive(&mut self) -> Option<Message<'_>> {
        let head = self.head().await?;
        let length: usize =
            header(text(&self.buffer[..head]), "content-length").map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < head + length {
            self.more().await?;
        }
        let (head, body) = self.buffer.split_at(head);
        Some(Message { head: text(head), body: &body[..length] })
    }

    /// The head of an answer and its first event.
    pub async fn receive_event(&mut self) -> Option<Message<'_>> {
        let head = self.head().await?;
        while !self.buffer[head..].windows(2).any(|end| end == b"\n\n") {
            self.more().await?;
        }
        let (head, body) = self.buffer.split_at(head);
        Some(Message { head: text(head), body })
    }

    /// Waits until the peer goes away.
    pub async fn closed(&mut self) {
        while self.more().await.is_some() {}
    }

    /// Nothing is pipelined, so a new message begins with an empty buffer.
    async fn head(&mut self) -> Option<usize> {
        self.buffer.clear();
        loop {
            self.more().await?;
            if let Some(at) = self.buffer.windows(4).position(|end| end == b"\r\n\r\n") {
                return Some(at + 4);
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buffer).await.ok()?;
        (read > 0).then_some(())
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1);
    let mut pairs = lines.filter_map(|line| line.split_once(':'));
    pairs.find_map(|(own, value)| own.eq_ignore_ascii_case(name).then(|| value.trim()))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
