//! The developer's commands: cargo xtask test, cargo xtask demo.
fn main() {}
