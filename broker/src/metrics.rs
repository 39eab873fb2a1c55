//! Every metric of the broker: its name, its unit and what it tells, in one place.
//!
//! Names follow the Prometheus conventions: base units, `_total` for counters (added by the
//! encoder), `_seconds`, `_bytes`.

use std::{sync::atomic::AtomicU64, time::Duration};

use flumen_protocol::topic::TopicName;
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode, encode_registry},
    },
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::wal::WalObserver;

mod labels;
mod process;
#[cfg(test)]
mod tests;

use self::labels::Labels;

/// A topic's name as a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct TopicLabel {
    /// The topic.
    pub topic: String,
}

/// A kind of control request as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    /// The request's name.
    pub request: &'static str,
    /// `ok` or `error`.
    pub outcome: &'static str,
}

/// An error code as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabel {
    /// The error's code.
    pub code: String,
}

/// A plugin on a topic as a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct BindingLabel {
    /// The topic.
    pub topic: String,
    /// The plugin.
    pub plugin: String,
}

/// A counter that a plugin keeps by itself, as a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct CounterLabel {
    /// The topic.
    pub topic: String,
    /// The plugin.
    pub plugin: String,
    /// The plugin's name for it.
    pub name: String,
}

/// A version as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BuildLabel {
    /// The version of the software.
    pub version: &'static str,
}

/// Another broker as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BrokerLabel {
    /// Its id.
    pub broker: u64,
}

/// The metrics of a broker; clones share the same values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// What clients do.
    pub server: ServerMetrics,
    /// The write-ahead log.
    pub wal: WalMetrics,
    /// Plugins.
    pub plugin: PluginMetrics,
    /// What is kept.
    pub storage: StorageMetrics,
    /// The other brokers, and the replicas that this one has.
    pub cluster: ClusterMetrics,
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    /// Open client connections.
    pub connections: Gauge,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Connections refused, for want of a credential or of room.
    pub connections_refused: Counter,
    /// Open streams.
    pub streams: Gauge,
    /// Records appended.
    pub produced_records: Family<TopicLabel, Counter>,
    /// Bytes of batches appended.
    pub produced_bytes: Family<TopicLabel, Counter>,
    /// Records delivered.
    pub consumed_records: Family<TopicLabel, Counter>,
    /// Bytes of batches delivered.
    pub consumed_bytes: Family<TopicLabel, Counter>,
    /// Batches refused.
    pub produce_errors: Family<ErrorLabel, Counter>,
    /// From a batch's arrival to its acknowledgement.
    pub produce_latency: Histogram,
    /// Control requests.
    pub requests: Family<RequestLabel, Counter>,
    /// The topics that have counters.
    topics: Labels<TopicLabel>,
}

impl ServerMetrics {
    /// The counters of what is produced to a topic: records and bytes.
    pub fn produced(&self, topic: &TopicName) -> [Counter; 2] {
        self.of_topic(topic, [&self.produced_records, &self.produced_bytes])
    }

    /// The counters of what is consumed from a topic: records and bytes.
    pub fn consumed(&self, topic: &TopicName) -> [Counter; 2] {
        self.of_topic(topic, [&self.consumed_records, &self.consumed_bytes])
    }

    fn of_topic(
        &self,
        topic: &TopicName,
        families: [&Family<TopicLabel, Counter>; 2],
    ) -> [Counter; 2] {
        let label = TopicLabel {
            topic: topic.to_string(),
        };
        self.topics.note(&label);
        families.map(|family| family.get_or_create(&label).clone())
    }
}

impl Default for ServerMetrics {
    fn default() -> Self {
        Self {
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            streams: Gauge::default(),
            produced_records: Family::default(),
            produced_bytes: Family::default(),
            consumed_records: Family::default(),
            consumed_bytes: Family::default(),
            produce_errors: Family::default(),
            produce_latency: latency_histogram(),
            requests: Family::default(),
            topics: Labels::default(),
        }
    }
}

/// The write-ahead log.
#[derive(Clone, Debug)]
pub struct WalMetrics {
    /// Syncs.
    pub syncs: Counter,
    /// Time of a sync.
    pub sync_latency: Histogram,
    /// Bytes written.
    pub written_bytes: Counter,
    /// Bytes of one write: what group commit gathered.
    pub write_size: Histogram,
    /// Entries of one write.
    pub write_entries: Histogram,
    /// Bytes in use.
    pub used_bytes: Gauge,
}

impl Default for WalMetrics {
    fn default() -> Self {
        Self {
            syncs: Counter::default(),
            sync_latency: latency_histogram(),
            written_bytes: Counter::default(),
            write_size: Histogram::new(exponential_buckets(256.0, 4.0, 10)),
            write_entries: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            used_bytes: Gauge::default(),
        }
    }
}

impl WalObserver for WalMetrics {
    fn on_write(&self, records: usize, bytes: u64) {
        self.written_bytes.inc_by(bytes);
        self.write_size.observe(bytes as f64);
        self.write_entries.observe(records as f64);
    }

    fn on_sync(&self, seconds: f64) {
        self.syncs.inc();
        self.sync_latency.observe(seconds);
    }
}

/// Plugins.
#[derive(Clone, Debug, Default)]
pub struct PluginMetrics {
    /// Calls.
    pub calls: Family<BindingLabel, Counter>,
    /// Calls that failed.
    pub failures: Family<BindingLabel, Counter>,
    /// Records that a plugin could not take.
    pub failed_records: Family<BindingLabel, Counter>,
    /// Records that were shown to a plugin.
    pub records: Family<BindingLabel, Counter>,
    /// Time that calls took, in seconds.
    pub call_time: Family<BindingLabel, Counter<f64, AtomicU64>>,
    /// What plugins count by themselves.
    pub counters: Family<CounterLabel, Counter>,
    /// The bindings that have counters.
    pub(crate) bindings: Labels<BindingLabel>,
    /// The counters that plugins have by themselves.
    pub(crate) own_counters: Labels<CounterLabel>,
}

/// What is kept.
#[derive(Clone, Debug, Default)]
pub struct StorageMetrics {
    /// Bytes that wait to be written to partition logs.
    pub unflushed_bytes: Gauge,
    /// Checkpoints.
    pub checkpoints: Counter,
    /// Topics.
    pub topics: Gauge,
    /// Partitions.
    pub partitions: Gauge,
    /// 1 while the broker takes no records, or soon will not, else 0.
    pub degraded: Gauge,
    /// How long the broker is up, in seconds.
    pub uptime: Gauge<f64, AtomicU64>,
}

/// The other brokers, and the replicas that this one has.
#[derive(Clone, Debug, Default)]
pub struct ClusterMetrics {
    /// Brokers that this one is connected to.
    pub brokers_connected: Gauge,
    /// The time to each of them and back, in seconds.
    pub round_trip: Family<BrokerLabel, Gauge<f64, AtomicU64>>,
    /// Data shards that this broker leads.
    pub shards_led: Gauge,
    /// The highest term of its shards.
    pub term: Gauge,
    /// Terms that began: each is an election, or a planned change of the leader.
    pub elections: Counter,
    /// Shards whose files are damaged here.
    pub damaged_shards: Gauge,
    /// Entries that its replicas lack, as the leaders know it.
    pub lag_entries: Gauge,
    /// Records that they lack.
    pub lag_records: Gauge,
    /// Bytes that they lack.
    pub lag_bytes: Gauge,
    /// What brings replicas up that lack more than the log has.
    pub transfers: TransferMetrics,
}

/// What brings replicas up that lack more than the log has.
#[derive(Clone, Debug, Default)]
pub struct TransferMetrics {
    /// Snapshots sent to other brokers.
    pub snapshots_sent: Counter,
    /// Snapshots of other brokers that were installed here.
    pub snapshots_received: Counter,
    /// Bytes of batches sent to replicas that lacked them.
    pub sent_bytes: Counter,
    /// Bytes of batches that replicas here lacked and got.
    pub received_bytes: Counter,
}

/// 10 µs to 10 s, in steps of about two.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 2.0, 21))
}

/// Takes a duration into a histogram of seconds.
pub fn observe(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}

impl Metrics {
    /// All metrics in the Prometheus text format.
    pub fn encode(&self) -> String {
        const TAKES_ALL: &str = "a String takes all that is written";
        let mut out = String::new();
        encode_registry(&mut out, &process::registry()).expect(TAKES_ALL);
        encode(&mut out, &self.registry()).expect(TAKES_ALL);
        out
    }

    /// Forgets the counters of topics that are not there any more.
    pub fn keep_topics(&self, is_there: impl Fn(&str) -> bool) {
        let server = &self.server;
        for gone in server.topics.take_unless(|label| is_there(&label.topic)) {
            server.produced_records.remove(&gone);
            server.produced_bytes.remove(&gone);
            server.consumed_records.remove(&gone);
            server.consumed_bytes.remove(&gone);
        }
        let plugin = &self.plugin;
        for gone in plugin.bindings.take_unless(|label| is_there(&label.topic)) {
            plugin.calls.remove(&gone);
            plugin.failures.remove(&gone);
            plugin.failed_records.remove(&gone);
            plugin.records.remove(&gone);
            plugin.call_time.remove(&gone);
        }
        let own = &plugin.own_counters;
        for gone in own.take_unless(|label| is_there(&label.topic)) {
            plugin.counters.remove(&gone);
        }
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("flumen");
        self.register_server(&mut registry);
        self.register_wal(&mut registry);
        self.register_plugin(&mut registry);
        self.register_storage(&mut registry);
        self.register_cluster(&mut registry);
        registry
    }

    fn register_server(&self, registry: &mut Registry) {
        let m = self.server.clone();
        let seconds = || Unit::Seconds;
        let bytes = || Unit::Bytes;
        registry.register("connections", "Open client connections", m.connections);
        registry.register(
            "connections_accepted",
            "Client connections accepted",
            m.connections_accepted,
        );
        registry.register(
            "connections_refused",
            "Client connections refused",
            m.connections_refused,
        );
        registry.register("streams", "Open client streams", m.streams);
        registry.register("produced_records", "Records appended", m.produced_records);
        registry.register_with_unit(
            "produced",
            "Bytes of batches appended",
            bytes(),
            m.produced_bytes,
        );
        registry.register("consumed_records", "Records delivered", m.consumed_records);
        registry.register_with_unit(
            "consumed",
            "Bytes of batches delivered",
            bytes(),
            m.consumed_bytes,
        );
        registry.register("produce_errors", "Batches refused", m.produce_errors);
        registry.register_with_unit(
            "produce_latency",
            "From a batch's arrival to its acknowledgement",
            seconds(),
            m.produce_latency,
        );
        registry.register("requests", "Control requests", m.requests);
    }

    fn register_wal(&self, registry: &mut Registry) {
        let m = self.wal.clone();
        let registry = registry.sub_registry_with_prefix("wal");
        registry.register("syncs", "Syncs of the write-ahead log", m.syncs);
        registry.register_with_unit(
            "sync_latency",
            "Time of a sync",
            Unit::Seconds,
            m.sync_latency,
        );
        registry.register_with_unit("written", "Bytes written", Unit::Bytes, m.written_bytes);
        registry.register_with_unit(
            "write_size",
            "Bytes gathered in one write",
            Unit::Bytes,
            m.write_size,
        );
        registry.register(
            "write_entries",
            "Entries gathered in one write",
            m.write_entries,
        );
        registry.register_with_unit("used", "Bytes in use", Unit::Bytes, m.used_bytes);
    }

    fn register_plugin(&self, registry: &mut Registry) {
        let m = self.plugin.clone();
        let registry = registry.sub_registry_with_prefix("plugin");
        registry.register("calls", "Calls of plugins", m.calls);
        registry.register("failures", "Calls of plugins that failed", m.failures);
        registry.register(
            "failed_records",
            "Records that plugins could not take",
            m.failed_records,
        );
        registry.register("records", "Records shown to plugins", m.records);
        registry.register_with_unit(
            "call_time",
            "Time that calls of plugins took",
            Unit::Seconds,
            m.call_time,
        );
        registry.register("counter", "What plugins count by themselves", m.counters);
    }

    fn register_storage(&self, registry: &mut Registry) {
        let m = self.storage.clone();
        registry.register_with_unit(
            "unflushed",
            "Bytes that wait to be written to partition logs",
            Unit::Bytes,
            m.unflushed_bytes,
        );
        registry.register("checkpoints", "Checkpoints taken", m.checkpoints);
        registry.register("topics", "Topics", m.topics);
        registry.register("partitions", "Partitions", m.partitions);
        registry.register(
            "degraded",
            "1 while no records are taken, or soon will not be",
            m.degraded,
        );
        registry.register_with_unit(
            "uptime",
            "How long the broker is up",
            Unit::Seconds,
            m.uptime,
        );
        let build = Family::<BuildLabel, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&BuildLabel { version }).set(1);
        registry.register("build_info", "The version of the broker", build);
    }
}

impl Metrics {
    fn register_cluster(&self, registry: &mut Registry) {
        let m = self.cluster.clone();
        let registry = registry.sub_registry_with_prefix("cluster");
        registry.register(
            "brokers_connected",
            "Other brokers that this one is connected to",
            m.brokers_connected,
        );
        registry.register_with_unit(
            "round_trip",
            "The time to another broker and back",
            Unit::Seconds,
            m.round_trip,
        );
        registry.register("shards_led", "Data shards that are led here", m.shards_led);
        registry.register(
            "damaged_shards",
            "Shards here whose files are damaged",
            m.damaged_shards,
        );
        registry.register("term", "The highest term of the shards here", m.term);
        registry.register(
            "elections",
            "Terms that began in the shards here: elections and planned changes of the leader",
            m.elections,
        );
        registry.register(
            "lag_entries",
            "Log entries that the replicas here lack",
            m.lag_entries,
        );
        registry.register(
            "lag_records",
            "Records that the replicas here lack",
            m.lag_records,
        );
        registry.register_with_unit(
            "lag",
            "Bytes of records that the replicas here lack",
            Unit::Bytes,
            m.lag_bytes,
        );
        m.transfers.register(registry);
    }
}

impl TransferMetrics {
    fn register(self, registry: &mut Registry) {
        registry.register(
            "snapshots_sent",
            "Snapshots sent to other brokers",
            self.snapshots_sent,
        );
        registry.register(
            "snapshots_received",
            "Snapshots of other brokers that were installed",
            self.snapshots_received,
        );
        registry.register_with_unit(
            "transfer_sent",
            "Bytes of batches sent to replicas that lacked them",
            Unit::Bytes,
            self.sent_bytes,
        );
        registry.register_with_unit(
            "transfer_received",
            "Bytes of batches that replicas here lacked and got",
            Unit::Bytes,
            self.received_bytes,
        );
    }
}
