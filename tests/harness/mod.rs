//! What do the tests stand on?
//!
//! Real processes, in-process parties that record what reaches them, certificates, tokens, and exact bytes on the wire.
//! It judges nothing; tests do. Tests are plain functions: what runs beside them runs on a runtime of its own.
#![allow(dead_code, reason = "a harness is written ahead of the tests that use it")]

pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod fault;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod issuer;
mod itself;
pub(crate) mod leaks;
pub(crate) mod login;
pub(crate) mod mcp;
pub(crate) mod page;
pub(crate) mod peer;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod prover;
pub(crate) mod raw;
pub(crate) mod recorder;
pub(crate) mod rmcp_server;
pub(crate) mod rmcp_tasks;
pub(crate) mod serve;
