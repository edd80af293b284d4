//! What do they ask?
//!
//! Bytes in, a [`Call`] out: strict JSON, the JSON-RPC envelope, the era, agreement of headers and body, in the order
//! of checks that the specification fixes. It does not know which tools exist, nor who asks.

pub mod headers;
pub mod json;
pub mod outbound;
pub mod sse;

pub use crate::refusal::Era;
