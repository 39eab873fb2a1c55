//! Newtypes for what must not be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(inner: $inner) -> Self {
                Self(inner)
            }
        }
    };
}

id! {
    /// A broker of the cluster.
    BrokerId(u64)
}
id! {
    /// A topic. Never used again after the topic was deleted, unlike its name.
    TopicId(u64)
}
id! {
    /// A Raft group. Shard 0 is the catalog; every partition lives in exactly one of the others.
    ShardId(u32)
}
id! {
    /// The place of a record in its partition, counted from 0.
    Offset(u64)
}
id! {
    /// An idempotent producer, chosen at random by the client; 0 stands for none.
    ProducerId(u64)
}

impl Offset {
    /// The offset `count` records further on.
    ///
    /// Saturates: no partition ever holds 2⁶⁴ records.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl ProducerId {
    /// The mark of a producer that asks for no duplicate detection.
    pub const NONE: Self = Self(0);
}

/// An ordered log of records: one of the partitions of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// The topic that the partition belongs to.
    pub topic: TopicId,
    /// Which of the topic's partitions, counted from 0.
    pub index: u32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}
