//! What did the administrator ask for?
//!
//! `upstreams.toml` in two forms: as written (serde, with spans) and as checked (meaning). The only module that reads
//! the environment. It does not act on what it read.

pub mod checked;

pub use checked::*;
