//! Real brokers, one or a few, that join each other.

mod client;
mod members;
mod partitions;
mod payloads;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flumen_protocol::{
    ids::{BrokerId, Offset, PartitionId},
    join::JoinToken,
    message::{Reply, Request, Response, ShardOverview},
    topic::{TopicChanges, TopicConfig, TopicName},
};
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    catalog::{CATALOG_SHARD, Topic},
    config::ShardCount,
    shard::raft::GroupView,
};

mod gaps;

/// Longer than anything here may take, on a busy machine.
const LONG: Duration = Duration::from_mins(1);

fn config(dir: &Path) -> BrokerConfig {
    BrokerConfig {
        data_dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: None,
        shards: ShardCount::asked(2),
        ..BrokerConfig::default()
    }
}

async fn pair(one: &Path, two: &Path) -> (Broker, Broker) {
    let founder = Broker::bootstrap(config(one)).await.unwrap();
    let joined = join(&founder, two).await;
    (founder, joined)
}

async fn join(founder: &Broker, dir: &Path) -> Broker {
    join_with(founder, config(dir)).await
}

async fn join_with(founder: &Broker, config: BrokerConfig) -> Broker {
    let reply = founder.node().create_join_token(60_000).await;
    let Ok(Response::JoinToken(token)) = reply else {
        panic!("{reply:?}");
    };
    let token: JoinToken = token.0.parse().unwrap();
    Broker::join(config, &token).await.unwrap()
}

/// Starts a broker on a directory that the last one may not have let go yet, nor its address: its tasks
/// end soon.
async fn start_again(dir: &Path) -> Result<Broker, StartError> {
    start_with(config(dir)).await
}

async fn start_with(config: BrokerConfig) -> Result<Broker, StartError> {
    let starting = async {
        loop {
            match Broker::start(config.clone()).await {
                Err(
                    StartError::Identity(IdentityError::InUse { .. }) | StartError::Listen { .. },
                ) => {
                    sleep(Duration::from_millis(20)).await;
                }
                outcome => return outcome,
            }
        }
    };
    timeout(LONG, starting)
        .await
        .expect("a start takes a while")
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(LONG, waiting).await.is_ok(), "still not: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_has_stopped_leaves_nothing_running_and_its_address_free() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    let address = founder.local_addr();
    let mut catalog = founder.node().catalog.watch();
    joined.stop().await;
    founder.stop().await;
    // Ends with the last one who holds on to the catalog.
    let ended = async { while catalog.changed().await.is_ok() {} };
    timeout(LONG, ended).await.expect("the catalog is let go");
    // The endpoint's own task ends a moment later.
    let free = async {
        while std::net::UdpSocket::bind(address).is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, free).await.expect("the address is let go");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_its_admin_address_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = BrokerConfig {
        admin: Some(taken.local_addr().unwrap()),
        ..config(dir.path())
    };
    let refused = Broker::start(config.clone()).await;
    assert!(matches!(refused, Err(StartError::Admin(_))), "{refused:?}");
    drop(taken);
    // At once: nobody has the data directory any more.
    let broker = Broker::start(config).await.unwrap();
    broker.stop().await;
}
