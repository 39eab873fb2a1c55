//! Brokers that join, are drained and removed, and are replaced.

use flumen_client::BrokerId;
use flumen_protocol::message::{BrokerOverview, ClusterStatus, Request, Response};
use flumen_tests::{broker::Broker, cluster::Cluster, load::Load, raw::RawClient, wait::until};

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_broker_joins_under_load_and_a_drained_one_ends_with_nothing() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "moved").await;
    let fourth = cluster.join().await;
    let joined = cluster.id_of(fourth).await;
    let has_its_share = |status: &ClusterStatus| {
        let broker = status.broker(joined);
        broker.is_some_and(|broker| broker.replicas > 0) && status.moves_left == 0
    };
    cluster
        .until("the fourth broker has its share", has_its_share)
        .await;
    load.until_progress().await;

    // The one that made the cluster is not needed any more than others are.
    let drained = cluster.id_of(0).await;
    let client = cluster.client().await;
    client.admin().drain_broker(drained).await.unwrap();
    cluster
        .until("the drained broker has nothing", |status| {
            let broker = status.broker(drained);
            broker.is_some_and(BrokerOverview::is_drained)
        })
        .await;
    let profile = cluster.brokers[0].profile().unwrap();
    let own = RawClient::connect(&profile).await.unwrap();
    until("the drained broker itself has no shard left", || async {
        match own.request(Request::Status).await.unwrap() {
            Ok(Response::Status(status)) => status.shards.is_empty(),
            other => panic!("{other:?}"),
        }
    })
    .await;
    load.until_progress().await;
    client.admin().remove_broker(drained).await.unwrap();
    cluster.brokers[0].assert_ends_as_removed(0);
    cluster.until_settled().await;
    load.until_progress().await;
    load.finish(&cluster, 3).await.assert_no_send_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_broker_comes_back_as_a_new_one_and_the_old_one_disturbs_nobody() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "replaced").await;
    let old_id = cluster.id_of(2).await;
    cluster.brokers[2].kill();
    load.until_progress().await;

    // The disk of the dead broker is put aside; an empty one is put in its place.
    let aside = tempfile::tempdir().unwrap();
    let old_disk = aside.path().join("data");
    std::fs::rename(cluster.brokers[2].data_dir(), &old_disk).unwrap();
    let token = cluster.token().await;
    cluster.brokers[2].set_arguments(&["--join", &token, "--shards=6"]);
    cluster.brokers[2].restart().await;
    let new_id = cluster.id_of(2).await;
    assert_ne!(new_id, old_id);

    remove_the_dead(&cluster, old_id).await;
    let status = cluster.until_settled().await;
    assert!(status.broker(old_id).is_none(), "{status:#?}");
    assert!(status.broker(new_id).unwrap().replicas > 0);
    load.until_progress().await;

    // The removed broker is told so and ends, and what it has disturbs nobody.
    let mut returned = Broker::prepare_in(&old_disk, &["--shards=6"]);
    returned.spawn();
    returned.assert_ends_as_removed(0);
    load.until_progress().await;
    let status = cluster.until_settled().await;
    assert!(status.broker(old_id).is_none(), "{status:#?}");
    load.finish(&cluster, 3).await.assert_no_send_failed();
}

/// A broker that was heard of a moment ago cannot be removed; soon it is known to be dead.
async fn remove_the_dead(cluster: &Cluster, id: BrokerId) {
    let client = cluster.client().await;
    until("the dead broker can be removed", || async {
        client.admin().remove_broker(id).await.is_ok()
    })
    .await;
}
