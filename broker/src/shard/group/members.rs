//! Who the replicas of a group are.
//!
//! A leader that is left out leads until another one takes over. It must change nothing more:
//! openraft's core for the shard ends if it is told to. So a change names the entry with the
//! members that it goes by, and openraft makes it only while there is none after that. And a
//! change of voters takes two steps, the second of which openraft makes by itself: begun while
//! one that was interrupted is half-way, the first of them could leave the leader out. So that one
//! is ended first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use flumen_protocol::ids::BrokerId;
use openraft::{BasicNode, ChangeMembers, async_runtime::WatchReceiver, raft::Precondition};

use super::Group;
use crate::shard::types::{Membership, StoredMembership};

#[cfg(test)]
mod tests;

/// The members could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("the replicas of shard {shard} were not changed: {reason}")]
pub(crate) struct MembersError {
    shard: flumen_protocol::ids::ShardId,
    reason: String,
}

impl Group {
    /// The members by the last entry of the log that tells, committed or not, with the addresses
    /// that they had when they were taken in. The founder, who took itself in, had none: openraft
    /// puts a name without a port in its place, and whoever believed that would look for the
    /// founder in vain.
    pub(crate) fn nodes(&self) -> BTreeMap<BrokerId, String> {
        let members = self.members();
        let nodes = members.nodes();
        nodes
            .filter(|(_, node)| node.addr.contains(':'))
            .map(|(id, node)| (BrokerId(*id), node.addr.clone()))
            .collect()
    }

    /// Takes in brokers that get the log and have no vote. Returns when that is committed, not
    /// when they have caught up.
    pub(crate) async fn add_learners(
        &self,
        brokers: &BTreeMap<BrokerId, String>,
    ) -> Result<(), MembersError> {
        let nodes: BTreeMap<_, _> = brokers
            .iter()
            .map(|(id, address)| (id.0, BasicNode::new(address)))
            .collect();
        let change = ChangeMembers::AddNodes(nodes);
        self.change(&self.members(), change, true).await
    }

    /// Makes these the voters. Each must be a member that has caught up. Voters that are not among
    /// them go, or stay without a vote if they are to be `retained`.
    ///
    /// Where a change was interrupted half-way, this only ends it: with the voters from before it
    /// if they are the ones to be, otherwise with those that it was to bring.
    pub(crate) async fn set_voters(
        &self,
        voters: &BTreeSet<BrokerId>,
        retained: bool,
    ) -> Result<(), MembersError> {
        let members = self.members();
        let ids = voters.iter().map(|id| id.0).collect();
        let next = next_voters(members.membership(), ids);
        let change = ChangeMembers::ReplaceAllVoters(next);
        self.change(&members, change, retained).await
    }

    /// Lets brokers go that have no vote.
    pub(crate) async fn remove_learners(
        &self,
        brokers: &BTreeSet<BrokerId>,
    ) -> Result<(), MembersError> {
        let ids = brokers.iter().map(|id| id.0).collect();
        let change = ChangeMembers::RemoveNodes(ids);
        self.change(&self.members(), change, false).await
    }

    /// Asks a voter to take over. It does if it has the whole log; nothing happens otherwise.
    pub(crate) async fn transfer_leadership(&self, to: BrokerId) {
        if let Err(error) = self.raft.trigger().transfer_leader(to.0).await {
            tracing::debug!(shard = %self.shard, "leadership was not handed over: {error}");
        }
    }

    /// The members by the last entry of the log that tells, and which entry that is.
    fn members(&self) -> Arc<StoredMembership> {
        let metrics = self.raft.metrics();
        Arc::clone(&metrics.borrow_watched().membership_config)
    }

    /// Changes these members, if they are still the ones there are and this broker is one of them.
    async fn change(
        &self,
        members: &StoredMembership,
        change: ChangeMembers<u64, BasicNode>,
        retain: bool,
    ) -> Result<(), MembersError> {
        let failed = |reason| MembersError {
            shard: self.shard,
            reason,
        };
        if members.get_node(&self.parts.broker.0).is_none() {
            return Err(failed("this broker is no member any more".to_owned()));
        }
        let still_the_last = Precondition::LastMembershipLogId {
            last_membership_log_id: *members.log_id(),
        };
        let changed = self
            .raft
            .change_membership_if(change, retain, [still_the_last]);
        let changed = changed.await.map(drop);
        changed.map_err(|error| failed(error.to_string()))
    }
}

/// The voters that one change leads to on the way to those that are wanted. Where they were being
/// changed it has one step, so that the leader may be left out by it.
fn next_voters(members: &Membership, wanted: BTreeSet<u64>) -> BTreeSet<u64> {
    match members.get_joint_config().as_slice() {
        [before, .., after] if wanted != *before => after.clone(),
        _ => wanted,
    }
}
