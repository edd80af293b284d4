//! How does a connection become a request?
