//! The replicas of this broker: opened, repaired, helped on, and given up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flumen_protocol::ids::ShardId;
use tokio::time::{sleep, timeout};

use super::{HAND_OVER_TIMEOUT, Memory, Shared, memory::Standing};
use crate::{
    catalog::{CATALOG_SHARD, CatalogState},
    shard::raft::GroupView,
};

/// How long to wait before something is tried again with a replica that has failed: what is wrong
/// with its files is told each time.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Shared {
    /// Begins to open the replicas that should be here and are not. Nobody waits for it: whoever
    /// removes the files of another one has its way first.
    pub(super) fn open_replicas(&self, memory: &mut Memory, state: &CatalogState) {
        for shard in state.shards_of(self.broker) {
            if self.shards.has_replica(shard) {
                continue;
            }
            let shards = self.shards.clone();
            memory.begin(shard, async move {
                if let Err(error) = shards.open_replica(shard).await {
                    tracing::error!(%shard, %error, "the replica does not open");
                    sleep(RETRY_AFTER).await;
                }
            });
        }
    }

    /// Begins to repair the replicas with damaged files that others have, too. One that is open
    /// must not lead any more first, and stays open while the others are no majority without it:
    /// what is whole of it is needed.
    pub(super) fn repair_replicas(
        self: &Arc<Self>,
        memory: &mut Memory,
        state: &CatalogState,
        views: &BTreeMap<ShardId, GroupView>,
    ) {
        let damaged = self.shards.with_damage();
        memory.stuck.keep_only(&damaged);
        for shard in damaged {
            let (Some(data), Some(view)) = (self.shards.data(shard), views.get(&shard)) else {
                continue;
            };
            let this = Arc::clone(self);
            let present = self.present(state, shard);
            if view.leads {
                let stuck = memory.stuck.clone();
                let standing = Standing {
                    term: view.term,
                    voters: view.voters.clone(),
                    present,
                };
                memory.begin(shard, async move {
                    let handed = this.hand_over(shard, data.group());
                    if timeout(HAND_OVER_TIMEOUT, handed).await.is_err() || data.leads() {
                        // It stays so for as long as the broker is alone: the status shows it.
                        if stuck.is_news(shard, standing) {
                            tracing::warn!(%shard, "files are damaged, and no other broker can lead");
                        }
                        sleep(RETRY_AFTER).await;
                    }
                });
                continue;
            }
            let led = self
                .reports
                .led(shard)
                .filter(|(_, led)| led.term >= view.term);
            if led.is_some_and(|(_, led)| led.goes_on(self.broker, &present)) {
                memory.begin(shard, async move {
                    if let Err(error) = this.shards.close_damaged(shard).await {
                        tracing::error!(%shard, %error, "a damaged replica does not close");
                        sleep(RETRY_AFTER).await;
                    }
                });
            }
        }
        for shard in self.shards.unrepaired() {
            let this = Arc::clone(self);
            memory.begin(shard, async move {
                if let Err(error) = this.shards.repair(shard).await {
                    tracing::error!(%shard, %error, "a damaged replica is not repaired");
                    sleep(RETRY_AFTER).await;
                }
            });
        }
    }

    /// Begins to apply what other replicas vouch for where no leader tells what is committed.
    pub(super) fn apply_vouched(&self, memory: &mut Memory) {
        for shard in self.shards.vouched_for() {
            let shards = self.shards.clone();
            memory.begin(shard, async move {
                if let Err(error) = shards.apply_vouched(shard).await {
                    tracing::error!(%shard, %error, "what another replica has applied is not applied");
                    sleep(RETRY_AFTER).await;
                }
            });
        }
    }

    /// Begins to give up the replicas that are elsewhere now, by the catalog and by their leader.
    /// Both may be old news: whether it is so is made sure of then.
    pub(super) fn give_replicas_up(
        &self,
        memory: &mut Memory,
        state: &CatalogState,
        views: &BTreeMap<ShardId, GroupView>,
    ) {
        for (shard, view) in views {
            let placed = state.placement.get(shard);
            let placed = placed.is_none_or(|placed| placed.contains(&self.broker));
            if placed || *shard == CATALOG_SHARD || view.leads {
                continue;
            }
            let Some((leader, led)) = self.reports.led(*shard) else {
                continue;
            };
            let left = led.term >= view.term && !led.members.contains(&self.broker);
            let reachable = self.reports.is_reachable(leader);
            if !left || !reachable {
                continue;
            }
            let (shards, shard) = (self.shards.clone(), *shard);
            memory.begin(shard, async move {
                if let Err(error) = shards.give_replica_up(shard, leader).await {
                    tracing::error!(%shard, %error, "the replica, which is elsewhere now, is not removed");
                    sleep(RETRY_AFTER).await;
                }
            });
        }
    }
}
