//! Reading from a copy nearby.

use std::time::Duration;

use flumen_client::{Consumer, Offset, Raw, StartAt};
use tokio::time::timeout;

use crate::broker::{PATIENCE, cluster::Cluster, eventually};

async fn next_text(consumer: &mut Consumer<Raw>) -> String {
    let next = timeout(PATIENCE, consumer.next()).await;
    let message = next.expect("a message comes").unwrap().unwrap();
    String::from_utf8(message.value.to_vec()).unwrap()
}

async fn consumer(cluster: &Cluster, zone: &str, start: StartAt) -> Consumer<Raw> {
    let client = cluster.builder(&[0]).zone(zone).connect().await.unwrap();
    let consumer = client.consumer::<Raw>("t").partition(0, start);
    consumer.build().await.unwrap()
}

fn append(cluster: &Cluster, value: &str) {
    cluster.brokers[0].append("t", 0, "", &[value.as_bytes()]);
}

#[tokio::test]
async fn a_consumer_reads_from_the_copy_in_its_zone() {
    let cluster = Cluster::start(3).await;
    append(&cluster, "0");
    let mut consumer = consumer(&cluster, "2", StartAt::Beginning).await;
    assert_eq!(next_text(&mut consumer).await, "0");
    let readers = cluster.brokers.iter().map(super::broker::Broker::readers);
    assert_eq!(readers.collect::<Vec<_>>(), [0, 0, 1]);
}

#[tokio::test]
async fn a_zone_without_a_broker_reads_from_the_leader() {
    let cluster = Cluster::start(3).await;
    append(&cluster, "0");
    let mut consumer = consumer(&cluster, "nowhere", StartAt::Beginning).await;
    assert_eq!(next_text(&mut consumer).await, "0");
    assert_eq!(cluster.brokers[0].readers(), 1);
}

#[tokio::test]
async fn the_end_is_asked_of_the_leader_and_then_read_nearby() {
    let cluster = Cluster::start(3).await;
    append(&cluster, "0");
    let mut consumer = consumer(&cluster, "1", StartAt::End).await;
    assert_eq!(cluster.brokers[0].readers(), 1);
    eventually("it reads nearby", || cluster.brokers[1].readers() == 1).await;
    append(&cluster, "1");
    assert_eq!(next_text(&mut consumer).await, "1");
}

#[tokio::test]
async fn a_copy_that_is_behind_does_not_take_a_consumer_back_or_end_it() {
    let cluster = Cluster::start(3).await;
    for n in ["0", "1", "2"] {
        append(&cluster, n);
    }
    cluster.set_behind(1, 3);
    let mut consumer = consumer(&cluster, "1", StartAt::Offset(Offset(2))).await;
    assert_eq!(next_text(&mut consumer).await, "2");
    append(&cluster, "3");
    assert_eq!(next_text(&mut consumer).await, "3");
}

#[tokio::test]
async fn a_copy_that_is_gone_is_left_for_the_leader() {
    let cluster = Cluster::start(3).await;
    append(&cluster, "0");
    let mut consumer = consumer(&cluster, "2", StartAt::Beginning).await;
    assert_eq!(next_text(&mut consumer).await, "0");
    cluster.cut(2);
    append(&cluster, "1");
    let first = timeout(Duration::from_secs(5), next_text(&mut consumer)).await;
    assert_eq!(first.expect("the leader is read instead"), "1");
}

#[tokio::test]
async fn a_copy_whose_end_nobody_knows_is_read_and_is_not_taken_for_all_that_there_is() {
    let cluster = Cluster::start(3).await;
    for n in ["0", "1", "2"] {
        append(&cluster, n);
    }
    cluster.set_behind(1, 2);
    cluster.elect(None);
    let client = cluster.builder(&[1]).zone("1").connect().await.unwrap();
    let consumer = client.consumer::<Raw>("t").until_end().build();
    let mut consumer = consumer.await.unwrap();
    assert_eq!(next_text(&mut consumer).await, "0");
    eventually("the consumer knows what it waits for", || {
        let setback = consumer.setback();
        setback.is_some_and(|setback| setback.reason.contains("nobody leads"))
    })
    .await;
    cluster.elect(Some(2));
    cluster.set_behind(1, 0);
    assert_eq!(next_text(&mut consumer).await, "1");
    assert_eq!(next_text(&mut consumer).await, "2");
    let end = timeout(PATIENCE, consumer.next()).await;
    assert!(end.expect("the end is known").is_none());
    assert_eq!(consumer.setback(), None);
}
