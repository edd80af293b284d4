//! The tests of Tollgate, in one binary: source properties, the parts, and the whole over sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::print_stderr,
    missing_docs,
    reason = "tests may panic, read clocks and talk to the terminal"
)]

mod attacks;
mod cli;
mod clients;
mod config;
mod conformance;
mod facade;
mod harness;
mod peers;
mod request;
mod shipped;
mod tidy;
