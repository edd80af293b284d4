//! What do replicas share?
//!
//! Counters today, in the memory of one process. What stands here is asked in a form that a shared store can answer in
//! one atomic step: every counter that a call touches in one question, all taken or none.

mod rates;

pub use rates::{Exhausted, Rate, Rates, Take, Taken};
