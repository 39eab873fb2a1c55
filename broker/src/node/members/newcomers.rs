//! Members that this broker has not heard of.
//!
//! News of members comes with the catalog's log, from its leader. Who was away while a broker
//! joined does not know it; should that one lead the catalog by now, it would be refused for ever,
//! and nothing would be heard of it. So when a broker comes that has a certificate of the cluster,
//! and is neither a member nor removed by what is known here, the members that are known are asked.
//!
//! What they say only lets brokers in, and only until the catalog here is as new as theirs was. It
//! opens no door to a broker that was removed: who knows of the removal does not name it, and where
//! the catalog here knows of it, it stays out whatever others say. Should all be so far behind that
//! none of them knows, it is spoken with as before its removal; what Raft takes for decided does
//! not depend on whom one speaks with.

use std::time::Duration;

use flumen_protocol::message::BrokerInfo;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};

use crate::node::remote;
use crate::{
    catalog::{Catalog, CatalogState},
    peer::Peers,
};

/// How long to wait before the others are asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The members as one of them knows them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::node) struct Told {
    /// That of its catalog.
    pub(in crate::node) version: u64,
    pub(in crate::node) members: Vec<BrokerInfo>,
}

impl Told {
    /// What the catalog of this broker says.
    pub(in crate::node) fn by(state: &CatalogState) -> Self {
        Self {
            version: state.version,
            members: state.brokers.values().cloned().collect(),
        }
    }
}

/// Whenever a broker comes that is not known, asks those who are who the members are. Goes on for
/// ever.
pub(in crate::node) async fn ask_about_newcomers(
    peers: Peers,
    catalog: Catalog,
    told: watch::Sender<Told>,
) {
    loop {
        peers.stranger().await;
        let asked = peers.round_trips().into_iter().map(|(broker, _)| {
            let answer = remote::members(&peers, broker);
            let (catalog, told) = (&catalog, &told);
            async move {
                match answer.await {
                    Ok(answer) => {
                        let known = catalog.snapshot().version;
                        told.send_if_modified(|told| {
                            let is_news = answer.version > known.max(told.version);
                            if is_news {
                                *told = answer;
                            }
                            is_news
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%broker, %error, "it does not tell who the members are");
                    }
                }
            }
        });
        join_all(asked).await;
        sleep(ASK_AGAIN_AFTER).await;
    }
}
