//! What is that?
