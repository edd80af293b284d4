//! What is written down before anything is done?
//!
//! Every call has a durable record before it is forwarded, and one after; nothing can be removed from or changed in
//! what was written without that showing. It does not decide what may happen, nor does it keep arguments or secrets.

mod bell;
pub mod chain;
pub mod journal;
mod json;
pub mod keys;
mod lane;
pub mod record;
mod segment;
pub mod show;
pub mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use lane::LaneFault;
