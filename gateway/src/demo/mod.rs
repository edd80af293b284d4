//! What does Tollgate look like at work?
