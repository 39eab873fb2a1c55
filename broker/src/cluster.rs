//! The broker as one of a cluster: which replicas it has, who leads, and what brokers tell each
//! other about that.
//!
//! ```text
//! catalog ── placement: who should have what ──┐
//!    ^                                         v
//!    │ Place (the catalog's leader)     Steward (every broker), again and again:
//!    │                                    opens and closes the replicas of this broker
//!    └──────────── placement.rs           makes the replicas of the shards that it leads what
//!                                          they should be: learner first, then voter
//!                                         hands leadership over to who should have it
//!                                         tells the others what it leads (report.rs)
//! ```
//!
//! The catalog says what should be, Raft says what is, and every step of the steward brings one
//! closer to the other: whatever is interrupted is simply found undone.

mod behind;
mod catalog_steps;
mod placement;
mod report;
mod shard_steps;
mod steward;

pub(crate) use self::{
    report::{BrokerReport, LedShard, REPORT_AGE_MAX, ReplicaReport, Reports},
    steward::Steward,
};
