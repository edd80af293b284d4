//! What do replicas share?
//!
//! Counters today, in the memory of one process. What stands here is asked in a form that a shared store can answer in
//! one atomic step: every counter that a call touches in one question, all taken or none. And a key: what one replica
//! sealed and a client carries, every replica that has the key opens.

mod rates;
mod seal;

pub use rates::{Exhausted, Rate, Rates, Take, Taken};
pub use seal::Sealer;
