//! How much?
