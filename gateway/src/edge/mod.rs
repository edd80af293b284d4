//! How does a connection become a request?
//!
//! Listeners and runtimes by pingora, TLS by rustls, HTTP by hyper; then the first judgement of a request, before anybody
//! asks who it is from. It knows no token, no JSON-RPC and no upstream. `run` is the process's main loop.
//!
//! ```text
//! server      listeners, signals, drain, zero-downtime upgrade
//! connection  seat, handshake, codec, watchdog         seats tls wire activity
//! http        judge the head, hand over, write back    names cors body
//! pages       the admin listener's few pages
//! ```

mod activity;
mod body;
mod connection;
mod cors;
mod http;
mod names;
mod pages;
mod seats;
mod server;
mod tls;
mod unread;
mod wire;

#[cfg(test)]
mod tests;

pub use self::{
    http::Metadata,
    pages::{Page, Pages},
    server::{Edge, Failure, run},
    tls::TlsFault,
};
