//! Who belongs to the cluster, and where: keeps the network of brokers in step with the catalog.

mod enrol;
mod forsaken;
mod newcomers;
mod registration;

use std::{collections::BTreeMap, sync::Weak};

use flumen_protocol::ids::BrokerId;
use tokio::sync::watch;

pub(super) use self::{
    enrol::Enrolments,
    forsaken::tell_when_forsaken,
    newcomers::{Told, ask_about_newcomers},
    registration::{Tried, check_own_address},
};
use super::Node;
use crate::{
    catalog::{Catalog, CatalogState},
    identity::Membership,
    peer::Peers,
};

/// The brokers to begin with, until the catalog is heard: those that were members when this one
/// joined.
pub(super) fn introduce(peers: &Peers, membership: &Membership) {
    peers.set_starting(true);
    if let Membership::Joined { members, .. } = membership {
        let members = members
            .iter()
            .map(|member| (member.id, member.address.clone()));
        peers.set_members(members.collect());
    }
}

/// Tells the network whenever brokers come, go or move, or are heard of. Ends with the catalog.
pub(super) fn follow(
    peers: Peers,
    catalog: Catalog,
    membership: &Membership,
    mut heard: watch::Receiver<Told>,
) -> impl Future<Output = ()> + Send + use<> {
    let joined_with: BTreeMap<_, _> = match membership {
        Membership::Bootstrap => BTreeMap::new(),
        Membership::Joined { members, .. } => members
            .iter()
            .map(|member| (member.id, member.address.clone()))
            .collect(),
    };
    let mut states = catalog.watch();
    let mut at_seeds = peers.found();
    async move {
        loop {
            states.borrow_and_update();
            peers.set_removed(catalog.snapshot().removed_brokers.clone());
            let told = heard.borrow_and_update().clone();
            let found = at_seeds.borrow_and_update().clone();
            peers.set_members(members(&catalog, &joined_with, found, told));
            peers.set_starting(false);
            tokio::select! {
                changed = states.changed() => if changed.is_err() {
                    return;
                },
                Ok(()) = heard.changed() => {}
                Ok(()) = at_seeds.changed() => {}
            }
        }
    }
}

impl Node {
    /// This broker's address first, then those of the others.
    pub(super) fn addresses_in(&self, state: &CatalogState) -> Vec<String> {
        let own = self.address.read().clone();
        let others = state.brokers.values().map(|broker| broker.address.clone());
        let others: Vec<_> = others.filter(|address| *address != own).collect();
        std::iter::once(own).chain(others).collect()
    }

    /// Where a client finds the cluster, also while some of its brokers are away.
    pub(super) fn profile_addresses(&self) -> Vec<String> {
        self.addresses_in(&self.catalog.snapshot())
    }
}

/// Keeps `client.toml`, which names the brokers `written`, in step with who is in the cluster, for
/// as long as the node is there, and tells when it was written.
pub(super) async fn keep_profile(
    node: Weak<Node>,
    mut written: Vec<String>,
    changed: watch::Sender<()>,
) {
    let Some(mut states) = node.upgrade().map(|node| node.catalog.watch()) else {
        return;
    };
    // What has changed since it was written counts, too.
    states.mark_changed();
    while states.changed().await.is_ok() {
        let Some(node) = node.upgrade() else { return };
        let addresses = node.profile_addresses();
        if addresses == written {
            continue;
        }
        let write = {
            let addresses = addresses.clone();
            move || node.identity.write_profile(&addresses).map(drop)
        };
        match crate::executor::spawn_blocking(write).await {
            Ok(Ok(())) => {
                written = addresses;
                changed.send_replace(());
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the profile for clients does not name all brokers");
            }
            Err(error) => tracing::error!("writing the profile for clients has failed: {error}"),
        }
    }
}

/// Waits until this broker is no part of its cluster any more, by what the others or the log say.
/// For ever if it stays one.
pub(super) fn removed(
    peers: &Peers,
    catalog: &Catalog,
    this: BrokerId,
) -> impl Future<Output = ()> + Send + use<> {
    let (by_the_others, mut states) = (peers.removed(), catalog.watch());
    let by_the_log = async move {
        let removed = states
            .wait_for(|state| state.is_removed(this))
            .await
            .map(drop);
        // The catalog is closed, and says nothing more.
        if removed.is_err() {
            std::future::pending::<()>().await;
        }
    };
    async move {
        tokio::select! {
            () = by_the_log => {}
            by = by_the_others => tracing::debug!(%by, "told that this broker was removed"),
        }
    }
}

/// All that may be members. What is applied may be old after a start, and the news comes from
/// members only: so those count, too, that the log names, those that this broker joined with, those
/// that another one told of by a newer catalog, and those of the cluster that were found where the
/// operator said: all others may have been replaced while this one was away.
fn members(
    catalog: &Catalog,
    joined_with: &BTreeMap<BrokerId, String>,
    found: BTreeMap<String, BrokerId>,
    told: Told,
) -> Vec<(BrokerId, String)> {
    let state = catalog.snapshot();
    let found = found.into_iter().map(|(address, broker)| (broker, address));
    let mut members: BTreeMap<_, _> = found.collect();
    members.extend(joined_with.clone());
    members.extend(catalog.group().nodes());
    let brokers = state.brokers.values();
    members.extend(brokers.map(|broker| (broker.id, broker.address.clone())));
    if told.version > state.version {
        let told = told.members.into_iter();
        members.extend(told.map(|broker| (broker.id, broker.address)));
    }
    members.retain(|broker, address| !state.is_removed(*broker) && !address.is_empty());
    members.into_iter().collect()
}
