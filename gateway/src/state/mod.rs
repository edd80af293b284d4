//! What do replicas share, and what outlives them?
//!
//! Counters, in the memory of one process: asked in a form that a shared store can answer in one atomic step, every
//! counter that a call touches in one question, all taken or none; and whom a count by address means. A key: what one
//! replica sealed and a client carries, every replica that has the key opens. What was shown once, and may not be again.
//! And a store of what is to be there after the next start.

pub mod file;
mod rates;
mod replays;
mod seal;
mod site;
mod store;

pub use rates::{Exhausted, Rate, Rates, Take, Taken, whole_ms};
pub use replays::{Repeated, Replays};
pub use seal::Sealer;
pub use site::Site;
pub use store::{Place, Plain, Store, StoreFault, Value, understood};
