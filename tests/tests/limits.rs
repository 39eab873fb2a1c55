//! The largest records and batches are stored like all others, and streams that are fewer than those
//! who need one are shared.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flumen_client::{Client, Message, StartAt, TopicConfig};
use flumen_protocol::limits::{BATCH_BYTES_MAX, RECORD_BYTES_MAX};
use flumen_tests::{
    admin::{free_address, get},
    broker::Broker,
};
use tokio::task::JoinSet;

const TOPIC: &str = "large";

/// Two of these fill a batch to the last kilobyte.
const HALF_BATCH: usize = BATCH_BYTES_MAX / 2 - 1024;

async fn lengths(client: &Client) -> Vec<usize> {
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.until_end().build().await.unwrap();
    let mut lengths = Vec::new();
    while let Some(received) = consumer.next().await {
        let value = received.unwrap().value;
        assert!(value.iter().all(|byte| *byte == lengths.len() as u8));
        lengths.push(value.len());
    }
    lengths
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_and_the_largest_batch_are_stored() {
    let mut broker = Broker::start().await;
    let client = broker.client().await;
    let config = TopicConfig::default();
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let producer = client
        .producer::<Bytes>(TOPIC)
        .batch_bytes(BATCH_BYTES_MAX)
        .memory_bytes(4 * BATCH_BYTES_MAX)
        .linger(Duration::from_secs(1))
        .build()
        .await
        .unwrap();
    let sizes = [HALF_BATCH, HALF_BATCH, RECORD_BYTES_MAX, 1];
    for (number, size) in sizes.into_iter().enumerate() {
        let value = Bytes::from(vec![number as u8; size]);
        producer.enqueue(value).await.unwrap();
    }
    producer.flush().await.unwrap();
    let too_large = Bytes::from(vec![0; RECORD_BYTES_MAX + 1]);
    let error = producer.send(too_large).await.unwrap_err();
    assert!(error.to_string().contains("8 MiB"), "{error}");

    assert_eq!(lengths(&client).await, sizes);
    broker.kill();
    broker.restart().await;
    assert_eq!(lengths(&broker.client().await).await, sizes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_small_batches_gets_small_batches_and_refuses_a_record_that_fits_in_none() {
    let mut broker = Broker::start_with(&[
        "--limits-batch-bytes-max=64KiB",
        "--wal-segment-bytes=1MiB",
        "--wal-bytes-max=4MiB",
    ])
    .await;
    let client = broker.client().await;
    let config = TopicConfig::default();
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    // As large as fits in a batch, and as many small ones as make batches of a megabyte.
    let sizes: Vec<_> = std::iter::once(63 * 1024)
        .chain(std::iter::repeat_n(1_000, 3_000))
        .collect();
    for (number, size) in sizes.iter().enumerate() {
        let value = Bytes::from(vec![number as u8; *size]);
        producer.enqueue(value).await.unwrap();
    }
    producer.flush().await.unwrap();
    let too_large = Bytes::from(vec![0; 64 * 1024]);
    let error = producer.send(too_large).await.unwrap_err();
    assert!(!error.is_unknown(), "{error}");
    assert!(
        error.to_string().contains("limits.batch_bytes_max"),
        "{error}"
    );
    assert_eq!(lengths(&client).await, sizes);
    assert!(broker.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_of_more_partitions_than_streams_reaches_them_all() {
    const PARTITIONS: u32 = 200;
    let mut broker = Broker::start_with(&["--limits-streams-per-connection-max=16"]).await;
    let client = broker.client().await;
    let config = TopicConfig {
        partitions: PARTITIONS,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await.unwrap();
    // Less than the time after which a stream that carries nothing ends anyhow.
    let producer = client
        .producer::<Bytes>(TOPIC)
        .delivery_timeout(Duration::from_secs(20))
        .build()
        .await
        .unwrap();
    for round in 0..2_u8 {
        for partition in 0..PARTITIONS {
            let message = Message::new(Bytes::from(vec![round])).partition(partition);
            producer.enqueue(message).await.unwrap();
        }
        producer.flush().await.unwrap();
    }
    // Nor do they keep requests and consumers out.
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.until_end().build().await.unwrap();
    let mut counts = vec![0; PARTITIONS as usize];
    while let Some(received) = consumer.next().await {
        counts[received.unwrap().partition as usize] += 1;
    }
    assert!(counts.iter().all(|count| *count == 2), "{counts:?}");
    assert!(broker.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_written_to_all_the_time_leave_streams_to_the_others() {
    const STREAMS: u32 = 16;
    const MEMORY_BYTES: usize = 128 * 1024;
    let mut broker = Broker::start_with(&["--limits-streams-per-connection-max=16"]).await;
    let client = broker.client().await;
    let config = TopicConfig {
        partitions: 2 * STREAMS,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await.unwrap();
    // Little memory, so that nothing waits for long in the line of its own partition.
    let producer = client.producer::<Bytes>(TOPIC);
    let producer = producer.batch_records(1).memory_bytes(MEMORY_BYTES);
    let producer = producer.build().await.unwrap();
    let message = |partition| Message::new(Bytes::from_static(b"x")).partition(partition);
    let done = Arc::new(AtomicBool::new(false));
    let mut busy = JoinSet::new();
    for partition in 0..STREAMS {
        let (producer, done) = (producer.clone(), Arc::clone(&done));
        busy.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                producer.enqueue(message(partition)).await.unwrap();
            }
        });
    }
    for partition in 0..2 * STREAMS {
        producer.send(message(partition)).await.unwrap();
    }
    // Requests need streams, too.
    client.admin().describe_topic(TOPIC).await.unwrap();
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = busy.join_next().await {
        ended.unwrap();
    }
    producer.flush().await.unwrap();
    assert!(broker.stop().success());
}

async fn create(client: &Client, partitions: u32) {
    let config = TopicConfig {
        partitions,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await.unwrap();
}

fn one(partition: u32) -> Message<Bytes> {
    Message::new(Bytes::from_static(b"x")).partition(partition)
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_leave_streams_to_producers_and_requests() {
    const CONSUMERS: usize = 14;
    let mut broker = Broker::start_with(&["--limits-streams-per-connection-max=16"]).await;
    let client = Client::builder()
        .profile(broker.profile().unwrap())
        .request_timeout(Duration::from_secs(5));
    let client = client.connect().await.unwrap();
    create(&client, 20).await;
    let mut consumers = Vec::new();
    for _ in 0..CONSUMERS {
        consumers.push(client.consumer::<Bytes>(TOPIC).build().await.unwrap());
    }
    let producer = client.producer::<Bytes>(TOPIC);
    // Less than the time after which a stream that carries nothing ends anyhow.
    let producer = producer.delivery_timeout(Duration::from_secs(20));
    let producer = producer.build().await.unwrap();
    for partition in (0..20).chain(0..20) {
        producer.send(one(partition)).await.unwrap();
    }
    client.admin().describe_topic(TOPIC).await.unwrap();
    // Nor does another consumer take what is left.
    let refused = client.consumer::<Bytes>(TOPIC).build().await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("limits.streams_per_connection_max"), "{text}");
    consumers.pop();
    consumers.push(client.consumer::<Bytes>(TOPIC).build().await.unwrap());
    for consumer in &mut consumers {
        for _ in 0..40 {
            consumer.next().await.unwrap().unwrap();
        }
    }
    assert!(broker.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_as_many_streams_end_as_others_need() {
    const STREAMS: u32 = 32;
    let admin = free_address();
    let streams = format!("--limits-streams-per-connection-max={STREAMS}");
    let mut broker = Broker::start_with(&["--admin", &admin.to_string(), &streams]).await;
    let client = broker.client().await;
    create(&client, STREAMS + 2).await;
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    for partition in 0..STREAMS + 2 {
        producer.send(one(partition)).await.unwrap();
    }
    let metrics = get(admin, "/metrics");
    let open = metrics
        .lines()
        .find_map(|l| l.strip_prefix("flumen_streams "));
    let open: u32 = open.unwrap().parse().unwrap();
    assert!(open >= STREAMS - 4, "{open} are left");
    assert!(broker.stop().success());
}
