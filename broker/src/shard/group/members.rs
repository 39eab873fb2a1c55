//! Who the replicas of a group are.

use std::collections::{BTreeMap, BTreeSet};

use flumen_protocol::ids::BrokerId;
use openraft::{BasicNode, ChangeMembers, async_runtime::WatchReceiver};

use super::Group;

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
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.nodes();
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
        self.change(ChangeMembers::AddNodes(nodes), true).await
    }

    /// Makes these the voters. Each must be a member that has caught up. Voters that are not among
    /// them go, or stay without a vote if they are to be `retained`.
    pub(crate) async fn set_voters(
        &self,
        voters: &BTreeSet<BrokerId>,
        retained: bool,
    ) -> Result<(), MembersError> {
        let ids = voters.iter().map(|id| id.0).collect();
        self.change(ChangeMembers::ReplaceAllVoters(ids), retained)
            .await
    }

    /// Lets brokers go that have no vote.
    pub(crate) async fn remove_learners(
        &self,
        brokers: &BTreeSet<BrokerId>,
    ) -> Result<(), MembersError> {
        let ids = brokers.iter().map(|id| id.0).collect();
        self.change(ChangeMembers::RemoveNodes(ids), false).await
    }

    /// Asks a voter to take over. It does if it has the whole log; nothing happens otherwise.
    pub(crate) async fn transfer_leadership(&self, to: BrokerId) {
        if let Err(error) = self.raft.trigger().transfer_leader(to.0).await {
            tracing::debug!(shard = %self.shard, "leadership was not handed over: {error}");
        }
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, BasicNode>,
        retain: bool,
    ) -> Result<(), MembersError> {
        let changed = self.raft.change_membership(change, retain).await;
        changed.map(drop).map_err(|error| MembersError {
            shard: self.shard,
            reason: error.to_string(),
        })
    }
}
