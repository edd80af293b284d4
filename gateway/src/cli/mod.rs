//! What did the operator type?
