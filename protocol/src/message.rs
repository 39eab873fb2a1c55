//! What the frames say on each kind of stream.
//!
//! The client opens a bidirectional stream; its first frame is a [`StreamOpen`]. On a
//! control stream the broker answers with one [`Reply`] frame and the stream is done. On the
//! other kinds it answers with frames of the kind's own type until either side finishes.

use serde::{Deserialize, Serialize};

use crate::{
    error::WireError,
    ids::{BrokerId, Offset, ShardId, TopicId},
    plugin::{BindingConfig, PluginInfo},
    topic::{Name, TopicChanges, TopicConfig, TopicName},
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

/// What a control stream asks for. A payload goes with [`Request::DeployPlugin`] and
/// [`Request::UpgradePlugin`]: the bytes of the component.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Request {
    /// Shows a token; the first request of a connection without a client certificate.
    Authenticate {
        /// The secret.
        token: String,
    },
    /// Brokers and partitions of topics; an empty list asks for the brokers alone.
    Metadata {
        /// The topics.
        topics: Vec<TopicName>,
    },
    /// Makes a topic.
    CreateTopic {
        /// Its name.
        name: TopicName,
        /// Its settings.
        config: TopicConfig,
    },
    /// Changes a topic's settings.
    AlterTopic {
        /// Its name.
        name: TopicName,
        /// What to change.
        changes: TopicChanges,
    },
    /// Removes a topic with all of its records.
    DeleteTopic {
        /// Its name.
        name: TopicName,
    },
    /// All topics.
    ListTopics,
    /// One topic, with its partitions and bindings.
    DescribeTopic {
        /// Its name.
        name: TopicName,
    },
    /// Offsets of the first records at or after a time, one a partition.
    OffsetsForTime {
        /// The topic.
        topic: TopicName,
        /// Milliseconds since the epoch.
        time_ms: i64,
    },
    /// Adds a plugin; its bytes are the payload.
    DeployPlugin {
        /// Its name.
        name: Name,
        /// Its author's version.
        version: Option<String>,
    },
    /// Replaces a plugin's bytes, also for the bindings that exist.
    UpgradePlugin {
        /// Its name.
        name: Name,
        /// Its author's version.
        version: Option<String>,
    },
    /// All plugins.
    ListPlugins,
    /// One plugin, with its bindings.
    DescribePlugin {
        /// Its name.
        name: Name,
    },
    /// Removes a plugin that is bound to no topic.
    RemovePlugin {
        /// Its name.
        name: Name,
    },
    /// Attaches a plugin to a topic, after those that are bound already.
    Bind {
        /// The topic.
        topic: TopicName,
        /// The plugin and its settings.
        binding: BindingConfig,
    },
    /// Detaches a plugin from a topic.
    Unbind {
        /// The topic.
        topic: TopicName,
        /// The plugin.
        plugin: Name,
    },
    /// The state of the broker.
    Status,
}

/// A token never reaches a log through a request's debug form.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Request {
    /// The request's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Authenticate { .. } => "authenticate",
            Self::Metadata { .. } => "metadata",
            Self::CreateTopic { .. } => "create_topic",
            Self::AlterTopic { .. } => "alter_topic",
            Self::DeleteTopic { .. } => "delete_topic",
            Self::ListTopics => "list_topics",
            Self::DescribeTopic { .. } => "describe_topic",
            Self::OffsetsForTime { .. } => "offsets_for_time",
            Self::DeployPlugin { .. } => "deploy_plugin",
            Self::UpgradePlugin { .. } => "upgrade_plugin",
            Self::ListPlugins => "list_plugins",
            Self::DescribePlugin { .. } => "describe_plugin",
            Self::RemovePlugin { .. } => "remove_plugin",
            Self::Bind { .. } => "bind",
            Self::Unbind { .. } => "unbind",
            Self::Status => "status",
        }
    }
}

/// The one frame that answers a [`Request`].
pub type Reply = Result<Response, WireError>;

/// What a control stream answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Response {
    /// It is done.
    Done,
    /// Answers [`Request::Metadata`].
    Metadata(Metadata),
    /// Answers [`Request::ListTopics`].
    Topics(Vec<TopicSummary>),
    /// Answers [`Request::DescribeTopic`].
    Topic(TopicDescription),
    /// Answers [`Request::OffsetsForTime`], by partition.
    Offsets(Vec<Offset>),
    /// Answers [`Request::ListPlugins`].
    Plugins(Vec<PluginInfo>),
    /// Answers [`Request::DescribePlugin`], [`Request::DeployPlugin`] and
    /// [`Request::UpgradePlugin`].
    Plugin(PluginDescription),
    /// Answers [`Request::Status`].
    Status(BrokerStatus),
}

/// Where things are in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The brokers.
    pub brokers: Vec<BrokerInfo>,
    /// The topics that were asked for and exist.
    pub topics: Vec<TopicMetadata>,
    /// Bytes of the largest batch that the brokers take.
    pub batch_bytes_max: u32,
}

/// A broker and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerInfo {
    /// The broker.
    pub id: BrokerId,
    /// Its address for clients, `host:port`.
    pub address: String,
}

/// What a client needs to know of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicMetadata {
    /// The topic's name.
    pub name: TopicName,
    /// The topic.
    pub id: TopicId,
    /// Its settings.
    pub config: TopicConfig,
    /// The leader of each partition, by index; `None` while there is none.
    pub leaders: Vec<Option<BrokerId>>,
}

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSummary {
    /// Its name.
    pub name: TopicName,
    /// Its settings.
    pub config: TopicConfig,
    /// Names of the plugins bound to it, in order.
    pub plugins: Vec<Name>,
}

/// A topic with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Its name.
    pub name: TopicName,
    /// The topic.
    pub id: TopicId,
    /// Its settings.
    pub config: TopicConfig,
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionDescription>,
    /// The plugins bound to it, in the order in which they run.
    pub bindings: Vec<BindingStatus>,
}

/// The state of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDescription {
    /// Its index in the topic.
    pub index: u32,
    /// The shard that it lives in.
    pub shard: ShardId,
    /// The broker that leads the shard.
    pub leader: Option<BrokerId>,
    /// The offset of its oldest record.
    pub start_offset: Offset,
    /// The offset that the next record gets.
    pub end_offset: Offset,
    /// Bytes on disk and waiting to be written.
    pub size_bytes: u64,
}

/// A binding and how it fares on the broker that was asked, since the broker started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingStatus {
    /// The topic.
    pub topic: TopicName,
    /// The binding.
    pub binding: BindingConfig,
    /// The version of the plugin that runs.
    pub version: String,
    /// Calls so far.
    pub calls: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Records that the plugin could not take.
    pub failed_records: u64,
    /// The text of the last failure.
    pub last_failure: Option<String>,
    /// Whether it is suspended because it kept failing.
    pub suspended: bool,
}

/// A plugin with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginDescription {
    /// The plugin.
    pub info: PluginInfo,
    /// Where it is bound.
    pub bindings: Vec<BindingStatus>,
}

/// The state of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// The broker.
    pub id: BrokerId,
    /// Its software version.
    pub version: String,
    /// Its address for clients.
    pub address: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// When an acknowledgement is given: `always` or `every 100ms`.
    pub wal_sync: String,
    /// Bytes of the write-ahead log in use.
    pub wal_bytes: u64,
    /// The most bytes that the write-ahead log may use.
    pub wal_bytes_max: u64,
    /// Topics in the cluster.
    pub topics: u64,
    /// Partitions on this broker.
    pub partitions: u64,
    /// Open client connections.
    pub connections: u64,
    /// Why the broker takes no produce requests at the moment, if it does not.
    pub degraded: Option<String>,
    /// The Raft group of the cluster's metadata; no partition lives in it.
    pub catalog: ShardStatus,
    /// The shards that partitions live in, and their leaders.
    pub shards: Vec<ShardStatus>,
}

/// The state of a shard on a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard.
    pub id: ShardId,
    /// Its leader.
    pub leader: Option<BrokerId>,
    /// The term of the leader.
    pub term: u64,
    /// The last entry applied.
    pub applied_index: u64,
    /// Partitions that live in it.
    pub partitions: u64,
}

/// Opens a produce stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceOpen {
    /// The topic.
    pub topic: TopicName,
    /// The partition's index.
    pub partition: u32,
}

/// A frame from the producer; the payload is one encoded batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceBatch;

/// A frame to the producer: the outcomes of its batches, in the order in which they were
/// sent on this stream. Several may share a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceAcks {
    /// One outcome a batch.
    pub outcomes: Vec<ProduceOutcome>,
}

/// What became of a batch.
pub type ProduceOutcome = Result<ProduceReceipt, WireError>;

/// A batch is durable as the broker's sync policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProduceReceipt {
    /// The offset of its first record; `None` when a plugin kept none.
    pub base_offset: Option<Offset>,
    /// How many of its records were stored; fewer than sent when a plugin dropped some.
    pub stored: u32,
    /// When it was appended, in milliseconds since the epoch.
    pub append_time_ms: u64,
    /// Whether the broker had it already.
    pub duplicate: bool,
}

/// Opens a consume stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumeOpen {
    /// The topic.
    pub topic: TopicName,
    /// The partitions and where to start in each.
    pub partitions: Vec<(u32, StartAt)>,
}

/// Where a consumer starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// The oldest record.
    #[default]
    Beginning,
    /// The next record to come.
    End,
    /// A record by its offset. One before the oldest starts at the oldest; one past the
    /// end is an error.
    Offset(Offset),
    /// The first record whose time is at or after this one, in milliseconds since the epoch.
    Time(i64),
}

/// A frame to the consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ConsumeEvent {
    /// The first frame: where each partition starts and where it ended at that moment, in
    /// the order of the request.
    Started(Vec<PartitionStart>),
    /// The payload is one encoded batch. Its first records may lie before the offset that
    /// was asked for; the consumer passes over them.
    Batch {
        /// The partition's index.
        partition: u32,
        /// The end of the partition as the broker knew it when it sent this.
        end_offset: Offset,
    },
    /// The stream ends with this frame.
    Failed(WireError),
    /// A partition cannot be read any further. The stream goes on with the others.
    PartitionFailed {
        /// The partition's index.
        partition: u32,
        /// Why.
        error: WireError,
    },
}

/// Where a consumer starts in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStart {
    /// The partition's index.
    pub partition: u32,
    /// The first offset that will be delivered.
    pub start_offset: Offset,
    /// The partition's end at the start.
    pub end_offset: Offset,
}
