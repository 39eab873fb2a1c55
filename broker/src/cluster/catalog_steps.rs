//! What the leader of the catalog does next: who votes on the catalog, and where shards should be.

use std::collections::{BTreeMap, BTreeSet};

use flumen_protocol::{
    ids::{BrokerId, ShardId},
    message::catalog_voters,
};

use super::{
    placement::{self, Candidate},
    shard_steps::{Step, is_ready, may_become_voters, missing},
};
use crate::{catalog::CatalogState, shard::raft::GroupView};

/// Who should have the catalog, and what to do about it next. Every broker has it; some of them
/// vote, and those that do stay.
pub(super) fn next_step(
    state: &CatalogState,
    view: &GroupView,
    reachable: &BTreeSet<BrokerId>,
) -> Step {
    // It leads until another takes over, which is to make the next change.
    if view.leader.is_none_or(|leader| !view.is_member(leader)) {
        return Step::None;
    }
    let brokers: BTreeSet<_> = state.brokers.keys().copied().collect();
    let missing = missing(view, &brokers);
    if !missing.is_empty() {
        return Step::AddLearners(missing);
    }
    let voters = voters(state, view);
    if !voters.is_empty() && (view.voters != voters || view.changing) {
        let is_ready = |broker| view.leader == Some(broker) || is_ready(view, reachable, broker);
        let ready = may_become_voters(view, &voters, is_ready);
        return if ready || view.changing {
            Step::SetVoters(voters)
        } else {
            Step::None
        };
    }
    let gone: BTreeSet<_> = view.learners.difference(&brokers).copied().collect();
    if gone.is_empty() {
        Step::None
    } else {
        Step::RemoveLearners(gone)
    }
}

/// Who had better lead the catalog where nobody gets to the broker that does.
pub(super) fn heir(
    view: &GroupView,
    reachable: &BTreeSet<BrokerId>,
    degraded: &BTreeSet<BrokerId>,
) -> Option<BrokerId> {
    let is_fit = |broker: &&BrokerId| {
        view.leader != Some(**broker)
            && !degraded.contains(broker)
            && is_ready(view, reachable, **broker)
    };
    view.voters.iter().find(is_fit).copied()
}

fn voters(state: &CatalogState, view: &GroupView) -> BTreeSet<BrokerId> {
    let active: BTreeSet<_> = state.active_brokers().collect();
    let count = catalog_voters(active.len(), state.replication_goal() as usize);
    let (vote, others): (Vec<BrokerId>, Vec<BrokerId>) = active
        .iter()
        .partition(|broker| view.voters.contains(broker));
    // The leader stays, then those that vote, then the others.
    let mut chosen = vote;
    chosen.sort_by_key(|broker| view.leader != Some(*broker));
    chosen.extend(others);
    chosen.into_iter().take(count).collect()
}

/// The shards whose replicas should be elsewhere than the catalog says.
pub(super) fn replaced(state: &CatalogState) -> BTreeMap<ShardId, Vec<BrokerId>> {
    let candidates: BTreeMap<_, _> = state
        .active_brokers()
        .map(|broker| {
            (
                broker,
                Candidate {
                    zone: state.zone_of(broker),
                },
            )
        })
        .collect();
    let replicas = state.replicas_wanted() as usize;
    let mut placed = placement::place(&state.placement, &candidates, replicas);
    placed.retain(|shard, replicas| state.placement.get(shard) != Some(replicas));
    placed
}

#[cfg(test)]
mod tests {
    use flumen_protocol::message::BrokerInfo;

    use super::*;
    use crate::catalog::CatalogCommand;

    fn set(ids: &[u64]) -> BTreeSet<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    fn state_of(brokers: &[u64]) -> CatalogState {
        let mut state = CatalogState::default();
        for id in brokers {
            let broker = BrokerInfo {
                id: BrokerId(*id),
                address: format!("broker-{id}:4650"),
                zone: None,
            };
            let registered = state.apply(CatalogCommand::RegisterBroker { broker });
            registered.expect("nothing speaks against it");
        }
        state
    }

    #[test]
    fn a_broker_that_is_drained_loses_its_vote_though_another_one_is_away() {
        let mut state = state_of(&[1, 2, 3, 4, 5]);
        let drained = state.apply(CatalogCommand::DrainBroker {
            broker: BrokerId(2),
            drain: true,
        });
        drained.expect("there are others");
        let view = GroupView {
            leader: Some(BrokerId(1)),
            leads: true,
            voters: set(&[1, 2, 3]),
            learners: set(&[4, 5]),
            last_index: 50,
            matched: [2, 4, 5].map(|id| (BrokerId(id), 50)).into(),
            ..GroupView::default()
        };
        let step = next_step(&state, &view, &set(&[1, 2, 4, 5]));
        assert_eq!(step, Step::SetVoters(set(&[1, 3, 4])));
        let step = next_step(&state, &view, &set(&[1, 2]));
        assert_eq!(step, Step::None, "nobody is there to take its place");
    }
    #[test]
    fn a_leader_that_was_left_out_takes_nobody_in() {
        let state = state_of(&[2, 3]);
        let mut view = GroupView {
            leader: Some(BrokerId(1)),
            leads: true,
            voters: set(&[2]),
            ..GroupView::default()
        };
        let step = next_step(&state, &view, &set(&[2, 3]));
        assert_eq!(step, Step::None);
        view.learners = set(&[1]);
        let step = next_step(&state, &view, &set(&[2, 3]));
        assert_eq!(step, Step::AddLearners(set(&[3])));
    }
}
