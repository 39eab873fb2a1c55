//! The broker of the Flumen message queue, as a library.
//!
//! Start with [`node::Broker`]. From the ground up, each room knows only those before it:
//!
//! | room | what it does |
//! | --- | --- |
//! | [`executor`] | where work runs that is no async task |
//! | [`disk`] | files behind a trait |
//! | [`environment`] | the machine under a broker |
//! | [`wal`] | one write-ahead log for all Raft groups |
//! | [`log`] | the segments of partitions |
//! | `peer` | the other brokers: calls and streams |
//! | [`shard`] | a Raft group |
//! | [`catalog`] | the metadata of the cluster |
//! | [`shards`] | all shards of a broker |
//! | `cluster` | who should have and lead which replica |
//! | [`plugin`] | the WebAssembly engine |
//! | [`plugins`] | which plugins run on which topic: deploy, bind, upgrade, roll back |
//! | [`topics`] | names and settings joined with partitions |
//! | [`server`] | QUIC towards clients |
//! | [`admin`] | HTTP towards operators |
//! | [`join`] | becoming one of a cluster |
//! | [`node`] | puts the rooms together |
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod catalog;
mod clock;
mod cluster;
pub mod config;
pub mod disk;
pub mod environment;
pub mod executor;
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod join;
pub mod log;
pub mod metrics;
#[doc(hidden)]
pub mod mutation;
pub mod node;
mod peer;
pub mod plugin;
pub mod plugins;
pub mod server;
pub mod shard;
pub mod shards;
pub mod topics;
pub mod wal;
