//! Is the gateway well?
