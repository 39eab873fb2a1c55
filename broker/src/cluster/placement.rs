//! Which brokers should have the replicas of which shards: a pure function of who is there.
//!
//! What is there stays where it can; replicas are spread over zones first and evenly over brokers
//! then, and so are those that come first in their shard, which lead.

use std::collections::{BTreeMap, BTreeSet};

use flumen_protocol::ids::{BrokerId, ShardId};

/// The replicas of each shard, the one that should lead first.
pub(super) type Placement = BTreeMap<ShardId, Vec<BrokerId>>;

/// A broker that may have replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Brokers of one zone may fail together.
    pub(super) zone: Option<String>,
}

/// Places `replicas` of every shard, and moves no more than it must.
pub(super) fn place(
    current: &Placement,
    candidates: &BTreeMap<BrokerId, Candidate>,
    replicas: usize,
) -> Placement {
    let mut plan = Plan {
        placement: current.clone(),
        candidates,
    };
    if candidates.is_empty() {
        return plan.placement;
    }
    let replicas = replicas.clamp(1, candidates.len());
    for shard in current.keys() {
        plan.resize(*shard, replicas);
    }
    plan.spread_zones();
    plan.spread_replicas();
    plan.spread_leaders();
    plan.placement
}

struct Plan<'a> {
    placement: Placement,
    candidates: &'a BTreeMap<BrokerId, Candidate>,
}

impl Plan<'_> {
    /// Drops replicas on brokers that may have none, and adds or removes until there are enough.
    fn resize(&mut self, shard: ShardId, replicas: usize) {
        let candidates = self.candidates;
        let placed = self.placement.entry(shard).or_default();
        placed.retain(|broker| candidates.contains_key(broker));
        while self.placement[&shard].len() < replicas
            && let Some(broker) = self.best_addition(shard, &BTreeSet::new())
        {
            self.replicas_of(shard).push(broker);
        }
        while self.placement[&shard].len() > replicas
            && let Some(broker) = self.best_removal(shard)
        {
            self.replicas_of(shard).retain(|placed| *placed != broker);
        }
    }

    fn replicas_of(&mut self, shard: ShardId) -> &mut Vec<BrokerId> {
        self.placement.entry(shard).or_default()
    }

    /// The broker to add: of a zone that has none yet, with the fewest replicas.
    fn best_addition(&self, shard: ShardId, except: &BTreeSet<BrokerId>) -> Option<BrokerId> {
        let placed = &self.placement[&shard];
        let load = self.load();
        let free = self.candidates.keys();
        let free = free.filter(|broker| !placed.contains(broker) && !except.contains(broker));
        free.copied()
            .min_by_key(|broker| (self.zone_mates(placed, *broker), load[broker], *broker))
    }

    /// The broker to remove: one that shares its zone, with the most replicas, and not the leader
    /// if it can be helped.
    fn best_removal(&self, shard: ShardId) -> Option<BrokerId> {
        let placed = &self.placement[&shard];
        let load = self.load();
        placed.iter().copied().max_by_key(|broker| {
            let leads = placed.first() == Some(broker);
            (
                self.zone_mates(placed, *broker),
                !leads,
                load[broker],
                *broker,
            )
        })
    }

    /// How many others of the same zone are among `placed`. A broker without a zone is one of its
    /// own.
    fn zone_mates(&self, placed: &[BrokerId], broker: BrokerId) -> usize {
        let Some(zone) = &self.candidates[&broker].zone else {
            return 0;
        };
        let mates = placed.iter().filter(|other| **other != broker);
        mates
            .filter(|other| self.candidates[other].zone.as_ref() == Some(zone))
            .count()
    }

    fn crowding(&self, placed: &[BrokerId]) -> usize {
        placed.iter().map(|b| self.zone_mates(placed, *b)).sum()
    }

    fn load(&self) -> BTreeMap<BrokerId, usize> {
        count(self.candidates, self.placement.values().flatten())
    }

    /// Moves replicas to other zones where that makes a shard safer.
    fn spread_zones(&mut self) {
        let shards: Vec<_> = self.placement.keys().copied().collect();
        for shard in shards {
            // Ends: every move lowers the crowding.
            while let Some(placed) = self.less_crowded(shard) {
                self.placement.insert(shard, placed);
            }
        }
    }

    fn less_crowded(&self, shard: ShardId) -> Option<Vec<BrokerId>> {
        let placed = &self.placement[&shard];
        let crowding = self.crowding(placed);
        let addition = self.best_addition(shard, &BTreeSet::new())?;
        let exchanged = (0..placed.len()).rev().map(|at| {
            let mut exchanged = placed.clone();
            exchanged[at] = addition;
            exchanged
        });
        exchanged
            .filter(|exchanged| self.crowding(exchanged) < crowding)
            .min_by_key(|exchanged| self.crowding(exchanged))
    }

    /// Moves replicas from brokers that have more than others, but never at a zone's cost.
    fn spread_replicas(&mut self) {
        // Ends: every move brings the numbers closer together.
        while let Some((shard, placed)) = self.more_even() {
            self.placement.insert(shard, placed);
        }
    }

    fn more_even(&self) -> Option<(ShardId, Vec<BrokerId>)> {
        let load = self.load();
        let mut by_load: Vec<_> = load.iter().map(|(broker, load)| (*load, *broker)).collect();
        by_load.sort_unstable();
        for (most, from) in by_load.iter().rev() {
            for (least, to) in &by_load {
                if most - least.min(most) < 2 {
                    break;
                }
                if let Some(moved) = self.movable(*from, *to) {
                    return Some(moved);
                }
            }
        }
        None
    }

    /// A shard that can move from one broker to another; rather one that does not lead there.
    fn movable(&self, from: BrokerId, to: BrokerId) -> Option<(ShardId, Vec<BrokerId>)> {
        let moves = self.placement.iter().filter_map(|(shard, placed)| {
            let at = placed.iter().position(|broker| *broker == from)?;
            if placed.contains(&to) {
                return None;
            }
            let mut moved = placed.clone();
            moved[at] = to;
            let safe = self.crowding(&moved) <= self.crowding(placed);
            safe.then_some((at == 0, *shard, moved))
        });
        let best = moves.min_by_key(|(leads, shard, _)| (*leads, *shard))?;
        Some((best.1, best.2))
    }

    /// Puts another replica first where its broker leads fewer shards.
    fn spread_leaders(&mut self) {
        // Ends: every exchange brings the numbers closer together.
        loop {
            let leads = count(
                self.candidates,
                self.placement.values().filter_map(|placed| placed.first()),
            );
            let exchange = self.placement.iter().find_map(|(shard, placed)| {
                let first = placed.first()?;
                let least = placed.iter().min_by_key(|broker| leads[broker])?;
                let at = placed.iter().position(|broker| broker == least)?;
                (leads[least] + 1 < leads[first]).then_some((*shard, at))
            });
            let Some((shard, at)) = exchange else { return };
            self.replicas_of(shard).swap(0, at);
        }
    }
}

fn count<'a>(
    candidates: &BTreeMap<BrokerId, Candidate>,
    placed: impl Iterator<Item = &'a BrokerId>,
) -> BTreeMap<BrokerId, usize> {
    let mut counts: BTreeMap<_, _> = candidates.keys().map(|broker| (*broker, 0)).collect();
    for broker in placed {
        *counts.entry(*broker).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brokers(ids: std::ops::RangeInclusive<u64>) -> BTreeMap<BrokerId, Candidate> {
        ids.map(|id| (BrokerId(id), Candidate::default())).collect()
    }

    fn zoned(zones: &[(u64, &str)]) -> BTreeMap<BrokerId, Candidate> {
        let candidate = |zone: &str| Candidate {
            zone: Some(zone.to_owned()),
        };
        let zones = zones.iter();
        zones
            .map(|(id, zone)| (BrokerId(*id), candidate(zone)))
            .collect()
    }

    fn alone(shards: u32) -> Placement {
        (1..=shards)
            .map(|id| (ShardId(id), vec![BrokerId(1)]))
            .collect()
    }

    fn replicas(placement: &Placement, broker: u64) -> usize {
        let placed = placement.values().flatten();
        placed.filter(|id| id.0 == broker).count()
    }

    fn leads(placement: &Placement, broker: u64) -> usize {
        let first = placement.values().filter_map(|placed| placed.first());
        first.filter(|id| id.0 == broker).count()
    }

    fn moved(before: &Placement, after: &Placement) -> usize {
        let added = after.iter().flat_map(|(shard, placed)| {
            let before = &before[shard];
            placed.iter().filter(|broker| !before.contains(broker))
        });
        added.count()
    }

    #[test]
    fn three_brokers_have_everything_and_lead_a_third_each() {
        let placement = place(&alone(16), &brokers(1..=3), 3);
        for id in 1..=3 {
            assert_eq!(replicas(&placement, id), 16);
            assert!((5..=6).contains(&leads(&placement, id)), "{placement:?}");
        }
        assert_eq!(place(&placement, &brokers(1..=3), 3), placement);
    }

    #[test]
    fn a_fourth_broker_takes_its_share_and_nothing_else_moves() {
        let before = place(&alone(16), &brokers(1..=3), 3);
        let after = place(&before, &brokers(1..=4), 3);
        for id in 1..=4 {
            assert_eq!(replicas(&after, id), 12);
            assert_eq!(leads(&after, id), 4);
        }
        assert_eq!(moved(&before, &after), 12);
    }

    #[test]
    fn a_broker_that_goes_is_replaced_where_it_was() {
        let before = place(&alone(16), &brokers(1..=4), 3);
        let mut rest = brokers(1..=4);
        rest.remove(&BrokerId(2));
        let after = place(&before, &rest, 3);
        assert_eq!(replicas(&after, 2), 0);
        assert_eq!(moved(&before, &after), replicas(&before, 2));
        assert!(after.values().all(|placed| placed.len() == 3));
    }

    #[test]
    fn replicas_of_a_shard_are_in_different_zones() {
        let candidates = zoned(&[(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")]);
        let placement = place(&alone(16), &candidates, 3);
        for placed in placement.values() {
            let zones: BTreeSet<_> = placed.iter().map(|id| &candidates[id].zone).collect();
            assert_eq!(zones.len(), 3, "{placement:?}");
        }
        let share = (1..=3).map(|id| replicas(&placement, id));
        assert!(share.into_iter().all(|count| (4..=7).contains(&count)));
    }

    #[test]
    fn fewer_replicas_are_left_when_fewer_are_wanted() {
        let before = place(&alone(8), &brokers(1..=3), 3);
        let after = place(&before, &brokers(1..=3), 1);
        assert!(after.values().all(|placed| placed.len() == 1));
        assert_eq!(moved(&before, &after), 0);
    }
}
