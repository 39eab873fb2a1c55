//! What `--output json` says of things. Scripts depend on it, so it is kept apart from the
//! types that travel between client and broker. A thing has the same name wherever it stands,
//! a point in time is RFC 3339 text, a length of time a number in `…_ms`; docs/scripting.md
//! tells users so.

use flumen_protocol::{
    ids::{BrokerId, Offset, ShardId, TopicId},
    message::{
        BindingStatus, BrokerStatus, ClusterStatus, PartitionDescription, PluginDescription,
        ReplicaStatus, ShardStatus, TopicDescription, TopicSummary,
    },
    plugin::{BindingConfig, Digest, HookPoint, PluginInfo, World},
    topic::{Name, TopicChanges, TopicConfig, TopicName},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::broker_names::replicas_of;

/// A point in time: RFC 3339, in UTC, with milliseconds.
pub(crate) fn time(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        // Out of the range of calendars.
        Err(_) => ms.to_string(),
    }
}

/// A topic in a list.
#[derive(Serialize)]
pub(crate) struct TopicRow<'a> {
    topic: &'a TopicName,
    config: &'a TopicConfig,
    plugins: &'a [Name],
}

impl<'a> From<&'a TopicSummary> for TopicRow<'a> {
    fn from(topic: &'a TopicSummary) -> Self {
        Self {
            topic: &topic.name,
            config: &topic.config,
            plugins: &topic.plugins,
        }
    }
}

/// A topic with all that is known of it.
#[derive(Serialize)]
pub(crate) struct TopicDetails<'a> {
    topic: &'a TopicName,
    topic_id: TopicId,
    created_at: String,
    config: &'a TopicConfig,
    partitions: Vec<PartitionRow<'a>>,
    bindings: Vec<BindingRow<'a>>,
}

impl<'a> TopicDetails<'a> {
    /// A topic of a cluster, of which more may be known.
    pub(crate) fn new(topic: &'a TopicDescription, cluster: &'a ClusterStatus) -> Self {
        let partitions = topic.partitions.iter();
        Self {
            topic: &topic.name,
            topic_id: topic.id,
            created_at: time(topic.created_ms as i64),
            config: &topic.config,
            partitions: partitions
                .map(|partition| PartitionRow::new(partition, cluster))
                .collect(),
            bindings: topic.bindings.iter().map(BindingRow::from).collect(),
        }
    }
}

/// The state of a partition.
#[derive(Serialize)]
struct PartitionRow<'a> {
    partition: u32,
    shard: ShardId,
    leader: Option<BrokerId>,
    leader_address: Option<&'a str>,
    /// Null while they are not known.
    replicas: Option<Vec<CopyRow<'a>>>,
    /// Null while its leader does not answer, as what follows.
    start_offset: Option<Offset>,
    end_offset: Option<Offset>,
    size_bytes: Option<u64>,
}

/// Who has a copy.
#[derive(Serialize)]
struct CopyRow<'a> {
    broker: BrokerId,
    address: Option<&'a str>,
    zone: Option<&'a str>,
    voter: bool,
}

impl<'a> CopyRow<'a> {
    fn new(replica: &ReplicaStatus, cluster: &'a ClusterStatus) -> Self {
        let broker = cluster.broker(replica.broker);
        Self {
            broker: replica.broker,
            address: broker.map(|broker| broker.address.as_str()),
            zone: broker.and_then(|broker| broker.zone.as_deref()),
            voter: replica.voter,
        }
    }
}

impl<'a> PartitionRow<'a> {
    fn new(partition: &PartitionDescription, cluster: &'a ClusterStatus) -> Self {
        let leader = partition.leader.and_then(|id| cluster.broker(id));
        let replicas = replicas_of(cluster, partition.shard);
        let copy = |replica| CopyRow::new(replica, cluster);
        Self {
            partition: partition.index,
            shard: partition.shard,
            leader: partition.leader,
            leader_address: leader.map(|leader| leader.address.as_str()),
            replicas: replicas.map(|replicas| replicas.iter().map(copy).collect()),
            start_offset: partition.extent.map(|extent| extent.start_offset),
            end_offset: partition.extent.map(|extent| extent.end_offset),
            size_bytes: partition.extent.map(|extent| extent.size_bytes),
        }
    }
}

/// The settings that a change names; one that is lifted is null.
pub(crate) fn changes(changes: &TopicChanges) -> Map<String, Value> {
    let named = [
        ("partitions", changes.partitions.map(Value::from)),
        (
            "retention_age_ms",
            changes.retention_age_ms.map(Value::from),
        ),
        ("retention_bytes", changes.retention_bytes.map(Value::from)),
        ("cleanup", changes.cleanup.map(|cleanup| json!(cleanup))),
        (
            "tombstone_retention_ms",
            changes.tombstone_retention_ms.map(Value::from),
        ),
        ("compression", changes.compression.map(|codec| json!(codec))),
        ("segment_bytes", changes.segment_bytes.map(Value::from)),
    ];
    named
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

/// The settings of a binding, as `flumen plugin bind` takes them.
#[derive(Serialize)]
struct BindingSettings<'a> {
    plugin: &'a Name,
    hook: HookPoint,
    config: &'a str,
    on_error: String,
    timeout_ms: u32,
    memory_bytes_max: u64,
}

impl<'a> From<&'a BindingConfig> for BindingSettings<'a> {
    fn from(binding: &'a BindingConfig) -> Self {
        Self {
            plugin: &binding.plugin,
            hook: binding.hook,
            config: &binding.config,
            on_error: binding.on_error.to_string(),
            timeout_ms: binding.timeout_ms,
            memory_bytes_max: binding.memory_bytes_max,
        }
    }
}

/// A binding that was made.
#[derive(Serialize)]
pub(crate) struct NewBinding<'a> {
    topic: &'a TopicName,
    #[serde(flatten)]
    settings: BindingSettings<'a>,
}

impl<'a> NewBinding<'a> {
    pub(crate) fn new(topic: &'a TopicName, binding: &'a BindingConfig) -> Self {
        Self {
            topic,
            settings: binding.into(),
        }
    }
}

/// A binding and how it fares.
#[derive(Serialize)]
struct BindingRow<'a> {
    topic: &'a TopicName,
    #[serde(flatten)]
    settings: BindingSettings<'a>,
    version: &'a str,
    calls: u64,
    failed_calls: u64,
    failed_records: u64,
    last_failure: Option<&'a str>,
    suspended: bool,
}

impl<'a> From<&'a BindingStatus> for BindingRow<'a> {
    fn from(status: &'a BindingStatus) -> Self {
        Self {
            topic: &status.topic,
            settings: (&status.binding).into(),
            version: &status.version,
            calls: status.calls,
            failed_calls: status.failures,
            failed_records: status.failed_records,
            last_failure: status.last_failure.as_deref(),
            suspended: status.suspended,
        }
    }
}

/// A plugin in a list.
#[derive(Serialize)]
pub(crate) struct PluginRow<'a> {
    plugin: &'a Name,
    version: &'a str,
    world: World,
    digest: Digest,
    size_bytes: u64,
    deployed_at: String,
}

impl<'a> From<&'a PluginInfo> for PluginRow<'a> {
    fn from(plugin: &'a PluginInfo) -> Self {
        Self {
            plugin: &plugin.name,
            version: &plugin.version,
            world: plugin.world,
            digest: plugin.digest,
            size_bytes: plugin.size_bytes,
            deployed_at: time(plugin.deployed_ms as i64),
        }
    }
}

/// A plugin with all that is known of it.
#[derive(Serialize)]
pub(crate) struct PluginDetails<'a> {
    #[serde(flatten)]
    row: PluginRow<'a>,
    bindings: Vec<BindingRow<'a>>,
}

impl<'a> From<&'a PluginDescription> for PluginDetails<'a> {
    fn from(plugin: &'a PluginDescription) -> Self {
        Self {
            row: (&plugin.info).into(),
            bindings: plugin.bindings.iter().map(BindingRow::from).collect(),
        }
    }
}

/// The state of a broker.
#[derive(Serialize)]
pub(crate) struct BrokerDetails<'a> {
    broker: BrokerId,
    version: &'a str,
    address: &'a str,
    uptime_ms: u64,
    degraded: Option<&'a str>,
    not_ready: Option<&'a str>,
    wal_sync: &'a str,
    wal_bytes: u64,
    wal_bytes_max: u64,
    topics: u64,
    partitions: u64,
    connections: u64,
    catalog: Group,
    shards: Vec<ShardRow>,
}

/// A Raft group.
#[derive(Serialize)]
struct Group {
    leader: Option<BrokerId>,
    term: u64,
    applied_index: u64,
}

/// A Raft group that partitions live in.
#[derive(Serialize)]
struct ShardRow {
    shard: ShardId,
    #[serde(flatten)]
    group: Group,
    partitions: u64,
}

impl From<&ShardStatus> for Group {
    fn from(status: &ShardStatus) -> Self {
        Self {
            leader: status.leader,
            term: status.term,
            applied_index: status.applied_index,
        }
    }
}

impl From<&ShardStatus> for ShardRow {
    fn from(status: &ShardStatus) -> Self {
        Self {
            shard: status.id,
            group: status.into(),
            partitions: status.partitions,
        }
    }
}

impl<'a> From<&'a BrokerStatus> for BrokerDetails<'a> {
    fn from(status: &'a BrokerStatus) -> Self {
        Self {
            broker: status.id,
            version: &status.version,
            address: &status.address,
            uptime_ms: status.uptime_ms,
            degraded: status.degraded.as_deref(),
            not_ready: status.not_ready.as_deref(),
            wal_sync: &status.wal_sync,
            wal_bytes: status.wal_bytes,
            wal_bytes_max: status.wal_bytes_max,
            topics: status.topics,
            partitions: status.partitions,
            connections: status.connections,
            catalog: (&status.catalog).into(),
            shards: status.shards.iter().map(ShardRow::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_its_milliseconds_and_its_zone() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_000_000_000_007), "2001-09-09T01:46:40.007Z");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
    }

    #[test]
    fn a_change_names_what_it_changes_and_nothing_else() {
        let lifted = TopicChanges {
            partitions: Some(5),
            retention_age_ms: Some(None),
            ..TopicChanges::default()
        };
        assert_eq!(
            Value::from(changes(&lifted)),
            json!({"partitions": 5, "retention_age_ms": null})
        );
    }
}
