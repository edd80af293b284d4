//! Tollgate: a federated gateway for the Model Context Protocol.
//!
//! Modules stand in the order of a request, and a module names only modules that stand above it: reading order,
//! dependency order and request order are one. `ARCHITECTURE.md` beside this crate is the map in words.

// Ground: what every stage stands on.
pub mod secret;
pub mod clock;
pub mod random;
pub mod digest;
pub mod tasks;
pub mod refusal;
pub mod config;
pub mod prover;
pub mod egress;
pub mod telemetry;
pub mod state;

// The request, in order.
pub mod identity;
pub mod rpc;
pub mod catalog;
pub mod policy;
pub mod ceiling;
pub mod exchange;
pub mod audit;
pub mod upstream;
pub mod inspect;

// Assembly.
pub mod bridge;
pub mod lifecycle;
pub mod facade;
pub mod edge;
pub mod admin;
pub mod serve;
pub mod demo;
pub mod cli;
