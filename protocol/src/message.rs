//! What the frames say on each kind of stream.
//!
//! The client opens a bidirectional stream; its first frame is a [`StreamOpen`]. On a
//! control stream the broker answers with one [`Reply`] frame and the stream is done. On the
//! other kinds it answers with frames of the kind's own type until either side finishes.

mod cluster;
mod consume;
mod control;
mod metadata;
mod plugin;
mod produce;
mod status;
mod topic;

use serde::{Deserialize, Serialize};

pub use self::{
    cluster::{
        BrokerOverview, BrokerState, ClusterStatus, IN_STEP_LAG_BYTES_MAX, ReplicaStatus,
        ShardOverview, catalog_voters,
    },
    consume::{ConsumeEvent, ConsumeOpen, PartitionStart, StartAt},
    control::{JoinTokenText, Reply, Request, Response},
    metadata::{BrokerInfo, Metadata, ShardMetadata, TopicMetadata},
    plugin::{BindingStatus, PluginDescription},
    produce::{ProduceAcks, ProduceBatch, ProduceOpen, ProduceOutcome, ProduceReceipt},
    status::{BrokerStatus, ShardStatus},
    topic::{PartitionDescription, PartitionExtent, TopicDescription, TopicSummary},
};

/// The first frame of every stream that a client opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StreamOpen {
    /// One request, one reply.
    Control(Request),
    /// Batches one way, acknowledgements in order the other way.
    Produce(ProduceOpen),
    /// The broker pushes batches as they arrive.
    Consume(ConsumeOpen),
}
