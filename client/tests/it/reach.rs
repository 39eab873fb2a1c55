//! Finding brokers that answer among those that do not.

use std::time::{Duration, Instant};

use flumen_client::{Raw, TopicConfig};

use crate::broker::cluster::Cluster;

/// What finding another broker may take in a test that shares the machine with others.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_dead_broker_among_the_addresses_delays_nobody_for_long() {
    let cluster = Cluster::start(3).await;
    cluster.elect(Some(1));
    cluster.cut(0);
    let started = Instant::now();
    let client = cluster.builder(&[0, 1]).connect().await.unwrap();
    let producer = client.producer::<Raw>("t").build().await.unwrap();
    producer.send(Raw::from_static(b"x")).await.unwrap();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_broker_that_accepts_and_never_answers_is_passed_over() {
    let cluster = Cluster::start(3).await;
    cluster.brokers[0].go_mute(true);
    let started = Instant::now();
    let client = cluster.builder(&[0, 1]).connect().await.unwrap();
    assert_eq!(client.admin().list_topics().await.unwrap().len(), 1);
    let config = TopicConfig::default();
    client.admin().create_topic("new", config).await.unwrap();
    assert!(started.elapsed() < 2 * SOON, "{:?}", started.elapsed());
    assert_eq!(client.admin().list_topics().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_leader_that_accepts_and_never_answers_is_left_when_another_one_leads() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let producer = client.producer::<Raw>("t").build().await.unwrap();
    cluster.brokers[0].go_mute(true);
    let sending = tokio::spawn(async move { producer.send(Raw::from_static(b"x")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.elect(Some(2));
    let elected = Instant::now();
    sending.await.unwrap().unwrap();
    assert!(elected.elapsed() < SOON, "{:?}", elected.elapsed());
}

#[tokio::test]
async fn a_change_is_sent_to_a_broker_that_answers_and_its_outcome_is_known() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    client.admin().list_topics().await.unwrap();
    cluster.cut(0);
    let config = TopicConfig::default();
    client.admin().create_topic("new", config).await.unwrap();
}

#[tokio::test]
async fn brokers_that_move_to_other_addresses_are_found_there() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster
        .builder(&[0])
        .metadata_refresh(Duration::from_millis(50))
        .connect()
        .await
        .unwrap();
    let producer = client.producer::<Raw>("t").build().await.unwrap();
    producer.send(Raw::from_static(b"0")).await.unwrap();
    for at in [2, 1, 0] {
        cluster.move_broker(at).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    cluster.elect(Some(2));
    producer.send(Raw::from_static(b"1")).await.unwrap();
    cluster.elect(Some(0));
    producer.send(Raw::from_static(b"2")).await.unwrap();
}
