//! What producers promise while all goes well; the rest is in [`trouble`].

mod trouble;

use std::{collections::BTreeSet, time::Duration};

use flumen_client::{
    Codec, Message, NoSuchPartition, Offset, Producer, Raw, RequestError, SendError,
    config::TIMEOUT_MAX,
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::broker::{Broker, Fault, eventually};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    item: String,
}

async fn broker_with_producer() -> (Broker, Producer<Raw>) {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let producer = client.producer::<Raw>("t").build().await.unwrap();
    (broker, producer)
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn a_receipt_says_where_the_message_lies() {
    let (broker, producer) = broker_with_producer().await;
    for n in 0..3_u32 {
        let receipt = producer.send(Raw::from(n.to_string())).await.unwrap();
        assert_eq!(receipt.offset, Some(Offset(n.into())));
        assert_eq!((receipt.partition, receipt.append_time_ms), (0, 77));
        assert!(!receipt.duplicate);
    }
    assert_eq!(broker.values("t", 0), numbers(0..3));
}

#[tokio::test]
async fn many_in_flight_share_batches_and_keep_their_order() {
    let (broker, producer) = broker_with_producer().await;
    let mut pending = Vec::new();
    for n in 0..1_000 {
        pending.push(producer.submit(Raw::from(n.to_string())).await.unwrap());
    }
    for (n, receipt) in join_all(pending).await.into_iter().enumerate() {
        assert_eq!(receipt.unwrap().offset, Some(Offset(n as u64)));
    }
    assert_eq!(broker.values("t", 0), numbers(0..1_000));
    let batches = broker.batches("t", 0).len();
    assert!(batches < 100, "{batches} batches");
}

#[tokio::test]
async fn enqueued_messages_are_durable_after_a_flush() {
    let (broker, producer) = broker_with_producer().await;
    for n in 0..5_000 {
        producer.enqueue(Raw::from(n.to_string())).await.unwrap();
    }
    producer.flush().await.unwrap();
    assert_eq!(broker.values("t", 0), numbers(0..5_000));
    producer.flush().await.unwrap();
}

#[tokio::test]
async fn messages_handed_over_together_keep_their_order_among_others() {
    let (broker, producer) = broker_with_producer().await;
    let together = |range: std::ops::Range<u32>| range.map(|n| Raw::from(n.to_string()));
    producer.enqueue_all(together(0..3_000)).await.unwrap();
    producer.enqueue(Raw::from("3000")).await.unwrap();
    let mut receipts = Vec::new();
    let submitted = producer.submit_all(together(3_001..5_000), &mut receipts);
    submitted.await.unwrap();
    for (n, receipt) in join_all(receipts).await.into_iter().enumerate() {
        assert_eq!(receipt.unwrap().offset, Some(Offset(3_001 + n as u64)));
    }
    producer.enqueue_all(together(0..0)).await.unwrap();
    assert_eq!(broker.values("t", 0), numbers(0..5_000));
}

#[tokio::test]
async fn of_messages_handed_over_together_those_before_a_bad_one_are_sent() {
    let (broker, producer) = broker_with_producer().await;
    let with_a_bad_one = |bad: usize| {
        (0..200).map(move |n| {
            let message = Message::new(Raw::from(n.to_string()));
            if n == bad {
                message.partition(9)
            } else {
                message
            }
        })
    };
    let error = producer.enqueue_all(with_a_bad_one(150)).await.unwrap_err();
    assert_eq!(error.taken, 150);
    assert!(matches!(error.source, SendError::UnknownPartition(_)));
    producer.flush().await.unwrap();
    assert_eq!(broker.values("t", 0), numbers(0..150));
    let mut receipts = Vec::new();
    let submitted = producer.submit_all(with_a_bad_one(7), &mut receipts);
    assert_eq!(submitted.await.unwrap_err().taken, 7);
    assert_eq!(receipts.len(), 7);
    for receipt in join_all(receipts).await {
        receipt.unwrap();
    }
}

#[tokio::test]
async fn keys_keep_to_their_partitions_and_messages_without_one_reach_all() {
    let broker = Broker::start();
    broker.create_topic("t", 4);
    let client = broker.client().await;
    let producer = client
        .producer::<String>("t")
        .batch_records(5)
        .build()
        .await
        .unwrap();
    let mut by_key = Vec::new();
    for n in 0..40 {
        let message = Message::new(format!("{n}")).key(format!("key {}", n % 4));
        by_key.push(producer.send(message).await.unwrap().partition);
    }
    assert!((0..36).all(|n| by_key[n] == by_key[n + 4]));
    let mut reached = BTreeSet::new();
    for n in 0..8 {
        let receipt = producer.send(format!("{n}")).await.unwrap();
        reached.insert(receipt.partition);
    }
    assert_eq!(reached.len(), 4);
    let chosen = producer
        .send(Message::new("x".to_owned()).partition(3))
        .await;
    assert_eq!(chosen.unwrap().partition, 3);
    let error = producer
        .send(Message::new("x".to_owned()).partition(4))
        .await;
    assert!(matches!(
        error.unwrap_err(),
        SendError::UnknownPartition(NoSuchPartition { partitions: 4, .. })
    ));
}

#[tokio::test]
async fn keys_headers_times_and_types_travel_with_the_message() {
    let broker = Broker::start();
    broker.create_topic("orders", 1);
    let client = broker.client().await;
    let producer = client
        .producer::<Order>("orders")
        .json()
        .compression(Codec::Zstd)
        .build()
        .await
        .unwrap();
    let order = Order {
        id: 7,
        item: "tea".repeat(100),
    };
    let message = Message::new(order.clone())
        .key("k")
        .header("a", "b")
        .timestamp_ms(123);
    producer.send(message).await.unwrap();
    let batch = &broker.batches("orders", 0)[0];
    assert_eq!(batch.header().codec, Codec::Zstd);
    let columns = batch.columns().unwrap();
    assert_eq!(columns.content_type(), "application/json; type=Order");
    let record = columns.record(0);
    assert_eq!(record.timestamp_ms, 123);
    assert_eq!(record.key, Some(&b"k"[..]));
    assert_eq!(record.headers.get("a"), Some(&b"b"[..]));
    let stored: Order = serde_json::from_slice(record.value.unwrap()).unwrap();
    assert_eq!(stored, order);
}

#[tokio::test]
async fn a_receipt_tells_when_plugins_dropped_records() {
    let (broker, producer) = broker_with_producer().await;
    broker.faults([Fault::Keep(0)]);
    let receipt = producer.send(Raw::from_static(b"dropped")).await.unwrap();
    assert_eq!(receipt.offset, None);
    let receipt = producer.send(Raw::from_static(b"kept")).await.unwrap();
    assert_eq!(receipt.offset, Some(Offset(0)));
}

#[tokio::test]
async fn a_message_over_a_limit_is_refused_before_it_is_sent() {
    let (broker, producer) = broker_with_producer().await;
    let huge = Raw::from(vec![0; flumen_protocol::limits::RECORD_BYTES_MAX + 1]);
    let error = producer.send(huge).await.unwrap_err();
    assert!(matches!(error, SendError::Invalid { .. }), "{error}");
    assert_eq!(broker.batches_received(), 0);
}

#[tokio::test]
async fn a_dropped_producer_still_sends_what_was_enqueued() {
    let (broker, producer) = broker_with_producer().await;
    for n in 0..10 {
        producer.enqueue(Raw::from(n.to_string())).await.unwrap();
    }
    drop(producer);
    eventually("all is stored", || broker.values("t", 0).len() == 10).await;
}

#[tokio::test]
async fn a_closed_producer_has_settled_everything_and_takes_no_more() {
    let (broker, producer) = broker_with_producer().await;
    let other = producer.clone();
    producer.enqueue(Raw::from_static(b"x")).await.unwrap();
    producer.close().await.unwrap();
    assert_eq!(broker.values("t", 0), ["x"]);
    let error = other.send(Raw::from_static(b"y")).await.unwrap_err();
    assert!(matches!(error, SendError::Closed { .. }));
}

#[tokio::test]
async fn new_partitions_are_used_once_they_are_noticed() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker
        .builder()
        .metadata_refresh(Duration::from_millis(20))
        .connect()
        .await
        .unwrap();
    let producer = client.producer::<Raw>("t").build().await.unwrap();
    broker.grow_topic("t", 3);
    eventually("they are noticed", || producer.partitions() == 3).await;
    let message = Message::new(Raw::from_static(b"x")).partition(2);
    assert_eq!(producer.send(message).await.unwrap().partition, 2);
}

#[tokio::test]
async fn linger_gathers_what_comes_one_after_the_other() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let producer = client
        .producer::<Raw>("t")
        .linger(Duration::from_secs(50))
        .build()
        .await
        .unwrap();
    for n in 0..10 {
        producer.enqueue(Raw::from(n.to_string())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(broker.batches_received(), 0);
    producer.flush().await.unwrap();
    assert_eq!(broker.batches("t", 0).len(), 1);
}

#[tokio::test]
async fn times_that_no_message_could_keep_are_refused() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let producer = || client.producer::<Raw>("t");
    let second = Duration::from_secs(1);
    for builder in [
        producer().delivery_timeout(Duration::MAX),
        producer().delivery_timeout(TIMEOUT_MAX + second),
        producer().delivery_timeout(Duration::ZERO),
        producer().delivery_timeout(second).linger(second),
    ] {
        let error = builder.build().await.unwrap_err();
        assert!(matches!(error, RequestError::Setting { .. }), "{error}");
    }
    let longest = producer().delivery_timeout(TIMEOUT_MAX);
    let longest = longest.build().await.unwrap();
    longest.send(Raw::from_static(b"x")).await.unwrap();
}
