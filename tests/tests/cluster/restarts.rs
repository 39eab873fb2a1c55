//! Brokers that are stopped and started in order, as in an upgrade.

use bytes::Bytes;
use flumen_client::{StartAt, TopicConfig};
use flumen_tests::{cluster::Cluster, load::Load};

#[tokio::test(flavor = "multi_thread")]
async fn no_send_fails_while_all_brokers_are_restarted_one_after_the_other() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "rolling").await;
    for index in 0..3 {
        assert!(cluster.brokers[index].stop().success());
        load.until_progress().await;
        cluster.brokers[index].restart().await;
        cluster.until_healthy().await;
    }
    load.finish(&cluster, 3).await.assert_no_send_failed();
    for broker in &cluster.brokers {
        let log = broker.log();
        let error = log.lines().find(|line| line.contains("ERROR"));
        assert_eq!(error, None, "an ordinary stop is no error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_move_all_at_once_find_each_other_by_their_seed_addresses() {
    const TOPIC: &str = "moved";
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let config = TopicConfig::default();
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    producer.send(Bytes::from_static(b"before")).await.unwrap();
    for broker in &mut cluster.brokers {
        broker.kill();
        broker.move_away();
    }
    let addresses: Vec<_> = cluster
        .brokers
        .iter()
        .map(|b| b.address().to_string())
        .collect();
    let seeds = format!("--seed-brokers={}", addresses.join(","));
    for broker in &mut cluster.brokers {
        broker.add_argument(&seeds);
        broker.spawn();
    }
    for broker in &mut cluster.brokers {
        broker.until_serving().await;
    }
    cluster.until_healthy().await;

    // The addresses are known from now on.
    for broker in &mut cluster.brokers {
        assert!(broker.stop().success());
        broker.set_arguments(&[]);
    }
    for broker in &mut cluster.brokers {
        broker.spawn();
    }
    for broker in &mut cluster.brokers {
        broker.until_serving().await;
    }
    cluster.until_healthy().await;
    let client = cluster.client().await;
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.build().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().value, "before");
}
