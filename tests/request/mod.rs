//! The request path, end to end, one file a promise.

mod cells;
