//! A node's part in its cluster: it makes itself known, follows the catalog, and brings the shards
//! to what the catalog says while it leads that.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use flumen_protocol::DEFAULT_PORT;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    Node, StartError, cut_off,
    members::{self, Told},
    remote::Remote,
};
use crate::{catalog::CATALOG_SHARD, cluster::Steward, config::BrokerConfig, peer::PeerService};

/// How long to wait before the shards are brought to what the catalog says, after that failed.
const RECONCILE_RETRY_AFTER: Duration = Duration::from_millis(200);

/// How often a broker that waits for its cluster knocks at the others.
const KNOCK_INTERVAL: Duration = Duration::from_millis(500);

/// How often it is said that the broker waits for its cluster.
const STILL_WAITING: Duration = Duration::from_secs(5);

impl Node {
    /// Takes part in the cluster from now on. Returns when this broker knows what the cluster
    /// knows: at once, but for one that has just joined.
    ///
    /// # Errors
    /// When the cluster does not take it in because it was removed.
    pub(super) async fn take_part(self: &Arc<Self>) -> Result<(), StartError> {
        let remote = Arc::new(Remote::new(self));
        self.peers.serve(PeerService::Control, remote);
        let steward = Steward::start(
            self.shards.clone(),
            Arc::clone(&self.network),
            self.reports.clone(),
        );
        *self.steward.lock() = Some(steward);
        let membership = self.identity.membership();
        let (told, heard) = watch::channel(Told::default());
        self.in_background(members::follow(
            self.peers.clone(),
            self.catalog.clone(),
            membership,
            heard,
        ));
        let ask = members::ask_about_newcomers(self.peers.clone(), self.catalog.clone(), told);
        self.in_background(ask);
        self.fail_when_removed();
        self.in_background(Arc::clone(&self.plugins).follow());
        self.in_background(reconcile_when_leading(Arc::downgrade(self)));
        self.in_background(cut_off::look_after(Arc::downgrade(self)));
        self.in_background(members::tell_when_forsaken(self.peers.clone()));
        self.make_known().await;
        if self.shards.leader_of(CATALOG_SHARD) == Some(self.shards.broker()) {
            return Ok(());
        }
        tokio::select! {
            () = self.wait_for_the_catalog() => Ok(()),
            failure = self.shards.failed() => Err(StartError::Failed(failure)),
        }
    }

    /// Looks for the other brokers where the settings say, too.
    pub(super) fn look_for_members(&self, config: &BrokerConfig) {
        if let Some(seeds) = &config.seed_brokers {
            let addresses = seeds.with_port(DEFAULT_PORT);
            self.in_background(self.peers.clone().look_for_members(addresses));
        }
    }

    /// A broker that was removed must not go on: nobody talks to it any more, and what it has is
    /// elsewhere.
    fn fail_when_removed(self: &Arc<Self>) {
        let this = self.identity.broker_id();
        let removed = members::removed(&self.peers, &self.catalog, this);
        let node = Arc::downgrade(self);
        self.in_background(async move {
            removed.await;
            if let Some(node) = node.upgrade() {
                node.shards.fail(format!(
                    "this broker, {this}, was removed from the cluster for good, and its replicas \
                     are on the others; to let it join as a new broker, empty its data directory \
                     {} and start it with --join and a token of `flumen cluster token`",
                    node.identity.data_dir().display()
                ));
            }
        });
    }

    /// Does something beside all else, until the broker stops.
    pub(super) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.background.lock().spawn(work);
    }

    /// Ends what goes on in the background.
    pub(super) async fn stop_background(&self) {
        let mut background = std::mem::take(&mut *self.background.lock());
        background.shutdown().await;
    }

    /// Hands what this broker leads to others, and looks after nothing any more.
    pub(super) async fn stop_taking_part(&self) {
        let steward = self.steward.lock().take();
        if let Some(steward) = steward {
            steward.stop().await;
        }
    }

    async fn wait_for_the_catalog(&self) {
        let mut catalog = self.catalog.watch();
        let arrived = catalog.wait_for(|state| state.cluster_id.is_some());
        tokio::select! {
            _ = arrived => {}
            () = self.knock_at_the_others() => {}
        }
    }

    /// Who waits is usually sent the catalog. One that was removed while it knew nothing yet is
    /// sent nothing, and hears why only when it comes by itself. Goes on for ever.
    async fn knock_at_the_others(&self) {
        let mut told = Instant::now();
        loop {
            self.peers.knock().await;
            sleep(KNOCK_INTERVAL).await;
            if told.elapsed() >= STILL_WAITING {
                told = Instant::now();
                tracing::warn!(
                    "waiting for the cluster to take this broker in; are its other brokers \
                     running, and can they reach {}?",
                    self.address.read()
                );
            }
        }
    }
}

/// A leader of the catalog may have stopped between a change and what follows from it: the next one
/// does that once in its term, and tries until it succeeds. One that was just elected cannot prove
/// yet that it leads, and shards may have no leader at the moment either.
async fn reconcile_when_leading(node: std::sync::Weak<Node>) {
    let mut done_in = None;
    let mut told_in = None;
    let mut made = (0, BTreeSet::new());
    loop {
        let Some(strong) = node.upgrade() else { return };
        let catalog = strong.catalog.clone();
        let view = catalog.group().view();
        let mut is_due = view.leads && done_in != Some(view.term);
        if is_due && catalog.group().confirm_leadership().await.is_ok() {
            if made.0 != view.term {
                made = (view.term, BTreeSet::new());
            }
            match strong.topics.reconcile(&mut made.1).await {
                Ok(()) => {
                    done_in = Some(view.term);
                    is_due = false;
                }
                Err(error) if told_in != Some(view.term) => {
                    told_in = Some(view.term);
                    tracing::warn!(%error, "the partitions are not what the catalog says yet; trying on");
                }
                Err(error) => {
                    tracing::debug!(%error, "the partitions are not what the catalog says yet");
                }
            }
        }
        drop(strong);
        tokio::select! {
            () = catalog.group().changed(&view) => {}
            () = sleep(RECONCILE_RETRY_AFTER), if is_due => {}
        }
    }
}
