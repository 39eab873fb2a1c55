//! The identities of the broker's parts, each its own type so that none is taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Raft group. Shard 0 is the catalog; the others hold partitions.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "shard-{}", self.0)
    }
}
