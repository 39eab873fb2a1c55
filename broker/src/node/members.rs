//! Keeps the network of brokers in step with the catalog.

use std::collections::BTreeMap;

use flumen_protocol::ids::BrokerId;
use tokio::task::JoinHandle;

use crate::{catalog::Catalog, identity::Membership, peer::Peers};

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
pub(super) fn follow(peers: Peers, catalog: Catalog, membership: &Membership) -> JoinHandle<()> {
    let joined_with: BTreeMap<_, _> = match membership {
        Membership::Bootstrap => BTreeMap::new(),
        Membership::Joined { members, .. } => members
            .iter()
            .map(|member| (member.id, member.address.clone()))
            .collect(),
    };
    let mut states = catalog.watch();
    tokio::spawn(async move {
        loop {
            states.borrow_and_update();
            peers.set_members(members(&catalog, &joined_with));
            if states.changed().await.is_err() {
                return;
            }
        }
    })
}

/// All that may be members. What is applied may be old after a start, and the news comes from
/// members only: so those count, too, that the log names, and those that this broker joined with.
fn members(catalog: &Catalog, joined_with: &BTreeMap<BrokerId, String>) -> Vec<(BrokerId, String)> {
    let state = catalog.snapshot();
    let mut members = joined_with.clone();
    members.extend(catalog.group().nodes());
    let brokers = state.brokers.values();
    members.extend(brokers.map(|broker| (broker.id, broker.address.clone())));
    members.retain(|broker, address| !state.is_removed(*broker) && !address.is_empty());
    members.into_iter().collect()
}
