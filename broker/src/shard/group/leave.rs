//! How a broker gives up its replica of a group that others have now.
//!
//! What a replica has confirmed to a leader may be what an entry is committed by, so its log must
//! not go while anybody counts on it. That the catalog has placed it elsewhere says nothing about
//! that, and neither does what the leader told a moment ago: it may have taken the broker in again
//! since. Hence the order: first the replica falls silent, then the leader is asked. What it says
//! then holds for all that was ever confirmed to it: if it counts this broker out, by members that
//! are committed, it would begin with nothing if it took it in again; and every leader after it
//! has those members, too.
//!
//! A replica that is taken in again gets the log from the beginning, and members with it that
//! count it in. So it decides nothing until it has the entry that left it out ([`LeftOut::by`]).

use flumen_protocol::ids::BrokerId;
use openraft::{Raft, ServerState};
use serde::{Deserialize, Serialize};

use super::Group;
use crate::shard::{
    machine::RaftMachine, replicas::ClosedGate, rpc::CallRequest, types::TypeConfig,
};

/// What the replica of a broker is to another one, which should be the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::shard) struct Standing {
    term: u64,
    /// Whether the one that tells leads, and its last members, which are committed, leave the
    /// broker out.
    is_left_out: bool,
    /// The entry with those members.
    members_index: u64,
}

impl Standing {
    /// What a broker is to the group here.
    pub(in crate::shard) async fn of(
        broker: BrokerId,
        raft: &Raft<TypeConfig, RaftMachine>,
    ) -> Result<Self, String> {
        let standing = raft.with_raft_state(move |state| {
            let leads = state.server_state == ServerState::Leader;
            let members = state.membership_state.effective();
            let committed = state.membership_state.committed().log_id() == members.log_id();
            let is_member = members.get_node(&broker.0).is_some();
            Self {
                term: state.vote_ref().leader_id.term,
                is_left_out: leads && committed && !is_member,
                members_index: members.log_id().map_or(0, |id| id.index),
            }
        });
        standing.await.map_err(|error| error.to_string())
    }
}

/// A replica that nobody counts on. Nothing reaches it for as long as this lives.
pub(crate) struct LeftOut {
    /// The index of the entry that left it out.
    pub(crate) by: u64,
    _silent: ClosedGate,
}

impl Group {
    /// Makes sure with the leader that this broker has left the group. `None` if it has not, or
    /// if that cannot be made sure of now.
    pub(crate) async fn leave(&self, leader: BrokerId) -> Option<LeftOut> {
        let silent = self.parts.replicas.silence(self.shard).await?;
        match self.left_out_by(leader).await {
            Ok(by) => by.map(|by| LeftOut {
                by,
                _silent: silent,
            }),
            Err(reason) => {
                let shard = self.shard;
                tracing::debug!(%shard, %leader, reason, "a replica stays for the time being");
                None
            }
        }
    }

    async fn left_out_by(&self, leader: BrokerId) -> Result<Option<u64>, String> {
        let known = self
            .raft
            .with_raft_state(|state| state.vote_ref().leader_id.term);
        let known = known.await.map_err(|error| error.to_string())?;
        let standing: Standing = self.ask(leader, CallRequest::Standing).await?;
        // A leader of an earlier term does not know what was confirmed to the later one.
        let is_left_out = standing.is_left_out && standing.term >= known;
        Ok(is_left_out.then_some(standing.members_index))
    }
}
