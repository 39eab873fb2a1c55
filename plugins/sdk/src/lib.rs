//! Write Flumen plugins in Rust: filters and transforms over records.
