//! What a broker sees of a Raft group.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flumen_protocol::ids::BrokerId;
use openraft::{Instant as _, RaftMetrics, ServerState, async_runtime::WatchReceiver};

use super::Group;
use crate::shard::types::TypeConfig;

/// A Raft group at one moment, as its replica on this broker sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupView {
    /// The leader, if one is known.
    pub(crate) leader: Option<BrokerId>,
    pub(crate) term: u64,
    /// Whether this broker is the leader.
    pub(crate) leads: bool,
    /// Whose votes count. During a change those of before and after.
    pub(crate) voters: BTreeSet<BrokerId>,
    /// Who gets the log and has no vote.
    pub(crate) learners: BTreeSet<BrokerId>,
    /// Whether a change of voters is under way.
    pub(crate) changing: bool,
    /// The last entry of the log here.
    pub(crate) last_index: u64,
    pub(crate) applied_index: u64,
    /// At the leader: up to where each replica has the log; one that has nothing is missing.
    pub(crate) matched: BTreeMap<BrokerId, u64>,
    /// See [`majority_silence`].
    pub(crate) majority_silence: Option<Duration>,
}

/// At a leader that does not decide alone: how long ago it heard of a majority last.
pub(in crate::shard) fn majority_silence(metrics: &RaftMetrics<TypeConfig>) -> Option<Duration> {
    let decides_alone = metrics.membership_config.voter_ids().nth(1).is_none();
    if metrics.state != ServerState::Leader || decides_alone {
        return None;
    }
    metrics.last_quorum_acked.map(|at| at.elapsed())
}

impl Group {
    /// The group as it is now.
    pub(crate) fn view(&self) -> GroupView {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let matched = metrics.replication.iter().flatten();
        GroupView {
            leader: metrics.current_leader.map(BrokerId),
            term: metrics.current_term,
            leads: metrics.state == ServerState::Leader,
            voters: membership.voter_ids().map(BrokerId).collect(),
            learners: membership.learner_ids().map(BrokerId).collect(),
            changing: membership.get_joint_config().len() > 1,
            last_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |log_id| log_id.index),
            matched: matched
                .filter_map(|(id, log_id)| Some((BrokerId(*id), log_id.as_ref()?.index)))
                .collect(),
            majority_silence: majority_silence(&metrics),
        }
    }

    /// Who has a vote as of the last entry that is applied here, which is committed.
    pub(crate) fn applied_voters(&self) -> BTreeSet<BrokerId> {
        let applied = self.machine.applied();
        applied.membership.voter_ids().map(BrokerId).collect()
    }

    /// Waits until leader, term or members may have changed since `seen`.
    pub(crate) async fn changed(&self, seen: &GroupView) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let now = self.view();
            let same = (now.leader, now.term, now.leads) == (seen.leader, seen.term, seen.leads)
                && (&now.voters, &now.learners) == (&seen.voters, &seen.learners);
            if !same {
                return;
            }
            if metrics.changed().await.is_err() {
                // The group has stopped and changes no more.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl GroupView {
    /// How many entries a replica lacks, as far as the leader knows.
    pub(crate) fn lag(&self, replica: BrokerId) -> Option<u64> {
        let matched = self.matched.get(&replica)?;
        Some(self.last_index.saturating_sub(*matched))
    }

    pub(crate) fn is_member(&self, broker: BrokerId) -> bool {
        self.voters.contains(&broker) || self.learners.contains(&broker)
    }
}
