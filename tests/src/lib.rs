//! What the end-to-end tests share: real broker processes, and raw access to its protocol.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`admin`] | the admin address, asked as Prometheus would |
//! | [`broker`] | a `flumen serve` process to start, kill and start again |
//! | [`checker`] | what clients did and saw, and whether that may be |
//! | [`cluster`] | several broker processes that are one cluster |
//! | [`copies`] | what each broker's own copy of a topic holds |
//! | [`load`] | producers and consumers at work, and whether all that came of it may be |
//! | [`network`] | hosts for brokers, and ways between them that can be cut |
//! | [`raw`] | the wire protocol by hand, for what the client never does |
//! | [`skip`] | tests that a machine does not allow, and say so |
//! | [`small_disk`] | a file system that fills up soon |
//! | [`wait`] | waiting for a condition, with a deadline |
// The broker process is awaited when it is dropped.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::zombie_processes)]

pub mod admin;
pub mod broker;
pub mod checker;
pub mod cluster;
pub mod copies;
pub mod load;
pub mod network;
pub mod raw;
pub mod skip;
pub mod small_disk;
pub mod wait;
