//! How does a request pass through the gateway?
