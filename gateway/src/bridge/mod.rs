//! How is one era held on behalf of the other?
