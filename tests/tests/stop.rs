//! A broker that is asked to stop does not wait for clients that have nothing under way.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use flumen_client::{StartAt, TopicConfig};
use flumen_tests::broker::Broker;

const TOPIC: &str = "stop";

/// Far below the default of `shutdown_grace`, 10 s, far above what it takes.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn idle_producers_and_consumers_do_not_hold_up_a_stop_and_go_on_after_it() {
    let mut broker = Broker::start().await;
    let client = broker.client().await;
    let config = TopicConfig::default();
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    producer.send(Bytes::from_static(b"before")).await.unwrap();
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.build().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().value, "before");

    let started = Instant::now();
    assert!(broker.stop().success());
    let took = started.elapsed();
    assert!(took < AT_ONCE, "stopping took {took:?}:\n{}", broker.log());

    broker.restart().await;
    producer.send(Bytes::from_static(b"after")).await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().value, "after");
}
