//! What does each stage cost, in instructions?
fn main() {}
