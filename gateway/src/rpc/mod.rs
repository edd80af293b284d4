//! What do they ask?
//!
//! Bytes in, a [`Call`] out: strict JSON, the JSON-RPC envelope, the era, agreement of headers and body, in the order
//! of checks that the specification fixes. It does not know which tools exist, nor who asks.

pub mod answers;
pub mod batch;
mod call;
mod capabilities;
pub mod canonical;
pub mod definition_json;
pub mod headers;
pub mod json;
pub mod lookalike;
pub mod meta;
pub mod mirrors;
pub mod outbound;
mod parse;
pub mod reply;
pub mod sse;
mod topics;
pub mod uris;
pub mod versions;

pub use call::{
    Asker, Call, Cancelled, Filter, Initialize, Message, Method, Reference, Rejected, RequestId, TASK_ID_BYTES_MAX,
};
pub use capabilities::{Capabilities, TASKS_EXTENSION};
pub use parse::parse;
pub use topics::{Topic, Topics};

pub use crate::refusal::Era;

#[cfg(test)]
mod tests;
