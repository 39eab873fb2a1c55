//! Consumers start where they ask to, at every edge.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use flumen_client::{Client, Message, Offset, StartAt, TopicConfig};
use flumen_tests::broker::Broker;

const TOPIC: &str = "edges";
const RECORDS: u64 = 100;
const PER_BATCH: u64 = 7;

/// Records 0 to 99, record `n` at time `1000 + 10 * n`, seven to a batch.
async fn filled() -> (Broker, Client) {
    let broker = Broker::start().await;
    let client = broker.client().await;
    let config = TopicConfig {
        segment_bytes: 64 * 1024,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    for number in 0..RECORDS {
        let value = Bytes::from(number.to_string());
        let message = Message::new(value).timestamp_ms(1000 + 10 * number as i64);
        producer.enqueue(message).await.unwrap();
        if number % PER_BATCH == PER_BATCH - 1 {
            producer.flush().await.unwrap();
        }
    }
    producer.flush().await.unwrap();
    (broker, client)
}

async fn read_from(client: &Client, start: StartAt) -> Vec<u64> {
    let consumer = client.consumer::<Bytes>(TOPIC).from(start).until_end();
    let mut consumer = consumer.build().await.unwrap();
    let mut numbers = Vec::new();
    while let Some(received) = consumer.next().await {
        let received = received.unwrap();
        let number: u64 = std::str::from_utf8(&received.value)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(received.offset.0, number, "offsets count from 0");
        numbers.push(number);
    }
    numbers
}

async fn check_all_starts(client: &Client) {
    let all: Vec<u64> = (0..RECORDS).collect();
    assert_eq!(read_from(client, StartAt::Beginning).await, all);
    assert!(read_from(client, StartAt::End).await.is_empty());
    for offset in 0..=RECORDS {
        let read = read_from(client, StartAt::Offset(Offset(offset))).await;
        assert_eq!(read, all[offset as usize..], "from offset {offset}");
    }
    for number in 0..RECORDS {
        for (time, first) in [
            (1000 + 10 * number, number),
            (1000 + 10 * number + 1, number + 1),
        ] {
            let read = read_from(client, StartAt::Time(time as i64)).await;
            assert_eq!(read, all[first as usize..], "from time {time}");
        }
    }
    assert_eq!(read_from(client, StartAt::Time(i64::MIN)).await, all);
    assert!(read_from(client, StartAt::Time(i64::MAX)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_offset_and_time_is_found_in_memory_and_on_disk() {
    let (mut broker, client) = filled().await;
    check_all_starts(&client).await;
    // After a clean restart nothing is left in memory.
    assert!(broker.stop().success());
    broker.restart().await;
    check_all_starts(&broker.client().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_past_the_end_is_an_error_that_names_the_end() {
    let (_broker, client) = filled().await;
    let start = StartAt::Offset(Offset(RECORDS + 1));
    let consumer = client.consumer::<Bytes>(TOPIC).from(start).until_end();
    let error = match consumer.build().await {
        Err(error) => error,
        Ok(mut consumer) => consumer.next().await.unwrap().unwrap_err(),
    };
    assert!(error.to_string().contains("100"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_at_the_end_gets_what_comes() {
    let (_broker, client) = filled().await;
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::End);
    let mut consumer = consumer.build().await.unwrap();
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    for number in RECORDS..RECORDS + 3 {
        let value = Bytes::from(number.to_string());
        producer.send(Message::new(value.clone())).await.unwrap();
        let received = consumer.next().await.unwrap().unwrap();
        assert_eq!((received.offset.0, received.value), (number, value));
    }
}
