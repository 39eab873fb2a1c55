//! The benchmarks. What they have in common: broker and bare QUIC run in processes of their
//! own, nothing is measured before it is warm, and rounds of what is compared take turns, so
//! that whatever else the machine does meets all of them alike.

pub(crate) mod catch_up;
pub(crate) mod child;
mod cluster;
pub(crate) mod consume;
pub(crate) mod failover;
pub(crate) mod limit;
mod load;
mod payload;
pub(crate) mod plugin;
pub(crate) mod produce;
pub(crate) mod raw;
mod report;
mod trial;
