//! Do the published clients, with their habits, get through to the published servers?
//!
//! The gateway stands between programs that were not written for it. What the clients print is compared with what they
//! print without the gateway.

mod accounts;
mod batches;
mod eras;
mod facade;
mod federation;
mod habits;
mod identity;
mod input;
mod matrix;
mod refusals;
mod senders;
mod tasks;
mod transports;
