//! Reading what all agree on at a replica that need not lead: the leader says how far the log is
//! committed (its read index), and the replica waits until it has applied as much.
//!
//! Raft's dissertation (Ongaro 2014), section 6.4, describes it. A replica that has just started
//! needs it most: it knows its last checkpoint, and not what of its log is committed.

#[cfg(test)]
mod tests;

use std::time::Duration;

use openraft::{Raft, ReadPolicy, async_runtime::WatchReceiver};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Group, propose::LEADER_RETRY_AFTER};
use crate::shard::{
    machine::RaftMachine,
    rpc::{CallRequest, ReadIndexReply},
    types::TypeConfig,
};

/// How long a replica may take to catch up, finding a leader included: several elections.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);

/// The replica may lack something that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("how far shard {shard} is cannot be known here at the moment: {reason}")]
pub(crate) struct BehindError {
    shard: flumen_protocol::ids::ShardId,
    reason: String,
}

impl Group {
    /// Makes sure that this replica has applied all that was acknowledged before the call, whoever
    /// leads.
    ///
    /// # Errors
    /// When no leader is found, or the replica does not get there, in [`CATCH_UP_TIMEOUT`].
    pub(crate) async fn catch_up(&self) -> Result<(), BehindError> {
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        let index = self.read_index(deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let applied = self.raft.wait(Some(left));
        let applied = applied.applied_index_at_least(Some(index), "the read index is applied");
        applied
            .await
            .map(drop)
            .map_err(|error| self.behind(error.to_string()))
    }

    /// Whether an entry is known to be committed, or there is a leader that will tell. Takes as long
    /// as finding one may.
    pub(crate) async fn is_told_of(&self, index: u64) -> bool {
        let deadline = Instant::now() + CATCH_UP_TIMEOUT;
        if self.read_index(deadline).await.is_ok() {
            return true;
        }
        let metrics = self.raft.metrics();
        let committed = metrics.borrow_watched().local_committed;
        committed.is_some_and(|committed| committed.index >= index)
    }

    /// Up to where the log is committed at least, as its leader says.
    async fn read_index(&self, deadline: Instant) -> Result<u64, BehindError> {
        loop {
            let asked = timeout_at(deadline, self.ask_leader()).await;
            match asked.unwrap_or_else(|_| Err("its leader does not answer".to_owned())) {
                Ok(index) => return Ok(index),
                Err(reason) if Instant::now() + LEADER_RETRY_AFTER >= deadline => {
                    return Err(self.behind(reason));
                }
                Err(_) => sleep(LEADER_RETRY_AFTER).await,
            }
        }
    }

    async fn ask_leader(&self) -> ReadIndexReply {
        match self.leader().0 {
            None => Err("no broker is known to lead it".to_owned()),
            Some(leader) if leader == self.parts.broker => read_index(&self.raft).await,
            Some(leader) => self.ask(leader, CallRequest::ReadIndex).await?,
        }
    }

    fn behind(&self, reason: String) -> BehindError {
        BehindError {
            shard: self.shard,
            reason,
        }
    }
}

/// The read index of a group that is led here.
pub(in crate::shard) async fn read_index(raft: &Raft<TypeConfig, RaftMachine>) -> ReadIndexReply {
    let read = raft.get_read_log_id(ReadPolicy::LeaseRead).await;
    let (read, _) = read.map_err(|error| error.to_string())?;
    Ok(read.index())
}
