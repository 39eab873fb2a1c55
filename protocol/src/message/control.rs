//! Control streams: one request, one reply.

use serde::{Deserialize, Serialize};

use super::{
    BrokerStatus, ClusterStatus, Metadata, PluginDescription, TopicDescription, TopicSummary,
};
use crate::{
    error::WireError,
    ids::{BrokerId, Offset},
    join::{Enrolled, Enrolment},
    plugin::{BindingConfig, PluginInfo},
    topic::{Name, TopicChanges, TopicConfig, TopicName},
};

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
    /// The state of the whole cluster.
    ClusterStatus,
    /// Takes all leaders and replicas away from a broker, or ends that. It is answered when
    /// the cluster has noted it; [`Request::ClusterStatus`] tells how far the moving is.
    DrainBroker {
        /// The broker.
        broker: BrokerId,
        /// Whether the broker may have leaders and replicas again.
        undo: bool,
    },
    /// Removes a broker for good; its id is never taken back. Refused while the broker can be
    /// reached and has replicas.
    RemoveBroker {
        /// The broker.
        broker: BrokerId,
    },
    /// Spreads replicas and leaders evenly now. It is answered when the cluster has noted it.
    Rebalance,
    /// Sets how many replicas every shard has.
    SetReplicationFactor {
        /// How many.
        factor: u32,
    },
    /// Makes a token with which new brokers can join the cluster.
    CreateJoinToken {
        /// For how long it is valid.
        ttl_ms: u64,
    },
    /// Lets a new broker into the cluster. The connection needs no other credential than the
    /// token in it.
    Enrol(Box<Enrolment>),
    /// Goes back to a plugin's version before the last upgrade, also for the bindings that exist.
    /// Once more undoes that.
    RollBackPlugin {
        /// Its name.
        name: Name,
    },
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
            Self::ClusterStatus => "cluster_status",
            Self::DrainBroker { .. } => "drain_broker",
            Self::RemoveBroker { .. } => "remove_broker",
            Self::Rebalance => "rebalance",
            Self::SetReplicationFactor { .. } => "set_replication_factor",
            Self::CreateJoinToken { .. } => "create_join_token",
            Self::Enrol(_) => "enrol",
            Self::RollBackPlugin { .. } => "roll_back_plugin",
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
    /// Answers [`Request::DescribePlugin`], [`Request::DeployPlugin`], [`Request::UpgradePlugin`]
    /// and [`Request::RollBackPlugin`].
    Plugin(PluginDescription),
    /// Answers [`Request::Status`].
    Status(BrokerStatus),
    /// Answers [`Request::ClusterStatus`].
    ClusterStatus(ClusterStatus),
    /// Answers [`Request::CreateJoinToken`]: the token as text. Whoever holds it can join.
    JoinToken(JoinTokenText),
    /// Answers [`Request::Enrol`].
    Enrolled(Box<Enrolled>),
}

/// The text of a [`JoinToken`](crate::join::JoinToken).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenText(pub String);

/// The token stays out of logs.
impl std::fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinTokenText(…)")
    }
}
