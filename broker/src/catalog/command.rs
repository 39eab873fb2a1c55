//! What can be changed in the catalog, as it stands in the Raft log.

use std::collections::BTreeMap;

use flumen_protocol::{
    ids::{BrokerId, ShardId},
    message::BrokerInfo,
    plugin::{BindingConfig, PluginInfo},
    topic::{Name, TopicChanges, TopicConfig, TopicName},
};
use serde::{Deserialize, Serialize};

use super::state::{ClusterId, KnownJoinToken, Plugin, Topic};

/// A change of the catalog. Times and random numbers are the proposer's, so that all replicas
/// come to the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CatalogCommand {
    /// Makes the cluster, unless it is there.
    FoundCluster {
        /// Its identity.
        cluster_id: ClusterId,
        /// The first broker, which has all shards.
        founder: BrokerId,
        /// How many data shards there are, for good.
        shard_count: u32,
    },
    /// Says which brokers have the replicas of shards.
    Place {
        /// The replicas of each shard, the one that should lead first.
        shards: BTreeMap<ShardId, Vec<BrokerId>>,
    },
    /// Says how many replicas shards should have.
    SetReplicationFactor {
        /// How many.
        factor: u32,
    },
    /// Takes replicas and leaders away from a broker, or gives it some again.
    DrainBroker {
        /// The broker.
        broker: BrokerId,
        /// Whether it is to be drained.
        drain: bool,
    },
    /// Says where a broker can be reached.
    RegisterBroker {
        /// The broker.
        broker: BrokerInfo,
    },
    /// Takes a broker out of the cluster for good.
    RemoveBroker {
        /// The broker.
        broker: BrokerId,
    },
    /// Lets brokers join with a token.
    CreateJoinToken {
        /// Names the token.
        id: u64,
        /// What is kept of it.
        token: KnownJoinToken,
        /// The time, in milliseconds since the epoch.
        time_ms: u64,
    },
    /// Makes a topic.
    CreateTopic {
        /// Its name.
        name: TopicName,
        /// Its settings.
        config: TopicConfig,
        /// The time, in milliseconds since the epoch.
        time_ms: u64,
    },
    /// Changes a topic's settings.
    AlterTopic {
        /// Its name.
        name: TopicName,
        /// What to change.
        changes: TopicChanges,
    },
    /// Removes a topic.
    DeleteTopic {
        /// Its name.
        name: TopicName,
    },
    /// Adds a plugin; its bytes go with the command.
    DeployPlugin {
        /// The plugin.
        info: PluginInfo,
    },
    /// Replaces a plugin's bytes, which go with the command.
    UpgradePlugin {
        /// The new version.
        info: PluginInfo,
    },
    /// Goes back to a plugin's version before the last upgrade.
    RollBackPlugin {
        /// Its name.
        name: Name,
    },
    /// Removes a plugin.
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
}

/// What a change has led to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CatalogResponse {
    /// It is done.
    Done,
    /// The topic as it is now, or was before it was deleted.
    Topic(Topic),
    /// The plugin as it is now, or was before it was removed.
    Plugin(Plugin),
}
