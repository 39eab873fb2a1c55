//! Brokers that cannot reach each other, while clients reach all of them.

use std::time::Duration;

use bytes::Bytes;
use flumen_client::{Client, Message, TopicConfig};
use flumen_tests::{
    broker::Place, cluster::Cluster, load::Load, network::Network, skip::skipped, wait::DEADLINE,
};
use tokio::time::timeout;

use super::rounds;

/// What is lost of what a broker and the others send to each other.
#[derive(Clone, Copy)]
enum Lost {
    /// All of it.
    Everything,
    /// What the broker sends: it hears the others and is not heard.
    Sent,
    /// What the others send to it: it is heard and hears nothing.
    Received,
}

/// Three hosts; says that the test is skipped where there can be none.
fn three_hosts(test: &str) -> Option<Network> {
    Network::build(3)
        .inspect_err(|error| skipped(test, &error.to_string()))
        .ok()
}

async fn cluster_on(network: &Network) -> Cluster {
    let places = network.hosts().iter().map(|host| Place {
        host: Some(host.clone()),
        ..Place::default()
    });
    Cluster::start_at(places.collect(), &[]).await
}

/// Cuts a leader off again and again: others take over, and nothing of what it has does harm when
/// it is back.
async fn cut_leaders_off(network: &Network, topic: &str, lost: Lost) {
    let cluster = cluster_on(network).await;
    let load = Load::start(&cluster, topic).await;
    for round in 0..rounds().div_ceil(2) {
        let status = cluster.until_healthy().await;
        // The catalog's leader first, then one that leads data.
        let shard = &status.shards[round as usize % status.shards.len()];
        let leader = cluster.position(&status, shard.leader.unwrap());
        for other in network.others(leader) {
            match lost {
                Lost::Everything => network.cut_both(leader, other),
                Lost::Sent => network.cut(leader, other),
                Lost::Received => network.cut(other, leader),
            }
        }
        load.until_progress().await;
        network.mend();
        load.until_progress().await;
    }
    cluster.until_healthy().await;
    load.finish(&cluster, 3).await.assert_no_send_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_does_no_harm_when_it_is_back() {
    let test = "a_leader_that_is_cut_off_is_replaced_and_does_no_harm_when_it_is_back";
    if let Some(network) = three_hosts(test) {
        cut_leaders_off(&network, "cut-off", Lost::Everything).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_not_heard_any_more_is_replaced() {
    let test = "a_leader_that_is_not_heard_any_more_is_replaced";
    if let Some(network) = three_hosts(test) {
        cut_leaders_off(&network, "unheard", Lost::Sent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_nothing_any_more_is_replaced() {
    let test = "a_leader_that_hears_nothing_any_more_is_replaced";
    if let Some(network) = three_hosts(test) {
        cut_leaders_off(&network, "deaf", Lost::Received).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_brokers_that_reach_each_other_only_through_a_third_disturb_nobody() {
    let test = "two_brokers_that_reach_each_other_only_through_a_third_disturb_nobody";
    let Some(network) = three_hosts(test) else {
        return;
    };
    let cluster = cluster_on(&network).await;
    let load = Load::start(&cluster, "bent").await;
    for third in 0..3 {
        let mut apart = network.others(third);
        network.cut_both(apart.next().unwrap(), apart.next().unwrap());
        for _ in 0..5 {
            load.until_progress().await;
        }
        network.mend();
        cluster.until_healthy().await;
    }
    load.finish(&cluster, 3).await.assert_no_send_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_broker_is_cut_off_goes_on_with_the_new_leader() {
    let test = "a_consumer_whose_broker_is_cut_off_goes_on_with_the_new_leader";
    let Some(network) = three_hosts(test) else {
        return;
    };
    let cluster = cluster_on(&network).await;
    let config = TopicConfig::default();
    let writing = cluster.client().await;
    let addresses = cluster.brokers.iter().map(|b| b.address().to_string());
    let reading = Client::builder()
        .profile(cluster.brokers[0].profile().unwrap())
        .brokers(addresses)
        .metadata_refresh(Duration::from_hours(1));
    let reading = reading.connect().await.unwrap();
    reading.admin().create_topic("quiet", config).await.unwrap();
    let described = reading.admin().describe_topic("quiet").await.unwrap();
    let status = cluster.until_healthy().await;
    let leader = cluster.position(&status, described.partitions[0].leader.unwrap());
    // Which asks for nothing but what it needs to read.
    let mut consumer = reading.consumer::<Bytes>("quiet").build().await.unwrap();
    for other in network.others(leader) {
        network.cut_both(leader, other);
    }
    let producer = writing.producer::<Bytes>("quiet").build().await.unwrap();
    let message = Message::new(Bytes::from_static(b"x")).partition(0);
    producer.send(message).await.unwrap();
    let received = timeout(DEADLINE, consumer.next()).await;
    let received = received.expect("it is read elsewhere").unwrap().unwrap();
    assert_eq!(&received.value[..], b"x");
    network.mend();
    cluster.until_healthy().await;
}
