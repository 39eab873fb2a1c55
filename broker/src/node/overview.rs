//! The state of the whole cluster, put together from the catalog, from Raft, and from what the
//! brokers tell each other.

use std::collections::{BTreeMap, BTreeSet};

use flumen_protocol::{
    error::{ErrorCode, WireError},
    ids::{BrokerId, ShardId},
    message::{BrokerOverview, BrokerState, ClusterStatus, ReplicaStatus, ShardOverview},
};

use super::Node;
use crate::{
    catalog::{CATALOG_SHARD, CatalogState},
    cluster::{BrokerReport, LedShard, ReplicaReport},
};

/// The last word of every broker, this one included.
type Words = BTreeMap<BrokerId, (bool, BrokerReport)>;

impl Node {
    /// The state of the cluster as this broker knows it.
    pub(super) fn cluster_status(&self) -> ClusterStatus {
        let state = self.catalog.snapshot();
        let words = self.words(&state);
        let shards: Vec<_> = std::iter::once(CATALOG_SHARD)
            .chain(state.placement.keys().copied())
            .map(|shard| self.shard_overview(&state, &words, shard))
            .collect();
        let brokers = state.brokers.keys();
        ClusterStatus {
            cluster: state
                .cluster_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            answered_by: self.shards.broker(),
            replication_factor: state.replication_goal(),
            moves_left: moves_left(&state, &shards),
            brokers: brokers
                .map(|broker| self.broker_overview(&state, &words, &shards, *broker))
                .collect(),
            shards,
        }
    }

    /// Removes a broker that has nothing any more, or is gone.
    pub(crate) async fn remove_broker(&self, broker: BrokerId) -> Result<(), WireError> {
        let status = self.cluster_status();
        let found = status.brokers.iter().find(|known| known.id == broker);
        if let Some(found) = found.filter(|found| found.reachable && found.replicas > 0) {
            let text = format!(
                "broker {broker} can be reached and has {} replicas; drain it first with `flumen \
                 cluster drain {broker}`, or stop it",
                found.replicas
            );
            return Err(WireError::new(ErrorCode::Conflict, text));
        }
        Ok(self.catalog.remove_broker(broker).await?)
    }

    fn words(&self, state: &CatalogState) -> Words {
        let mut words = Words::new();
        for broker in state.brokers.keys() {
            if let Some((_, report)) = self.reports.of(*broker) {
                words.insert(*broker, (self.reports.is_reachable(*broker), report));
            }
        }
        if let Some(steward) = &*self.steward.lock() {
            words.insert(self.shards.broker(), (true, steward.own_report()));
        }
        words
    }

    fn shard_overview(&self, state: &CatalogState, words: &Words, shard: ShardId) -> ShardOverview {
        let (leader, term) = self.shards.leadership(shard);
        let led = leader.and_then(|leader| {
            let (reachable, report) = words.get(&leader)?;
            let led = report.leads.iter().find(|led| led.shard == shard)?;
            reachable.then_some(led)
        });
        let at_leader = leader.and_then(|leader| replica_at(words, leader, shard));
        let members = led.map_or_else(
            || self.members_without_leader(state, shard),
            |led| led.members.iter().copied().collect(),
        );
        let replicas = members.iter().map(|broker| {
            let behind = at_leader.zip(replica_at(words, *broker, shard));
            ReplicaStatus {
                broker: *broker,
                voter: led.is_none_or(|led| led.voters.contains(broker)),
                lag_entries: led.and_then(|led| lag_entries(led, leader, *broker)),
                lag_records: behind
                    .map_or(0, |(most, own)| most.records.saturating_sub(own.records)),
                lag_bytes: behind.map_or(0, |(most, own)| most.bytes.saturating_sub(own.bytes)),
            }
        });
        ShardOverview {
            id: shard,
            leader: leader.filter(|leader| {
                let is_heard = words.get(leader).is_some_and(|(heard, _)| *heard);
                let is_alone = *leader == self.shards.broker() && self.leads_alone(shard);
                is_heard && !is_alone
            }),
            term,
            partitions: at_leader.map_or(0, |replica| replica.partitions),
            replicas: replicas.collect(),
        }
    }

    /// The replicas of a shard of which no leader tells: by the log here, or where they should be.
    /// What a broker that is drained has may not be elsewhere yet; only a leader could say that it
    /// is, and who removes the broker relies on that.
    fn members_without_leader(&self, state: &CatalogState, shard: ShardId) -> BTreeSet<BrokerId> {
        if shard == CATALOG_SHARD {
            return self.catalog.group().view().voters;
        }
        let placed = state.placement.get(&shard).into_iter().flatten();
        placed.chain(&state.draining).copied().collect()
    }

    fn broker_overview(
        &self,
        state: &CatalogState,
        words: &Words,
        shards: &[ShardOverview],
        broker: BrokerId,
    ) -> BrokerOverview {
        let info = state.brokers.get(&broker);
        let word = words.get(&broker);
        let copies = shards.iter().flat_map(|shard| &shard.replicas);
        let copies: Vec<_> = copies.filter(|replica| replica.broker == broker).collect();
        let data = shards.iter().filter(|shard| shard.id != CATALOG_SHARD);
        let is_draining = state.draining.contains(&broker);
        let is_reachable = word.is_some_and(|(heard, _)| *heard);
        let has = data.clone().filter(|shard| {
            let mut replicas = shard.replicas.iter();
            // A leader leaves a broker out of its members before that is committed; the broker
            // gives its replica up after it.
            let keeps = is_draining && is_reachable;
            replicas.any(|replica| replica.broker == broker)
                || keeps && replica_at(words, broker, shard.id).is_some()
        });
        BrokerOverview {
            id: broker,
            address: info.map(|info| info.address.clone()).unwrap_or_default(),
            zone: info.and_then(|info| info.zone.clone()),
            state: if is_draining {
                BrokerState::Draining
            } else {
                BrokerState::Active
            },
            reachable: is_reachable,
            version: word.map(|(_, report)| report.version.clone()),
            leaders: data.filter(|shard| shard.leader == Some(broker)).count() as u32,
            replicas: has.count() as u32,
            lag_records: copies.iter().map(|replica| replica.lag_records).sum(),
            lag_bytes: copies.iter().map(|replica| replica.lag_bytes).sum(),
            round_trip_us: self
                .peers
                .round_trip(broker)
                .map(|time| time.as_micros() as u64),
            degraded: word.and_then(|(_, report)| report.degraded.clone()),
            damaged_shards: word.map_or(0, |(_, report)| report.damaged.len() as u32),
            behind_shards: self.reports.behind(broker),
        }
    }
}

fn replica_at(words: &Words, broker: BrokerId, shard: ShardId) -> Option<ReplicaReport> {
    let (_, report) = words.get(&broker)?;
    let mut replicas = report.replicas.iter();
    replicas.find(|replica| replica.shard == shard).copied()
}

fn lag_entries(led: &LedShard, leader: Option<BrokerId>, broker: BrokerId) -> Option<u64> {
    if leader == Some(broker) {
        return Some(0);
    }
    led.lag(broker)
}

/// Replicas that are not where they should be, and leaders that should be others.
fn moves_left(state: &CatalogState, shards: &[ShardOverview]) -> u32 {
    let moves = shards.iter().filter_map(|shard| {
        let wanted = state.placement.get(&shard.id)?;
        let voters = shard.replicas.iter().filter(|replica| replica.voter);
        let has: BTreeSet<_> = voters.map(|replica| replica.broker).collect();
        let missing = wanted.iter().filter(|broker| !has.contains(broker)).count();
        let surplus = has.iter().filter(|broker| !wanted.contains(broker)).count();
        let misled = shard.leader.is_some() && shard.leader != wanted.first().copied();
        Some(missing.max(surplus) as u32 + u32::from(misled))
    });
    moves.sum()
}
