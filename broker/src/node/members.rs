//! Keeps the network of brokers in step with the catalog.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};

use crate::{catalog::CatalogState, identity::Membership, peer::Peers};

/// The brokers to begin with, until the catalog is heard: those that were members when this one
/// joined.
pub(super) fn introduce(peers: &Peers, membership: &Membership) {
    if let Membership::Joined { members, .. } = membership {
        let members = members
            .iter()
            .map(|member| (member.id, member.address.clone()));
        peers.set_members(members.collect());
    }
}

/// Tells the network whenever brokers come, go or move. Ends with the catalog.
pub(super) fn follow(
    peers: Peers,
    mut catalog: watch::Receiver<Arc<CatalogState>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let state = Arc::clone(&catalog.borrow_and_update());
            // A catalog that names no broker has not heard of the cluster yet.
            if !state.brokers.is_empty() {
                let brokers = state.brokers.values();
                let members = brokers.map(|broker| (broker.id, broker.address.clone()));
                peers.set_members(members.collect());
            }
            if catalog.changed().await.is_err() {
                return;
            }
        }
    })
}
