//! Notices when openraft's core of a group ends by itself.
//!
//! A core that panics takes nothing with it: what it showed last stays, and a leader would be one
//! for ever that answers nobody.

use std::sync::{Arc, atomic::Ordering};

use flumen_protocol::ids::ShardId;
use openraft::{async_runtime::WatchReceiver, errors::Fatal};

use super::Group;

#[cfg(test)]
mod tests;

impl Group {
    /// Makes the broker fail if the core ends before the group is stopped.
    pub(super) fn watch_core(&self) {
        // Of these, unlike of all metrics, there is news rarely.
        let mut news = self.raft.server_metrics();
        let metrics = self.raft.metrics();
        let failure = self.parts.failure.clone();
        let (shard, stopping) = (self.shard, Arc::clone(&self.stopping));
        tokio::spawn(async move {
            while news.changed().await.is_ok() {}
            let reason = match &metrics.borrow_watched().running_state {
                Err(Fatal::Stopped) => return,
                Err(Fatal::StorageError(error)) => error.to_string(),
                // It had no time to say so.
                Ok(()) | Err(Fatal::Panicked) => "it panicked, see the log above".to_owned(),
            };
            if !stopping.load(Ordering::Acquire) {
                failure.report(ended(shard, &reason));
            }
        });
    }

    /// From now on the core is expected to end.
    pub(super) fn expect_end(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

fn ended(shard: ShardId, reason: &str) -> String {
    format!(
        "shard {shard} cannot go on: its consensus has ended by itself ({reason}); what was \
         acknowledged is recovered when the broker starts again"
    )
}
