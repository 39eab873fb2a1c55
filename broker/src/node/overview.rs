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
            let text = if found.state == BrokerState::Draining {
                format!(
                    "broker {broker} can be reached and is not drained yet; wait for that with \
                     `flumen cluster drain {broker} --wait`, or stop it"
                )
            } else {
                format!(
                    "broker {broker} can be reached and has {} replicas; drain it first with \
                     `flumen cluster drain {broker}`, or stop it",
                    found.replicas
                )
            };
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
        let led = self.led(words, shard);
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

    /// What the leader of a shard, if it is heard, tells of it.
    fn led<'a>(&self, words: &'a Words, shard: ShardId) -> Option<&'a LedShard> {
        let (leader, _) = self.shards.leadership(shard);
        let (reachable, report) = words.get(&leader?)?;
        let led = report.leads.iter().find(|led| led.shard == shard)?;
        reachable.then_some(led)
    }

    /// The replicas of a shard of which no leader tells: by the log here, or where they should be.
    fn members_without_leader(&self, state: &CatalogState, shard: ShardId) -> BTreeSet<BrokerId> {
        if shard == CATALOG_SHARD {
            return self.catalog.group().view().voters;
        }
        let placed = state.placement.get(&shard).into_iter().flatten();
        placed.copied().collect()
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
            if is_draining {
                return may_need(word, self.led(words, shard.id), broker, shard.id);
            }
            let mut replicas = shard.replicas.iter();
            replicas.any(|replica| replica.broker == broker)
        });
        let decides = is_draining && may_vote(self.led(words, CATALOG_SHARD), broker);
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
            replicas: has.count() as u32 + u32::from(decides),
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

/// Whether a shard may need what a broker that is drained has of it. Who stops or removes the broker
/// relies on it: in doubt, it does.
fn may_need(
    word: Option<&(bool, BrokerReport)>,
    led: Option<&LedShard>,
    broker: BrokerId,
    shard: ShardId,
) -> bool {
    // It may have anything.
    let Some((is_fresh, report)) = word else {
        return true;
    };
    let mut replicas = report.replicas.iter();
    // A leader leaves a broker out of its members before that is committed, and until then the
    // broker's vote may be needed; the broker gives its replica up after it. So its own word counts
    // beside the leader's, also the last one of a broker that is cut off.
    let has = replicas.any(|replica| replica.shard == shard) || report.damaged.contains(&shard);
    match led {
        Some(led) => has || led.members.contains(&broker),
        // Without a leader, an old word does not tell what the broker has got since.
        None => has || !is_fresh,
    }
}

/// Whether a broker that is drained may vote on the catalog, by what its leader, if it is heard, says
/// of it: for as long as the change is not committed, it does. A majority of those who do must be
/// there, so that it is not to be stopped before.
fn may_vote(led: Option<&LedShard>, broker: BrokerId) -> bool {
    led.is_none_or(|led| led.voters.contains(&broker))
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

#[cfg(test)]
mod tests {
    use super::*;

    const DRAINED: BrokerId = BrokerId(1);
    const SHARD: ShardId = ShardId(3);

    fn report(replicas: &[ShardId], damaged: &[ShardId]) -> BrokerReport {
        let replicas = replicas.iter().map(|shard| ReplicaReport {
            shard: *shard,
            applied_index: 1,
            partitions: 1,
            records: 1,
            bytes: 1,
        });
        BrokerReport {
            replicas: replicas.collect(),
            damaged: damaged.to_vec(),
            ..BrokerReport::default()
        }
    }

    fn led_by_members(members: &[BrokerId]) -> LedShard {
        LedShard {
            shard: SHARD,
            term: 1,
            last_index: 1,
            matched: BTreeMap::new(),
            members: members.to_vec(),
            voters: members.to_vec(),
        }
    }

    #[test]
    fn a_drained_broker_has_what_it_or_a_leader_tells_of() {
        let elsewhere = led_by_members(&[BrokerId(2)]);
        let here_too = led_by_members(&[BrokerId(2), DRAINED]);
        let other = ShardId(4);
        for is_fresh in [true, false] {
            for (report, has) in [
                (report(&[other, SHARD], &[]), true),
                // Its files are damaged: it is closed, and may still have a vote.
                (report(&[other], &[SHARD]), true),
                (report(&[other], &[other]), false),
            ] {
                let word = Some((is_fresh, report));
                let may_need = |led| may_need(word.as_ref(), led, DRAINED, SHARD);
                assert_eq!(may_need(Some(&elsewhere)), has, "{word:?}");
                assert!(may_need(Some(&here_too)), "{word:?}");
                // Without a leader, a broker that has nothing says so itself.
                assert_eq!(may_need(None), has || !is_fresh, "{word:?}");
            }
        }
    }

    #[test]
    fn a_drained_broker_votes_on_the_catalog_unless_its_leader_says_that_it_does_not() {
        assert!(may_vote(None, DRAINED));
        assert!(may_vote(Some(&led_by_members(&[DRAINED])), DRAINED));
        assert!(!may_vote(Some(&led_by_members(&[BrokerId(2)])), DRAINED));
    }

    #[test]
    fn a_drained_broker_that_was_never_heard_may_have_anything() {
        let elsewhere = led_by_members(&[BrokerId(2)]);
        assert!(may_need(None, Some(&elsewhere), DRAINED, SHARD));
        assert!(may_need(None, None, DRAINED, SHARD));
    }
}
