//! Old records go, and only those: by size, by age, and by key; also across a crash.
//!
//! The broker looks for them twice a minute, so one test waits for all three topics together.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use flumen_client::{Cleanup, Client, Message, PartitionExtent, Received, StartAt, TopicConfig};
use flumen_tests::{broker::Broker, wait::until};

const BY_SIZE: &str = "by-size";
const BY_AGE: &str = "by-age";
const BY_KEY: &str = "by-key";

const SEGMENT_BYTES: u64 = 64 * 1024;
const BATCH_BYTES: usize = 8 * 1024;
const VALUE_BYTES: usize = 1000;
const RECORDS: u64 = 1000;
const KEYS: u64 = 20;

/// By size, this much is kept at least, and not a whole segment more.
const RETENTION_BYTES: u64 = 256 * 1024;

/// Short against how often the broker looks, so that a look finds all that was there before.
const RETENTION_AGE_MS: u64 = 3000;

/// A segment ends behind the batch that fills it.
const SEGMENT_AND_BATCH_BYTES: u64 = SEGMENT_BYTES + 2 * BATCH_BYTES as u64;

/// What was written to a topic, by offset: a key, and a value unless it is a tombstone.
type Written = Vec<(Bytes, Option<Bytes>)>;

/// Writes records with rising numbers; the last time that a key comes up, every third key is
/// deleted.
async fn write(client: &Client, topic: &str, from: u64, count: u64) -> Written {
    let producer = client.producer::<Bytes>(topic).batch_bytes(BATCH_BYTES);
    let producer = producer.build().await.unwrap();
    let mut written = Written::new();
    for number in from..from + count {
        let key = Bytes::from(format!("key {}", number % KEYS));
        let is_last = number + KEYS >= from + count;
        let value = if is_last && number % 3 == 0 {
            producer.enqueue(Message::tombstone(&key)).await.unwrap();
            None
        } else {
            let mut value = format!("{topic} {number} ").into_bytes();
            value.resize(VALUE_BYTES, b'.');
            let value = Bytes::from(value);
            let message = Message::new(value.clone()).key_bytes(key.clone());
            producer.enqueue(message).await.unwrap();
            Some(value)
        };
        written.push((key, value));
    }
    producer.flush().await.unwrap();
    written
}

/// Reads a topic from the beginning; every record must be what was written at its offset.
async fn read(client: &Client, topic: &str, written: &Written) -> Vec<Received<Option<Bytes>>> {
    let consumer = client.consumer::<Bytes>(topic).with_tombstones();
    let consumer = consumer.from(StartAt::Beginning).until_end();
    let mut consumer = consumer.build().await.unwrap();
    let mut read = Vec::<Received<Option<Bytes>>>::new();
    while let Some(received) = consumer.next().await {
        let received = received.unwrap();
        let (key, value) = &written[received.offset.0 as usize];
        assert_eq!(received.key.as_ref(), Some(key), "{}", received.offset);
        assert_eq!(&received.value, value, "{}", received.offset);
        assert!(read.last().is_none_or(|last| last.offset < received.offset));
        read.push(received);
    }
    read
}

async fn describe(client: &Client, topic: &str) -> PartitionExtent {
    let described = client.admin().describe_topic(topic).await.unwrap();
    described.partitions[0].extent.expect("its leader answers")
}

/// Nothing is missing from the start of the log on.
async fn check_whole_from_start(client: &Client, topic: &str, written: &Written) {
    let start = describe(client, topic).await.start_offset.0;
    let offsets: Vec<u64> = read(client, topic, written)
        .await
        .iter()
        .map(|received| received.offset.0)
        .collect();
    let expected: Vec<u64> = (start..written.len() as u64).collect();
    assert_eq!(offsets, expected, "{topic}");
}

/// What was written last to each key is there.
async fn check_newest_of_each_key(client: &Client, written: &Written) -> usize {
    let read = read(client, BY_KEY, written).await;
    let newest: BTreeMap<_, _> = written.iter().cloned().collect();
    let found: BTreeMap<_, _> = read
        .iter()
        .map(|received| (received.key.clone().unwrap(), received.value.clone()))
        .collect();
    assert_eq!(found, newest);
    assert!(newest.values().any(Option::is_none), "there are tombstones");
    read.len()
}

async fn create_topics(client: &Client) {
    let small = TopicConfig {
        segment_bytes: SEGMENT_BYTES,
        retention_age_ms: None,
        ..TopicConfig::default()
    };
    let by_size = TopicConfig {
        retention_bytes: Some(RETENTION_BYTES),
        ..small.clone()
    };
    let by_age = TopicConfig {
        retention_age_ms: Some(RETENTION_AGE_MS),
        ..small.clone()
    };
    let by_key = TopicConfig {
        cleanup: Cleanup::Compact,
        ..small
    };
    for (topic, config) in [(BY_SIZE, by_size), (BY_AGE, by_age), (BY_KEY, by_key)] {
        client.admin().create_topic(topic, config).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_too_old_or_superseded_goes_and_nothing_else() {
    let mut broker = Broker::start().await;
    let client = broker.client().await;
    create_topics(&client).await;
    let by_size = write(&client, BY_SIZE, 0, RECORDS).await;
    let mut by_age = write(&client, BY_AGE, 0, RECORDS).await;
    let by_key = write(&client, BY_KEY, 0, RECORDS).await;

    until("old records are gone by age", async || {
        describe(&client, BY_AGE).await.start_offset.0 == RECORDS
    })
    .await;
    // They are younger than what may go, and the broker will not look for a while.
    by_age.extend(write(&client, BY_AGE, RECORDS, 50).await);
    check_whole_from_start(&client, BY_AGE, &by_age).await;
    let kept = read(&client, BY_AGE, &by_age).await;
    assert_eq!(kept.len(), 50);

    until("old records are gone by size", async || {
        describe(&client, BY_SIZE).await.start_offset.0 > 0
    })
    .await;
    let kept_bytes = describe(&client, BY_SIZE).await.size_bytes;
    let most = RETENTION_BYTES + SEGMENT_AND_BATCH_BYTES;
    assert!(
        (RETENTION_BYTES..most).contains(&kept_bytes),
        "{kept_bytes} bytes are left"
    );
    check_whole_from_start(&client, BY_SIZE, &by_size).await;

    // What is left is a record for each key, and what the last segment holds.
    let record_bytes = VALUE_BYTES as u64;
    let left = KEYS + SEGMENT_AND_BATCH_BYTES / record_bytes;
    until("superseded records are gone", async || {
        describe(&client, BY_KEY).await.size_bytes < 2 * left * record_bytes
    })
    .await;
    // Whoever is close behind still gets the rest, from memory.
    check_newest_of_each_key(&client, &by_key).await;

    let start_by_size = describe(&client, BY_SIZE).await.start_offset;
    for crashes in [false, true] {
        if crashes {
            broker.kill();
        } else {
            assert!(broker.stop().success());
        }
        broker.restart().await;
        let client = broker.client().await;
        assert_eq!(describe(&client, BY_SIZE).await.start_offset, start_by_size);
        check_whole_from_start(&client, BY_SIZE, &by_size).await;
        let start_by_age = describe(&client, BY_AGE).await.start_offset.0;
        assert!((RECORDS..=by_age.len() as u64).contains(&start_by_age));
        check_whole_from_start(&client, BY_AGE, &by_age).await;
        let count = check_newest_of_each_key(&client, &by_key).await as u64;
        assert!((KEYS..=left).contains(&count), "{count} records are left");
    }
}
