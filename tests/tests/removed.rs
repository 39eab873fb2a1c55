//! A broker that was removed from its cluster is told so, and ends with what to do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use flumen_client::{Admin, BrokerId};
use flumen_tests::{
    admin::{free_address, get},
    broker::Broker,
    cluster::id_of,
    wait::until,
};

const TOKEN_TTL: Duration = Duration::from_mins(10);

/// A founder and a broker that has joined it.
async fn pair() -> (Broker, Broker, std::net::SocketAddr) {
    let admin = free_address();
    let founder = Broker::start_with(&["--shards=2", &format!("--admin={admin}")]).await;
    let client = founder.client().await;
    let token = client.admin().create_join_token(TOKEN_TTL).await.unwrap();
    let joined = Broker::start_with(&["--join", &token]).await;
    (founder, joined, admin)
}

async fn drain(admin: &Admin, broker: BrokerId) {
    admin.drain_broker(broker).await.unwrap();
    until("nothing is left on the drained broker", || async {
        let status = admin.cluster_status().await.unwrap();
        let found = status.broker(broker);
        found.is_some_and(|found| found.replicas == 0) && status.moves_left == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_removed_ends_with_code_1_and_what_to_do_and_so_does_every_start() {
    let (founder, mut joined, admin_address) = pair().await;
    let client = founder.client().await;
    let admin = client.admin();
    let id = id_of(&joined).await;
    drain(&admin, id).await;
    admin.remove_broker(id).await.unwrap();
    joined.assert_ends_as_removed(0);

    let before = joined.log().len();
    joined.spawn();
    joined.assert_ends_as_removed(before);
    assert!(get(admin_address, "/readyz").starts_with("HTTP/1.0 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_asked_to_remove_itself_is_known_to_be_removed() {
    let (founder, mut joined, _) = pair().await;
    let through_founder = founder.client().await;
    let id = id_of(&joined).await;
    drain(&through_founder.admin(), id).await;
    let client = joined.client().await;
    client.admin().remove_broker(id).await.unwrap();
    let status = through_founder.admin().cluster_status().await.unwrap();
    assert!(status.broker(id).is_none());
    joined.assert_ends_as_removed(0);
}

/// Kills a broker, and removes it while it is away.
async fn remove_while_away(founder: &Broker, joined: &mut Broker) {
    let client = founder.client().await;
    let admin = client.admin();
    let id = id_of(joined).await;
    drain(&admin, id).await;
    joined.kill();
    until("the broker that is away is removed", || async {
        // A request that reached nobody but the dead one has an outcome that is not known.
        let _ = admin.remove_broker(id).await;
        let status = admin.cluster_status().await;
        status.is_ok_and(|status| status.broker(id).is_none())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_removed_while_it_was_away_is_told_when_it_comes_back() {
    let (founder, mut joined, _) = pair().await;
    remove_while_away(&founder, &mut joined).await;

    let before = joined.log().len();
    joined.spawn();
    joined.assert_ends_as_removed(before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_removed_while_it_was_away_is_told_at_a_seed_address_where_the_others_moved_to()
 {
    let (mut founder, mut joined, _) = pair().await;
    remove_while_away(&founder, &mut joined).await;
    founder.kill();
    founder.move_away();
    founder.restart().await;

    let before = joined.log().len();
    joined.add_argument(&format!("--seed-brokers={}", founder.address()));
    joined.spawn();
    joined.assert_ends_as_removed(before);
}
