//! What the admin endpoints show of the broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flumen_protocol::{
    ids::{BrokerId, ShardId},
    topic::Name,
};
use parking_lot::Mutex;

use super::{Node, majority::lost_its_majority};
use crate::{
    admin::Health,
    catalog::CATALOG_SHARD,
    metrics::{BrokerLabel, ClusterMetrics, Metrics},
};

/// What was shown last, so that the next time tells what has changed.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The term of each shard.
    terms: Mutex<BTreeMap<ShardId, u64>>,
    /// The brokers with a round-trip time.
    connected: Mutex<BTreeSet<BrokerId>>,
}

impl Health for Node {
    fn failure(&self) -> Option<String> {
        self.shards.failure()
    }

    fn not_ready(&self) -> Option<String> {
        let no_majority = || self.no_majority();
        // That other brokers do not get here does not say that nobody does.
        let degraded = self.shards.takes_none().or_else(no_majority);
        let leaderless = || self.leaderless();
        degraded.or_else(leaderless).or_else(|| self.unregistered())
    }

    fn refresh(&self, metrics: &Metrics) {
        self.plugins.hooks().count();
        let shards = self.shards.all_data();
        let partitions: u64 = shards.iter().map(|shard| shard.status().partitions).sum();
        let storage = &metrics.storage;
        storage.partitions.set(partitions as i64);
        let catalog = self.catalog.snapshot();
        let topics = catalog.topics.keys().map(Name::as_str);
        let topics: BTreeSet<&str> = topics.collect();
        storage.topics.set(topics.len() as i64);
        metrics.keep_topics(|topic| topics.contains(topic));
        storage.uptime.set(self.started.elapsed().as_secs_f64());
        storage
            .unflushed_bytes
            .set(self.logs.unflushed_bytes() as i64);
        storage
            .degraded
            .set(i64::from(self.shards.degraded().is_some()));
        metrics.wal.used_bytes.set(self.wal.usage().bytes as i64);
        self.refresh_cluster(&metrics.cluster);
    }
}

impl Node {
    /// Why nothing can be decided at the moment, if so.
    pub(super) fn leaderless(&self) -> Option<String> {
        let me = self.shards.broker();
        match self.shards.leader_of(CATALOG_SHARD) {
            Some(leader) if leader == me => {
                lost_its_majority(&self.catalog.group().view()).then(|| {
                    "this broker leads the catalog and does not reach a majority of the brokers \
                     that vote on it; are they running?"
                        .to_owned()
                })
            }
            Some(leader) if self.reports.is_reachable(leader) => None,
            Some(leader) => Some(format!(
                "broker {leader}, which led the catalog, cannot be reached, and no other one leads \
                 it; is a majority of the brokers running?"
            )),
            None => Some(
                "no broker leads the catalog, as far as this one knows; is a majority of the \
                 brokers running, and can this one reach them?"
                    .to_owned(),
            ),
        }
    }

    fn refresh_cluster(&self, metrics: &ClusterMetrics) {
        self.note_round_trips(metrics);
        let me = self.shards.broker();
        let status = self.cluster_status();
        let here = status.broker(me);
        metrics.shards_led.set(here.map_or(0, |b| b.leaders.into()));
        metrics
            .damaged_shards
            .set(here.map_or(0, |b| b.damaged_shards.into()));
        metrics
            .lag_records
            .set(here.map_or(0, |b| b.lag_records as i64));
        metrics
            .lag_bytes
            .set(here.map_or(0, |b| b.lag_bytes as i64));
        let replicas = status.shards.iter().flat_map(|shard| &shard.replicas);
        let entries = replicas.filter(|replica| replica.broker == me);
        let entries: u64 = entries.filter_map(|replica| replica.lag_entries).sum();
        metrics.lag_entries.set(entries as i64);
        self.note_terms(metrics);
    }

    fn note_round_trips(&self, metrics: &ClusterMetrics) {
        let times = self.peers.round_trips().into_iter();
        let times: BTreeMap<BrokerId, Duration> = times
            .filter_map(|(broker, time)| Some((broker, time?)))
            .collect();
        metrics.brokers_connected.set(times.len() as i64);
        let label = |broker: &BrokerId| BrokerLabel { broker: broker.0 };
        for (broker, time) in &times {
            let gauge = metrics.round_trip.get_or_create(&label(broker));
            gauge.set(time.as_secs_f64());
        }
        // A broker that is gone leaves no line behind that looks as if it were there.
        let connected = times.into_keys().collect();
        let before = std::mem::replace(&mut *self.shown.connected.lock(), connected);
        for gone in before.difference(&self.shown.connected.lock()) {
            metrics.round_trip.remove(&label(gone));
        }
    }

    fn note_terms(&self, metrics: &ClusterMetrics) {
        let data = self.shards.all_data();
        let mut shards: Vec<_> = data
            .iter()
            .map(|shard| (shard.id(), shard.group().leader().1))
            .collect();
        shards.push((CATALOG_SHARD, self.catalog.group().leader().1));
        let mut terms = self.shown.terms.lock();
        let seen = std::mem::take(&mut *terms);
        for (shard, term) in shards {
            let before = seen.get(&shard).copied().unwrap_or(term);
            metrics.elections.inc_by(term.saturating_sub(before));
            terms.insert(shard, term);
        }
        let highest = terms.values().max().copied().unwrap_or(0);
        metrics.term.set(highest as i64);
    }
}
