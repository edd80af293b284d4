//! What exactly goes over the wire, and what exactly comes back?
//!
//! An HTTP/1.1 client that sends the bytes it is given, valid or not, and reads answers as they come: one connection,
//! one exchange at a time. It follows nothing, retries nothing and adds nothing.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::Value;

use super::place::PATIENCE;

/// An address of this computer from which nobody else of a test asks.
pub(crate) const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One connection.
pub(crate) struct Connection {
    wire: Box<dyn Wire>,
    socket: TcpStream,
    buffer: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Head {
    /// The first header of this name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All headers, names in lower case.
    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    fn is_stream(&self) -> bool {
        self.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
    }
}

impl Answer {
    /// The status.
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    /// The first header of this name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body's JSON; of an event stream, the last message.
    pub(crate) fn json(&self) -> Value {
        if self.head.is_stream() {
            return self.messages().pop().unwrap_or_else(|| panic!("no message in {:?}", self.text()));
        }
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status(), self.text()))
    }

    /// The messages of an event stream, in order.
    pub(crate) fn messages(&self) -> Vec<Value> {
        self.text().split("\n\n").filter_map(event_data).map(|data| serde_json::from_str(&data).unwrap()).collect()
    }
}

/// The `data` of one event, unless there is none.
fn event_data(event: &str) -> Option<String> {
    let lines: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
    let data = lines.join("\n");
    (!data.is_empty()).then_some(data)
}

impl Connection {
    /// Connects in the clear.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { wire: Box::new(socket.try_clone().unwrap()), socket, buffer: Vec::new() }
    }

    /// Connects in the clear, from this address.
    pub(crate) fn open_from(source: IpAddr, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let connecting = async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(source, 0))?;
            socket.connect(address).await?.into_std()
        };
        let socket = runtime.block_on(connecting).unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { wire: Box::new(socket.try_clone().unwrap()), socket, buffer: Vec::new() }
    }

    /// Connects by TLS, and expects a certificate for `name`.
    pub(crate) fn open_tls(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut tls = ClientConnection::new(Arc::clone(config), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        let wire = Box::new(StreamOwned::new(tls, socket.try_clone()?));
        Ok(Self { wire, socket, buffer: Vec::new() })
    }

    /// Sends these bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes)?;
        self.wire.flush()
    }

    /// Sends a request and reads its whole answer.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Answer {
        self.send(request).unwrap();
        self.answer()
    }

    /// Reads a whole answer; an event stream is read to its end.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.head();
        self.body_of(head)
    }

    /// Sends a request and reads its whole answer, if the connection still brings one.
    pub(crate) fn try_exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request)?;
        let head = self.try_head()?;
        Ok(self.body_of(head))
    }

    fn body_of(&mut self, head: Head) -> Answer {
        let mut body = Vec::new();
        if head.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().unwrap() {
                body.extend(chunk);
            }
        } else if let Some(length) = head.header("content-length") {
            body = self.take(length.parse().unwrap()).unwrap();
        } else if !matches!(head.status, 100..=199 | 204 | 304) {
            while self.fill().unwrap() {}
            body = std::mem::take(&mut self.buffer);
        }
        Answer { head, body }
    }

    /// Reads the head of an answer; what follows is for [`Connection::event`].
    pub(crate) fn head(&mut self) -> Head {
        self.try_head().unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// Reads the head of an answer, if the connection brings one.
    pub(crate) fn try_head(&mut self) -> io::Result<Head> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            if !self.fill()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not an answer: {text:?}")))?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Ok(Head { status, headers })
    }

    /// The next message of an event stream, or nothing where the stream ends first; comments and empty events are skipped.
    pub(crate) fn event(&mut self) -> Option<Value> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk().unwrap() {
            text.extend(chunk);
            while let Some(end) = find(&text, b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let Some(data) = event_data(&String::from_utf8_lossy(&event)) else { continue };
                let rest = format!("{:x}\r\n", text.len()).into_bytes();
                if !text.is_empty() {
                    // More than one event came in one chunk: the rest goes back as a chunk of its own.
                    let put_back = [rest, std::mem::take(&mut text), b"\r\n".to_vec()].concat();
                    self.buffer.splice(0..0, put_back);
                }
                return Some(serde_json::from_str(&data).unwrap());
            }
        }
        None
    }

    /// The text of a chunked body up to this one, which has to come.
    pub(crate) fn text_until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            text.extend(self.chunk().unwrap().unwrap_or_else(|| panic!("ended: {}", String::from_utf8_lossy(&text))));
        }
        String::from_utf8(text).unwrap()
    }

    /// Whether the other end closes the connection within `limit` and says nothing more before. Comments and empty events
    /// say nothing, and are skipped; anything else is kept for who reads next.
    pub(crate) fn closes_within(&mut self, limit: Duration) -> bool {
        let began = Instant::now();
        self.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let closed = loop {
            if self.says_something() {
                break false;
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break self.buffer.is_empty(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break true,
            }
            if began.elapsed() > limit {
                break false;
            }
        };
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        closed
    }

    /// Drops what says nothing from the front of what came so far; whether something else is behind it.
    fn says_something(&mut self) -> bool {
        loop {
            let Some(end) = find(&self.buffer, b"\r\n") else { return false };
            let size =
                std::str::from_utf8(&self.buffer[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
            // No chunk, or the last one.
            let Some(size) = size.filter(|size| *size > 0) else { return true };
            let (from, to) = (end + 2, end + 2 + size);
            if self.buffer.len() < to + 2 {
                return false;
            }
            let text = String::from_utf8_lossy(&self.buffer[from..to]);
            if !text.ends_with("\n\n") || text.split("\n\n").any(|event| event_data(event).is_some()) {
                return true;
            }
            self.buffer.drain(..to + 2);
        }
    }

    /// One chunk of a chunked body, nothing at its end.
    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                break at;
            }
            if !self.fill()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        let size =
            usize::from_str_radix(&String::from_utf8_lossy(&self.buffer[..end]), 16).map_err(io::Error::other)?;
        self.buffer.drain(..end + 2);
        let mut chunk = self.take(size + 2)?;
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    fn take(&mut self, size: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < size {
            if !self.fill()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..size).collect())
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut block = [0; 16 * 1024];
        match self.wire.read(&mut block) {
            // Many servers close TLS without saying so first.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
            Ok(count) => {
                self.buffer.extend(&block[..count]);
                Ok(count > 0)
            }
        }
    }
}

/// The bytes of a request with these headers besides `Host`, and with `Content-Length` where there is a body.
pub(crate) fn request(method: &str, path: &str, host: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// One request in the clear on a connection of its own; `url` is absolute.
pub(crate) fn fetch(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let (address, bytes) = spelt(method, url, headers, body);
    Connection::open(address).exchange(&bytes)
}

/// The same from this address.
pub(crate) fn fetch_from(source: IpAddr, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let (address, bytes) = spelt(method, url, headers, body);
    Connection::open_from(source, address).exchange(&bytes)
}

/// The same by TLS, as these clients have it.
pub(crate) fn fetch_tls(
    tls: &Arc<ClientConfig>,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let (address, bytes) = spelt(method, url, headers, body);
    let address = ([127, 0, 0, 1], address.port()).into();
    Connection::open_tls(address, "localhost", tls).unwrap().exchange(&bytes)
}

/// Sends one request in the clear, and gives the connection on which its answer would come.
pub(crate) fn begin(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Connection {
    let (address, bytes) = spelt(method, url, headers, body);
    let mut connection = Connection::open(address);
    connection.send(&bytes).unwrap();
    connection
}

fn spelt(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> (SocketAddr, Vec<u8>) {
    let url = url::Url::parse(url).unwrap();
    let address = url.socket_addrs(|| None).unwrap()[0];
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut all = headers.to_vec();
    all.push(("Connection", "close"));
    let host = format!("{}:{}", url.host_str().unwrap(), url.port_or_known_default().unwrap());
    (address, request(method, path, &host, &all, body))
}

/// A body of `application/x-www-form-urlencoded`.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
