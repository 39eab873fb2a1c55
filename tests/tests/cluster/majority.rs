//! A broker that is left without a majority says so, and who is missing, and so do commands.

use std::time::{Duration, Instant};

use flumen_client::{AdminError, Client, ErrorCode, Offset, StartAt, TopicConfig};
use flumen_protocol::message::{ConsumeEvent, ConsumeOpen};
use flumen_tests::{cluster::Cluster, raw::RawClient, wait::until};
use tokio::time::timeout;

/// Far less than what a request may take where nothing is known: it must not be waited for.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_a_majority_says_who_is_missing_and_refuses_changes_for_that_reason() {
    let mut cluster = Cluster::start(3).await;
    let ids = [
        cluster.id_of(0).await,
        cluster.id_of(1).await,
        cluster.id_of(2).await,
    ];
    let client = Client::builder()
        .profile(cluster.brokers[0].profile().unwrap())
        .request_timeout(REQUEST_TIMEOUT)
        .connect()
        .await
        .unwrap();
    let admin = client.admin();
    cluster.brokers[1].kill();
    cluster.brokers[2].kill();

    until("the broker that is left misses a majority", || async {
        let status = admin.status().await.unwrap();
        let missing = status.not_ready.unwrap_or_default();
        missing.contains("no majority")
    })
    .await;
    let status = admin.status().await.unwrap();
    let missing = status.not_ready.unwrap();
    assert_eq!(status.catalog.leader, None, "a dead leader is named");
    for (position, id) in ids.iter().enumerate().skip(1) {
        let address = cluster.brokers[position].address();
        let named = format!("broker {id} ({address})");
        assert!(missing.contains(&named), "{missing}");
    }
    // This goes by the brokers' reports, which are believed for a moment.
    until("the state of the cluster names it first", || async {
        let problems = admin.cluster_status().await.unwrap().problems();
        let first = problems.first();
        first.is_some_and(|first| first.starts_with("no majority: 2 of the 3 brokers"))
    })
    .await;

    let begun = Instant::now();
    let created = admin.create_topic("late", TopicConfig::default()).await;
    let described = admin.describe_topic("none").await.map(drop);
    for refused in [created, described] {
        let error: AdminError = refused.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::NoMajority), "{error}");
        assert_eq!(error.to_string(), missing);
    }
    // No assertion of speed: the request time-out alone would be ten minutes.
    assert!(begun.elapsed() < REQUEST_TIMEOUT / 2);

    for broker in &mut cluster.brokers[1..] {
        broker.restart().await;
    }
    cluster.until_healthy().await;
    admin
        .create_topic("late", TopicConfig::default())
        .await
        .unwrap();
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_a_majority_lets_read_what_it_has_and_does_not_call_that_the_end() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let admin = client.admin();
    let config = TopicConfig::default();
    admin.create_topic("orders", config).await.unwrap();
    let producer = client.producer::<String>("orders").build().await.unwrap();
    producer.send("one".to_owned()).await.unwrap();
    let profile = cluster.brokers[0].profile().unwrap();
    let raw = RawClient::connect(&profile).await.unwrap();
    let start = async || {
        let open = ConsumeOpen {
            topic: "orders".parse().unwrap(),
            topic_id: None,
            partitions: vec![(0, StartAt::Beginning)],
        };
        let (_writer, mut reader) = raw.consume(open).await.unwrap();
        match reader.next::<ConsumeEvent>().await.unwrap() {
            Some((ConsumeEvent::Started(starts), _)) => starts[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(start().await.end_offset, Some(Offset(1)));
    cluster.brokers[1].kill();
    cluster.brokers[2].kill();
    // Until the lease is over a leader knows the end by itself.
    // And somebody who waits no longer than a second hears of that.
    until("nobody knows the end", || async {
        let started = timeout(Duration::from_secs(1), start()).await;
        started.is_ok_and(|start| start.end_offset.is_none())
    })
    .await;
    for broker in &mut cluster.brokers[1..] {
        broker.restart().await;
    }
    until("the end is known again", || async {
        start().await.end_offset == Some(Offset(1))
    })
    .await;
    client.close().await;
}
