//! The Flumen message queue: broker, client commands and benchmarks in one binary.
fn main() {}
