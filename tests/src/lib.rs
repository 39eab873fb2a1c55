//! Tests that need several parts of Flumen.
