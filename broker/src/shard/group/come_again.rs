//! What a replica may do that was given up here before, and is taken in again.
//!
//! It gets the log from its first entry on, and knows members on the way that count it in: the
//! founder even as the only voter, which openraft has elected at once. But what it confirmed to
//! those members it has given up. So it votes for nobody, and does not stand for election, until
//! it has the entry again that left it out: from there on its log has all that it ever confirmed.

use openraft::{Raft, async_runtime::WatchReceiver};

use super::Group;
use crate::shard::{machine::RaftMachine, types::TypeConfig};

#[cfg(test)]
mod tests;

/// Whether a replica lacks the entry that left out the one before, if there was one.
pub(super) fn is_behind(raft: &Raft<TypeConfig, RaftMachine>, left_by: Option<u64>) -> bool {
    let metrics = raft.metrics();
    metrics.borrow_watched().last_log_index < left_by
}

impl Group {
    /// The entry that left out the replica that was here before, if there was one.
    pub(in crate::shard) fn left_by(&self) -> Option<u64> {
        self.parts.left_by
    }

    /// Lets the replica stand for election once it has the entry that left it out.
    pub(super) fn hold_back(&self) {
        let left_by = self.parts.left_by;
        self.raft.runtime_config().elect(false);
        let raft = self.raft.clone();
        tokio::spawn(async move {
            let wait = raft.wait(None);
            let has_it = wait.metrics(
                move |metrics| metrics.last_log_index >= left_by,
                "the entry is here that left the replica out",
            );
            if has_it.await.is_ok() {
                raft.runtime_config().elect(true);
            }
        });
    }
}
