//! A node's part in its cluster: it makes itself known, follows the catalog, and brings the shards
//! to what the catalog says while it leads that.

use std::{sync::Arc, time::Duration};

use flumen_protocol::message::BrokerInfo;
use tokio::time::sleep;

use super::{Node, members, remote::Remote};
use crate::{catalog::CATALOG_SHARD, cluster::Steward, peer::PeerService, shard::raft::GroupView};

/// How long to wait before the cluster is told again where this broker is, after it was not heard.
const REGISTER_RETRY_AFTER: Duration = Duration::from_millis(500);

/// How often it is said that the broker waits for its cluster.
const STILL_WAITING: Duration = Duration::from_secs(5);

impl Node {
    /// Takes part in the cluster from now on. Returns when this broker knows what the cluster
    /// knows: at once, but for one that has just joined.
    pub(super) async fn take_part(self: &Arc<Self>) {
        let remote = Arc::new(Remote::new(self));
        self.peers.serve(PeerService::Control, remote);
        let node = Arc::downgrade(self);
        let degraded = move || node.upgrade().and_then(|node| node.degraded());
        let steward = Steward::start(
            self.shards.clone(),
            Arc::clone(&self.network),
            self.reports.clone(),
            degraded,
        );
        *self.steward.lock() = Some(steward);
        let membership = self.identity.membership();
        members::follow(self.peers.clone(), self.catalog.clone(), membership);
        tokio::spawn(Arc::clone(&self.plugins).follow());
        tokio::spawn(reconcile_when_leading(Arc::downgrade(self)));
        let leads = self.shards.leader_of(CATALOG_SHARD) == Some(self.shards.broker());
        if leads {
            self.register().await;
        } else {
            tokio::spawn(keep_registering(Arc::downgrade(self)));
            self.wait_for_the_catalog().await;
        }
    }

    async fn wait_for_the_catalog(&self) {
        let mut catalog = self.catalog.watch();
        loop {
            let arrived = catalog.wait_for(|state| state.cluster_id.is_some());
            match tokio::time::timeout(STILL_WAITING, arrived).await {
                Ok(_) => return,
                Err(_) => tracing::warn!(
                    "waiting for the cluster to take this broker in; are its other brokers \
                     running, and can they reach {}?",
                    self.address.read()
                ),
            }
        }
    }

    /// Tells the cluster where this broker can be reached; true if that is known now.
    async fn register(&self) -> bool {
        let broker = BrokerInfo {
            id: self.identity.broker_id(),
            address: self.address.read().clone(),
            zone: self.zone.clone(),
        };
        match self.catalog.register_broker(broker).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "the cluster does not know yet where this broker is");
                false
            }
        }
    }
}

async fn keep_registering(node: std::sync::Weak<Node>) {
    while let Some(node) = node.upgrade() {
        if node.register().await {
            return;
        }
        drop(node);
        sleep(REGISTER_RETRY_AFTER).await;
    }
}

/// A leader of the catalog may have stopped between a change and what follows from it.
async fn reconcile_when_leading(node: std::sync::Weak<Node>) {
    let mut seen = GroupView::default();
    loop {
        let Some(strong) = node.upgrade() else { return };
        let catalog = strong.catalog.clone();
        let view = catalog.group().view();
        let has_taken_over = view.leads && (!seen.leads || seen.term != view.term);
        if has_taken_over
            && catalog.group().confirm_leadership().await.is_ok()
            && let Err(error) = strong.topics.reconcile().await
        {
            tracing::warn!(%error, "the partitions are not what the catalog says yet");
        }
        seen = view;
        drop(strong);
        catalog.group().changed(&seen).await;
    }
}
