//! What do replicas share?
