//! In whose name?
