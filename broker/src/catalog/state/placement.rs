//! Where the replicas of shards are, in the catalog's own rules.

use std::collections::BTreeMap;

use flumen_protocol::ids::{BrokerId, ShardId};

use super::{CatalogError, CatalogResponse, CatalogState, ClusterId};

/// Replicas of a shard where nothing else was said, and there are as many brokers.
const REPLICAS_DEFAULT: u32 = 3;

/// Replicas of a shard at most.
pub(in crate::catalog) const REPLICAS_MAX: u32 = 7;

impl CatalogState {
    /// The data shards that have, or should have, a replica on a broker.
    pub fn shards_of(&self, broker: BrokerId) -> impl Iterator<Item = ShardId> {
        let placed = self.placement.iter();
        placed.filter_map(move |(shard, replicas)| replicas.contains(&broker).then_some(*shard))
    }

    /// The brokers that may have replicas.
    pub fn active_brokers(&self) -> impl Iterator<Item = BrokerId> {
        let brokers = self.brokers.keys().copied();
        brokers.filter(|broker| !self.draining.contains(broker))
    }

    /// The zone of a broker.
    pub fn zone_of(&self, broker: BrokerId) -> Option<String> {
        self.brokers.get(&broker)?.zone.clone()
    }

    /// How many replicas shards should have, were there brokers enough.
    pub fn replication_goal(&self) -> u32 {
        self.replication_factor.unwrap_or(1)
    }

    /// How many replicas shards should have with the brokers that there are.
    pub fn replicas_wanted(&self) -> u32 {
        let active = self.active_brokers().count() as u32;
        self.replication_goal().min(active).max(1)
    }

    /// Where nothing else was said, shards are replicated once there are brokers enough for one of
    /// them to fail: two replicas are no better than one. From then on copies are not given up
    /// because a broker goes.
    pub(super) fn replicate_if_there_are_enough(&mut self) {
        let active = self.active_brokers().count() as u32;
        if self.replication_factor.is_none() && active >= REPLICAS_DEFAULT {
            self.replication_factor = Some(REPLICAS_DEFAULT);
        }
    }

    pub(super) fn found(
        &mut self,
        cluster_id: ClusterId,
        founder: BrokerId,
        shard_count: u32,
    ) -> CatalogResponse {
        if self.cluster_id.is_none() {
            self.cluster_id = Some(cluster_id);
            self.shard_count = shard_count;
            self.placement = (1..=shard_count)
                .map(|id| (ShardId(id), vec![founder]))
                .collect();
        }
        CatalogResponse::Done
    }

    pub(super) fn place(&mut self, shards: BTreeMap<ShardId, Vec<BrokerId>>) -> CatalogResponse {
        for (shard, replicas) in shards {
            // Nothing but a known shard with known brokers: the proposer may be behind.
            let known = replicas.iter().all(|id| self.brokers.contains_key(id));
            if known
                && !replicas.is_empty()
                && let Some(placed) = self.placement.get_mut(&shard)
            {
                *placed = replicas;
            }
        }
        CatalogResponse::Done
    }

    pub(super) fn set_replication_factor(
        &mut self,
        factor: u32,
    ) -> Result<CatalogResponse, CatalogError> {
        let brokers = self.active_brokers().count() as u32;
        if factor == 0 || factor > REPLICAS_MAX || factor > brokers {
            return Err(CatalogError::InvalidReplicationFactor { factor, brokers });
        }
        self.replication_factor = Some(factor);
        Ok(CatalogResponse::Done)
    }

    pub(super) fn drain(
        &mut self,
        broker: BrokerId,
        drain: bool,
    ) -> Result<CatalogResponse, CatalogError> {
        if !self.brokers.contains_key(&broker) {
            return Err(CatalogError::UnknownBroker(broker));
        }
        if !drain {
            self.draining.remove(&broker);
            return Ok(CatalogResponse::Done);
        }
        if self.active_brokers().all(|active| active == broker) {
            return Err(CatalogError::LastBroker(broker));
        }
        self.draining.insert(broker);
        Ok(CatalogResponse::Done)
    }
}
