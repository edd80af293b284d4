//! Tollgate: a federated gateway for the Model Context Protocol.
//!
//! Modules stand in the order of a request, and a module names only modules that stand above it: reading order,
//! dependency order and request order are one. `ARCHITECTURE.md` beside this crate is the map in words.

// Ground: what every stage stands on.
pub mod clock;
pub mod config;
pub mod egress;
pub mod refusal;
pub mod secret;
pub mod state;
pub mod tasks;
pub mod telemetry;

// The request, in order.
pub mod audit;
pub mod catalog;
pub mod ceiling;
pub mod exchange;
pub mod identity;
pub mod inspect;
pub mod policy;
pub mod rpc;
pub mod upstream;

// Assembly.
pub mod admin;
pub mod bridge;
pub mod cli;
pub mod demo;
pub mod edge;
pub mod lifecycle;
