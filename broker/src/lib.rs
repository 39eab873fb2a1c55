//! The broker of the Flumen message queue, as a library.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod catalog;
pub mod config;
pub mod disk;
pub mod identity;
pub mod ids;
pub mod log;
pub mod plugin;
pub mod shard;
pub mod shards;
pub mod wal;
