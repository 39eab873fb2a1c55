//! Leadership of shards that is handed over to other brokers.

use std::time::Duration;

use flumen_protocol::ids::{BrokerId, ShardId};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::Shared;
use crate::{
    catalog::CATALOG_SHARD,
    shard::raft::{Group, GroupView},
};

/// How long the heir of a shard may take before another one may be asked.
const HAND_OVER_RETRY_AFTER: Duration = Duration::from_millis(200);

/// How long until the same heir is asked again. An heir that lacks an entry yet lets the request
/// pass, and meanwhile the leader takes no records: this is how long clients wait then.
const HAND_OVER_ASK_AGAIN_AFTER: Duration = Duration::from_millis(40);

impl Shared {
    /// Asks another voter to take each shard that this broker leads, and waits until it does.
    pub(super) async fn hand_all_over(&self) {
        let data = self.shards.all_data();
        let data = data
            .iter()
            .map(|shard| self.hand_over(shard.id(), shard.group()));
        let catalog = self.hand_over(CATALOG_SHARD, self.shards.catalog().group());
        tokio::join!(join_all(data), catalog);
    }

    /// Returns when another broker leads the group, or none can.
    pub(super) async fn hand_over(&self, shard: ShardId, group: &Group) {
        loop {
            let view = group.view();
            let others = view.voters.iter().filter(|voter| **voter != self.broker);
            // One that was not heard of may still be there; one that was is asked first.
            let best = others.filter_map(|voter| {
                let matched = view.matched.get(voter)?;
                let known = shard == CATALOG_SHARD || self.reports.has_replica(*voter, shard);
                Some((known, matched, *voter))
            });
            let Some((.., heir)) = best.max().filter(|_| view.leads) else {
                return;
            };
            let handed = ask_to_lead(group, &view, heir);
            if timeout(HAND_OVER_RETRY_AFTER, handed).await.is_err() {
                tracing::debug!(%heir, "a shard is not taken over yet");
            }
        }
    }
}

/// Asks an heir until leader or term change. One that stands for election already takes no notice
/// of being asked again; another one would stand against it.
async fn ask_to_lead(group: &Group, view: &GroupView, heir: BrokerId) {
    loop {
        group.transfer_leadership(heir).await;
        let changed = timeout(HAND_OVER_ASK_AGAIN_AFTER, group.changed(view)).await;
        if changed.is_ok() {
            return;
        }
    }
}
