//! What a client knows of the cluster: its brokers, and who leads which shard. All producers and
//! consumers of a client share it, so that what one of them hears all others know, too.
//!
//! Brokers do not learn of changes at the same moment, so answers contradict each other. Which of
//! two is the newer is told by numbers in them: by the term for a shard, by the number of the
//! catalog's last change for the brokers.

use std::collections::HashMap;

use flumen_protocol::{
    error::LeaderHint,
    ids::{BrokerId, ShardId},
    message::{BrokerInfo, Metadata, ShardMetadata},
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// What is known by now, and that it has changed.
#[derive(Debug)]
pub(crate) struct Cluster {
    known: Mutex<Known>,
    /// Told when anything changes.
    changes: watch::Sender<()>,
}

/// The cluster as a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    version: u64,
    brokers: Vec<BrokerInfo>,
    shards: HashMap<ShardId, ShardMetadata>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            changes: watch::channel(()).0,
        }
    }
}

impl Cluster {
    /// Takes over what is newer in a broker's answer.
    pub(crate) fn learn(&self, metadata: &Metadata) {
        let mut known = self.known.lock();
        let before = known.clone();
        known.learn(metadata);
        let is_news = *known != before;
        drop(known);
        if is_news {
            self.changes.send_replace(());
        }
    }

    /// Takes over what a broker says that refuses because it does not lead the shard.
    pub(crate) fn hear(&self, hint: LeaderHint) {
        if self.known.lock().hear(hint) {
            self.changes.send_replace(());
        }
    }

    /// The leader of a shard, if there is one that is known.
    pub(crate) fn leader(&self, shard: ShardId) -> Option<BrokerId> {
        self.known.lock().shards.get(&shard)?.leader
    }

    /// Whether a broker other than `at` leads the shard, as far as is known.
    pub(crate) fn is_led_elsewhere(&self, shard: ShardId, at: Option<BrokerId>) -> bool {
        let leader = self.leader(shard);
        leader.is_some() && leader != at
    }

    /// The broker to read a shard from: one of the zone that has a copy and is not `avoided`, the
    /// leader before others; where there is none, the leader.
    pub(crate) fn reader(
        &self,
        shard: ShardId,
        zone: Option<&str>,
        avoided: impl Fn(BrokerId) -> bool,
    ) -> Option<BrokerId> {
        let known = self.known.lock();
        let ShardMetadata {
            leader, replicas, ..
        } = known.shards.get(&shard)?;
        let Some(zone) = zone else {
            return *leader;
        };
        let is_near = |id: &BrokerId| {
            let broker = known.brokers.iter().find(|broker| broker.id == *id);
            broker.is_some_and(|broker| broker.zone.as_deref() == Some(zone))
        };
        let of_zone = |id: &BrokerId| is_near(id) && (Some(*id) == *leader || !avoided(*id));
        leader
            .iter()
            .chain(replicas)
            .copied()
            .find(of_zone)
            .or(*leader)
    }

    /// Addresses of all brokers. A cluster of one says none: it is reached where it was found,
    /// whatever address it gives itself.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let known = self.known.lock();
        let several = known.brokers.iter().filter(|_| known.brokers.len() > 1);
        several.map(|broker| broker.address.clone()).collect()
    }

    /// The address of a broker, as [`Cluster::addresses`] has it.
    pub(crate) fn address(&self, broker: BrokerId) -> Option<String> {
        let known = self.known.lock();
        let mut several = known.brokers.iter().filter(|_| known.brokers.len() > 1);
        let found = several.find(|known| known.id == broker);
        found.map(|broker| broker.address.clone())
    }

    /// Is told of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

impl Known {
    fn learn(&mut self, metadata: &Metadata) {
        let is_known = |broker: &BrokerInfo| self.brokers.iter().any(|b| b.id == broker.id);
        // A broker that was wiped and made anew counts from the beginning again.
        let is_another_cluster = !metadata.brokers.iter().any(is_known);
        if is_another_cluster {
            *self = Self::default();
        }
        if metadata.version >= self.version {
            self.version = metadata.version;
            self.brokers.clone_from(&metadata.brokers);
        }
        for heard in &metadata.shards {
            let known = self.shards.get_mut(&heard.id);
            match known {
                Some(known) if known.term > heard.term => {}
                // A broker that has not heard who won knows less.
                Some(known) if known.term == heard.term && heard.leader.is_none() => {
                    known.replicas.clone_from(&heard.replicas);
                }
                _ => {
                    self.shards.insert(heard.id, heard.clone());
                }
            }
        }
    }

    /// True if it is news.
    fn hear(&mut self, hint: LeaderHint) -> bool {
        let Some(known) = self.shards.get_mut(&hint.shard) else {
            return false;
        };
        let is_newer = hint.term > known.term
            || hint.term == known.term && known.leader.is_none() && hint.leader.is_some();
        if is_newer {
            known.term = hint.term;
            known.leader = hint.leader;
        }
        is_newer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);

    fn metadata(version: u64, term: u64, leader: Option<u64>) -> Metadata {
        let broker = |id: u64| BrokerInfo {
            id: BrokerId(id),
            address: format!("broker-{id}.{version}:1"),
            zone: (id < 4).then(|| format!("zone {}", id % 2)),
        };
        Metadata {
            version,
            brokers: (1..=4).map(broker).collect(),
            shards: vec![ShardMetadata {
                id: SHARD,
                term,
                leader: leader.map(BrokerId),
                replicas: (1..=4).map(BrokerId).collect(),
            }],
            ..Metadata::default()
        }
    }

    fn knowing(term: u64, leader: Option<u64>) -> Cluster {
        let cluster = Cluster::default();
        cluster.learn(&metadata(1, term, leader));
        cluster
    }

    #[test]
    fn the_later_term_counts_whoever_says_it() {
        let cluster = knowing(5, Some(1));
        cluster.learn(&metadata(1, 4, Some(2)));
        assert_eq!(cluster.leader(SHARD), Some(BrokerId(1)));
        cluster.learn(&metadata(1, 5, None));
        assert_eq!(cluster.leader(SHARD), Some(BrokerId(1)));
        cluster.learn(&metadata(1, 6, None));
        assert_eq!(cluster.leader(SHARD), None);
        cluster.learn(&metadata(1, 6, Some(3)));
        assert_eq!(cluster.leader(SHARD), Some(BrokerId(3)));
    }

    #[test]
    fn a_refusal_tells_who_leads_unless_it_is_old_news() {
        let cluster = knowing(5, Some(1));
        let mut changes = cluster.changes();
        let hint = |term, leader: Option<u64>| LeaderHint {
            shard: SHARD,
            term,
            leader: leader.map(BrokerId),
        };
        for old in [hint(4, Some(2)), hint(5, Some(2)), hint(5, None)] {
            cluster.hear(old);
            assert_eq!(cluster.leader(SHARD), Some(BrokerId(1)), "{old:?}");
        }
        assert!(!changes.has_changed().unwrap());
        cluster.hear(hint(6, None));
        assert_eq!(cluster.leader(SHARD), None);
        cluster.hear(hint(6, Some(2)));
        assert_eq!(cluster.leader(SHARD), Some(BrokerId(2)));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert!(cluster.is_led_elsewhere(SHARD, Some(BrokerId(1))));
        assert!(!cluster.is_led_elsewhere(SHARD, Some(BrokerId(2))));
    }

    #[test]
    fn addresses_are_taken_from_the_later_catalog() {
        let cluster = knowing(1, None);
        cluster.learn(&metadata(3, 1, None));
        cluster.learn(&metadata(2, 1, None));
        let address = cluster.address(BrokerId(2));
        assert_eq!(address.as_deref(), Some("broker-2.3:1"));
        assert_eq!(cluster.addresses().len(), 4);
    }

    #[test]
    fn a_cluster_that_was_made_anew_is_believed() {
        let cluster = knowing(9, Some(1));
        let mut anew = metadata(0, 1, Some(11));
        for broker in &mut anew.brokers {
            broker.id.0 += 10;
        }
        cluster.learn(&anew);
        assert_eq!(cluster.leader(SHARD), Some(BrokerId(11)));
        assert!(cluster.address(BrokerId(1)).is_none());
    }

    #[test]
    fn a_reader_of_a_zone_gets_a_copy_there_and_the_leader_where_there_is_none() {
        let cluster = knowing(1, Some(1));
        let reader = |zone, avoided: &[u64]| {
            let reader = cluster.reader(SHARD, zone, |id| avoided.contains(&id.0));
            reader.unwrap().0
        };
        assert_eq!(reader(None, &[]), 1);
        assert_eq!(reader(Some("zone 0"), &[]), 2);
        assert_eq!(reader(Some("zone 0"), &[2]), 1);
        assert_eq!(reader(Some("zone 1"), &[]), 1, "the leader is in the zone");
        assert_eq!(reader(Some("zone 7"), &[]), 1);
    }
}
