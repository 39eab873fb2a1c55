//! What consumers promise, and that they keep it when the broker misbehaves.

use std::time::Duration;

use flumen_client::{
    Codec, ConsumeError, Consumer, ErrorCode, Message, Offset, Raw, RequestError, StartAt,
};
use flumen_protocol::batch::{BatchBuilder, ProducerSequence, RecordRef};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::broker::{Broker, ConsumeFault, PATIENCE, eventually};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
}

fn broker_with(values: &[&str]) -> Broker {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    for value in values {
        broker.append("t", 0, "", &[value.as_bytes()]);
    }
    broker
}

async fn next<T>(consumer: &mut Consumer<T>) -> Result<flumen_client::Received<T>, ConsumeError> {
    let next = timeout(PATIENCE, consumer.next()).await;
    next.expect("a message comes")
        .expect("the consumer goes on")
}

async fn next_text(consumer: &mut Consumer<Raw>) -> String {
    let message = next(consumer).await.unwrap();
    String::from_utf8(message.value.to_vec()).unwrap()
}

async fn all<T: DeserializeOwned + 'static>(consumer: Consumer<T>) -> Vec<T> {
    let messages = timeout(PATIENCE, consumer.collect::<Vec<_>>()).await;
    let messages = messages.expect("the consumer comes to its end");
    messages.into_iter().map(|m| m.unwrap().value).collect()
}

#[tokio::test]
async fn messages_come_in_order_with_all_that_travels_with_them() {
    let broker = Broker::start();
    broker.create_topic("orders", 1);
    let client = broker.client().await;
    let producer = client.producer::<Order>("orders").build().await.unwrap();
    for id in 0..3 {
        let message = Message::new(Order { id })
            .key(format!("k{id}"))
            .header("n", id.to_string())
            .timestamp_ms(1_000 + id as i64);
        producer.send(message).await.unwrap();
    }
    let mut orders = client.consumer::<Order>("orders").build().await.unwrap();
    for id in 0..3 {
        let message = next(&mut orders).await.unwrap();
        assert_eq!(message.value, Order { id });
        assert_eq!((message.partition, message.offset), (0, Offset(id)));
        assert_eq!(message.timestamp_ms, 1_000 + id as i64);
        assert_eq!(message.key_str(), Some(&*format!("k{id}")));
        assert_eq!(message.headers.get_str("n"), Some(&*id.to_string()));
    }
}

#[tokio::test]
async fn new_messages_are_pushed() {
    let broker = broker_with(&[]);
    let client = broker.client().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    assert!(
        timeout(Duration::from_millis(30), consumer.next())
            .await
            .is_err()
    );
    for n in 0..5 {
        broker.append("t", 0, "", &[n.to_string().as_bytes()]);
        assert_eq!(next_text(&mut consumer).await, n.to_string());
    }
}

#[tokio::test]
async fn each_start_begins_where_it_says() {
    let broker = broker_with(&["0", "1", "2"]);
    let client = broker.client().await;
    for (start, first) in [
        (StartAt::Beginning, "0"),
        (StartAt::Offset(Offset(2)), "2"),
        (StartAt::Offset(Offset(3)), "3"),
        (StartAt::End, "3"),
    ] {
        let mut consumer = client
            .consumer::<Raw>("t")
            .from(start)
            .build()
            .await
            .unwrap();
        if first == "3" && broker.values("t", 0).len() == 3 {
            broker.append("t", 0, "", &[b"3"]);
        }
        let expected = match start {
            StartAt::End => {
                broker.append("t", 0, "", &[b"4"]);
                "4"
            }
            _ => first,
        };
        assert_eq!(next_text(&mut consumer).await, expected, "{start:?}");
    }
}

#[tokio::test]
async fn records_before_the_asked_offset_are_passed_over() {
    let broker = broker_with(&[]);
    broker.append("t", 0, "", &[b"0", b"1", b"2", b"3"]);
    let client = broker.client().await;
    let consumer = client
        .consumer::<Raw>("t")
        .from(StartAt::Offset(Offset(2)))
        .until_end()
        .build()
        .await
        .unwrap();
    assert_eq!(all(consumer).await, ["2", "3"]);
}

#[tokio::test]
async fn an_offset_past_the_end_is_an_error() {
    let broker = broker_with(&["0"]);
    let client = broker.client().await;
    let consumer = client.consumer::<Raw>("t").from(StartAt::Offset(Offset(9)));
    let error = consumer.build().await.unwrap_err();
    assert!(matches!(
        error,
        ConsumeError::Refused {
            code: ErrorCode::OffsetOutOfRange,
            ..
        }
    ));
    assert!(error.is_fatal());
}

#[tokio::test]
async fn a_broken_connection_loses_and_doubles_nothing() {
    let values: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let broker = broker_with(&values.iter().map(String::as_str).collect::<Vec<_>>());
    broker.consume_faults([
        ConsumeFault::BreakAfter,
        ConsumeFault::Twice,
        ConsumeFault::Twice,
        ConsumeFault::BreakAfter,
        ConsumeFault::BreakAfter,
    ]);
    let client = broker.client().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    for value in &values {
        assert_eq!(next_text(&mut consumer).await, *value);
    }
    broker.kick();
    broker.append("t", 0, "", &[b"after"]);
    assert_eq!(next_text(&mut consumer).await, "after");
    assert!(broker.connections_made() >= 4);
}

#[tokio::test]
async fn until_end_stops_at_the_end_as_it_was_at_the_start() {
    let broker = Broker::start();
    broker.create_topic("t", 3);
    broker.append("t", 0, "", &[b"a", b"b"]);
    broker.append("t", 2, "", &[b"c"]);
    let client = broker.client().await;
    let consumer = client
        .consumer::<Raw>("t")
        .until_end()
        .build()
        .await
        .unwrap();
    broker.append("t", 0, "", &[b"later"]);
    broker.append("t", 1, "", &[b"later"]);
    let mut values = all(consumer).await;
    values.sort();
    assert_eq!(values, ["a", "b", "c"]);
    let empty = client
        .consumer::<Raw>("t")
        .from(StartAt::End)
        .until_end()
        .build();
    assert!(all(empty.await.unwrap()).await.is_empty());
}

#[tokio::test]
async fn until_end_does_not_wait_for_what_retention_removed() {
    let broker = broker_with(&["0", "1", "2"]);
    let client = broker.client().await;
    broker.consume_faults([ConsumeFault::BreakAfter]);
    let mut consumer = client
        .consumer::<Raw>("t")
        .until_end()
        .build()
        .await
        .unwrap();
    assert_eq!(next_text(&mut consumer).await, "0");
    broker.retain_from("t", 0, 3);
    broker.kick();
    assert!(all(consumer).await.len() <= 2);
}

#[tokio::test]
async fn until_end_notices_retention_on_a_connection_that_stays() {
    let broker = broker_with(&["0", "1"]);
    let client = broker.client().await;
    broker.consume_faults([ConsumeFault::Twice, ConsumeFault::Skip]);
    let mut consumer = client
        .consumer::<Raw>("t")
        .until_end()
        .build()
        .await
        .unwrap();
    assert_eq!(next_text(&mut consumer).await, "0");
    broker.retain_from("t", 0, 2);
    assert!(all(consumer).await.is_empty());
}

#[tokio::test]
async fn a_damaged_batch_is_an_error_that_names_the_place_and_the_rest_follows() {
    let broker = broker_with(&["0", "1", "2"]);
    broker.consume_faults([ConsumeFault::Twice, ConsumeFault::Damage]);
    let client = broker.client().await;
    let mut consumer = client
        .consumer::<Raw>("t")
        .until_end()
        .build()
        .await
        .unwrap();
    assert_eq!(next_text(&mut consumer).await, "0");
    let error = next(&mut consumer).await.unwrap_err();
    assert!(
        matches!(
            error,
            ConsumeError::Damaged {
                partition: 0,
                offset: Offset(1),
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.is_fatal());
    assert_eq!(next_text(&mut consumer).await, "2");
    assert!(consumer.next().await.is_none());
}

#[tokio::test]
async fn values_of_another_type_are_an_error_that_names_both() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    broker.append("t", 0, "postcard; type=Invoice", &[b"\x07"]);
    broker.append("t", 0, "postcard; type=Order", &[b"\x07"]);
    broker.append("t", 0, "postcard; type=Order", &[b"\x07\x08"]);
    let client = broker.client().await;
    let mut orders = client
        .consumer::<Order>("t")
        .until_end()
        .build()
        .await
        .unwrap();
    let text = next(&mut orders).await.unwrap_err().to_string();
    assert!(
        text.contains("type=Invoice") && text.contains("type=Order"),
        "{text}"
    );
    assert_eq!(next(&mut orders).await.unwrap().value, Order { id: 7 });
    let error = next(&mut orders).await.unwrap_err();
    assert!(matches!(
        error,
        ConsumeError::Decode {
            offset: Offset(2),
            ..
        }
    ));
    assert!(orders.next().await.is_none());
    let unchecked = client.consumer::<Order>("t").any_content_type().build();
    let first = next(&mut unchecked.await.unwrap()).await.unwrap();
    assert_eq!(first.value, Order { id: 7 });
}

#[tokio::test]
async fn json_lines_without_a_type_are_read_as_json() {
    let broker = broker_with(&[r#"{"id":1}"#]);
    let client = broker.client().await;
    let consumer = client.consumer::<Order>("t").json().until_end().build();
    assert_eq!(all(consumer.await.unwrap()).await, [Order { id: 1 }]);
}

#[tokio::test]
async fn a_content_type_that_is_set_counts_whether_json_is_said_before_or_after() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let order = "application/json; type=com.example.Order";
    broker.append("t", 0, order, &[br#"{"id":1}"#]);
    let client = broker.client().await;
    let consumer = || client.consumer::<Order>("t").until_end();
    for builder in [
        consumer().json().content_type(order),
        consumer().content_type(order).json(),
    ] {
        let consumer = builder.build().await.unwrap();
        assert_eq!(all(consumer).await, [Order { id: 1 }]);
    }
}

#[tokio::test]
async fn tombstones_are_passed_over_or_said_to_be_none() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let producer = client.producer::<Order>("t").build().await.unwrap();
    producer
        .send(Message::new(Order { id: 1 }).key("k"))
        .await
        .unwrap();
    producer.send(Message::tombstone("k")).await.unwrap();
    let plain = client.consumer::<Order>("t").until_end().build().await;
    assert_eq!(all(plain.unwrap()).await, [Order { id: 1 }]);
    let mut with = client
        .consumer::<Order>("t")
        .with_tombstones()
        .until_end()
        .build()
        .await
        .unwrap();
    assert_eq!(next(&mut with).await.unwrap().value, Some(Order { id: 1 }));
    let tombstone = next(&mut with).await.unwrap();
    assert_eq!(tombstone.key_str(), Some("k"));
    assert_eq!(tombstone.value, None);
}

#[tokio::test]
async fn a_batch_can_be_taken_whole_or_what_is_left_of_it() {
    let broker = broker_with(&[]);
    broker.append("t", 0, "text/plain", &[b"0", b"1", b"2"]);
    broker.append("t", 0, "", &[b"3"]);
    let client = broker.client().await;
    let mut consumer = client
        .consumer::<Raw>("t")
        .until_end()
        .build()
        .await
        .unwrap();
    assert_eq!(next_text(&mut consumer).await, "0");
    assert_eq!(consumer.positions(), [(0, Offset(1))]);
    let batch = consumer.next_batch().await.unwrap().unwrap();
    assert_eq!((batch.partition, batch.len()), (0, 2));
    assert_eq!(batch.content_type(), "text/plain");
    let offsets: Vec<_> = batch.records().map(|(offset, _)| offset.0).collect();
    assert_eq!(offsets, [1, 2]);
    assert_eq!(consumer.positions(), [(0, Offset(3))]);
    let values: Vec<_> = batch.map(|message| message.unwrap().value).collect();
    assert_eq!(values, ["1", "2"]);
    assert_eq!(consumer.next_batch().await.unwrap().unwrap().len(), 1);
    assert!(consumer.next_batch().await.is_none());
}

#[tokio::test]
async fn compressed_and_compacted_batches_are_read_with_their_own_offsets() {
    let broker = broker_with(&[]);
    let mut builder = BatchBuilder::new();
    let value = vec![7; 1_000];
    for delta in [1, 4] {
        builder.push_at(delta, &RecordRef::new(0, &value)).unwrap();
    }
    let producer = ProducerSequence::default();
    let batch = builder.build_spanning(Codec::Lz4, producer, Offset(0), 6);
    broker.append_batch("t", 0, batch.unwrap());
    broker.append("t", 0, "", &[b"last"]);
    let client = broker.client().await;
    let consumer = client
        .consumer::<Raw>("t")
        .until_end()
        .build()
        .await
        .unwrap();
    let messages: Vec<_> = consumer.collect().await;
    let offsets: Vec<_> = messages.into_iter().map(|m| m.unwrap().offset.0).collect();
    assert_eq!(offsets, [1, 4, 6]);
}

#[tokio::test]
async fn who_names_no_partition_reads_none() {
    let broker = broker_with(&["a"]);
    let client = broker.client().await;
    let none = client.consumer::<Raw>("t").partitions([]);
    let consumer = none.until_end().build().await.unwrap();
    assert_eq!(consumer.positions(), []);
    assert!(all(consumer).await.is_empty());
}

#[tokio::test]
async fn chosen_partitions_are_read_and_no_others() {
    let broker = Broker::start();
    broker.create_topic("t", 3);
    for partition in 0..3 {
        broker.append(
            "t",
            partition,
            "",
            &[b"a", partition.to_string().as_bytes()],
        );
    }
    let client = broker.client().await;
    let chosen = client
        .consumer::<Raw>("t")
        .partition(1, StartAt::Offset(Offset(1)))
        .until_end();
    assert_eq!(all(chosen.build().await.unwrap()).await, ["1"]);
    let wrong = client.consumer::<Raw>("t").partition(3, StartAt::Beginning);
    let text = wrong.build().await.unwrap_err().to_string();
    assert!(text.contains("its partitions are 0 to 2"), "{text}");
}

#[tokio::test]
async fn partitions_that_the_topic_gets_later_are_read_from_their_beginning() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker
        .builder()
        .metadata_refresh(Duration::from_millis(20))
        .connect()
        .await
        .unwrap();
    let mut consumer = client
        .consumer::<Raw>("t")
        .from(StartAt::End)
        .build()
        .await
        .unwrap();
    broker.grow_topic("t", 2);
    broker.append("t", 1, "", &[b"new"]);
    let message = next(&mut consumer).await.unwrap();
    assert_eq!((message.partition, &message.value[..]), (1, &b"new"[..]));
}

#[tokio::test]
async fn a_dropped_wait_loses_no_message() {
    let broker = broker_with(&[]);
    let client = broker.client().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    let feeder = tokio::spawn(async move {
        for n in 0..200 {
            broker.append("t", 0, "", &[n.to_string().as_bytes()]);
            tokio::task::yield_now().await;
        }
        broker
    });
    let mut received = Vec::new();
    while received.len() < 200 {
        if let Ok(Some(message)) = timeout(Duration::from_micros(50), consumer.next()).await {
            received.push(String::from_utf8(message.unwrap().value.to_vec()).unwrap());
        }
    }
    assert_eq!(
        received,
        (0..200).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    drop(feeder.await.unwrap());
}

#[tokio::test]
async fn a_topic_that_is_not_there_or_goes_away_is_named() {
    let broker = broker_with(&[]);
    let client = broker.client().await;
    let error = client.consumer::<Raw>("absent").build().await.unwrap_err();
    assert!(matches!(
        &error,
        ConsumeError::Setup(RequestError::UnknownTopic { topic }) if topic.as_str() == "absent"
    ));
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    broker.delete_topic("t");
    broker.kick();
    let error = next(&mut consumer).await.unwrap_err();
    assert!(error.is_fatal(), "{error}");
    assert!(consumer.next().await.is_none());
}

#[tokio::test]
async fn a_consumer_that_does_not_read_bounds_what_waits() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let value = vec![1; 1_000_000];
    for _ in 0..100 {
        broker.append("t", 0, "", &[&value]);
    }
    let client = broker.client().await;
    let mut consumer = client
        .consumer::<Raw>("t")
        .buffer_bytes(2_000_000)
        .until_end()
        .build()
        .await
        .unwrap();
    assert_eq!(next(&mut consumer).await.unwrap().value.len(), 1_000_000);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let rest = all(consumer).await;
    assert_eq!(rest.len(), 99);
    eventually("nothing is left", || true).await;
}
