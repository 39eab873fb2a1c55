//! What the leader of the catalog does next: who votes on the catalog, and where shards should be.

use std::collections::{BTreeMap, BTreeSet};

use flumen_protocol::{
    ids::{BrokerId, ShardId},
    message::catalog_voters,
};

use super::{
    placement::{self, Candidate},
    shard_steps::{Step, is_ready, missing},
};
use crate::{catalog::CatalogState, shard::raft::GroupView};

/// Who should have the catalog, and what to do about it next. Every broker has it; some of them
/// vote, and those that do stay.
pub(super) fn next_step(
    state: &CatalogState,
    view: &GroupView,
    reachable: &BTreeSet<BrokerId>,
) -> Step {
    let brokers: BTreeSet<_> = state.brokers.keys().copied().collect();
    let missing = missing(view, &brokers);
    if !missing.is_empty() {
        return Step::AddLearners(missing);
    }
    let voters = voters(state, view);
    if !voters.is_empty() && (view.voters != voters || view.changing) {
        let ready = voters
            .iter()
            .all(|broker| view.leader == Some(*broker) || is_ready(view, reachable, *broker));
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
