//! What producers promise, and that they keep it when the broker misbehaves.

use std::{collections::BTreeSet, time::Duration};

use flumen_client::{
    Codec, ErrorCode, Message, NoSuchPartition, Offset, Producer, Raw, RequestError, SendError,
    config::TIMEOUT_MAX,
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::broker::{Broker, Fault, PATIENCE, eventually};

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
async fn messages_handed_over_together_wait_for_room_and_are_encoded_as_others() {
    let broker = Broker::start();
    broker.create_topic("t", 3);
    let client = broker.client().await;
    let producer = client.producer::<Order>("t").memory_bytes(2_000);
    let producer = producer.build().await.unwrap();
    let orders = (0..1_000).map(|id| {
        let order = Order {
            id,
            item: format!("{id} of tea"),
        };
        Message::new(order).partition((id % 3) as u32)
    });
    producer.enqueue_all(orders).await.unwrap();
    producer.flush().await.unwrap();
    for partition in 0..3 {
        let records = broker.records("t", partition);
        let ids = (u64::from(partition)..1_000).step_by(3);
        assert_eq!(records.len(), ids.clone().count());
        for ((_, value), id) in records.iter().zip(ids) {
            let order: Order = postcard::from_bytes(value).unwrap();
            assert_eq!((order.id, order.item), (id, format!("{id} of tea")));
        }
    }
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
async fn lost_answers_and_lost_batches_give_each_message_once_and_in_order() {
    let (broker, producer) = broker_with_producer().await;
    broker.faults([
        Fault::LoseAnswer,
        Fault::LoseBatch,
        Fault::EndStream,
        Fault::LoseAnswer,
        Fault::Refuse(ErrorCode::Overloaded, "busy"),
        Fault::Refuse(ErrorCode::NotLeader, "moved"),
    ]);
    let mut receipts = Vec::new();
    for n in 0..200 {
        receipts.push(producer.submit(Raw::from(n.to_string())).await.unwrap());
        tokio::task::yield_now().await;
    }
    for (n, receipt) in join_all(receipts).await.into_iter().enumerate() {
        assert_eq!(receipt.unwrap().offset, Some(Offset(n as u64)));
    }
    assert_eq!(broker.values("t", 0), numbers(0..200));
}

#[tokio::test]
async fn a_lost_answer_is_reported_as_a_duplicate() {
    let (broker, producer) = broker_with_producer().await;
    broker.faults([Fault::LoseAnswer]);
    let receipt = producer.send(Raw::from_static(b"once")).await.unwrap();
    assert!(receipt.duplicate);
    assert_eq!(broker.values("t", 0), ["once"]);
    assert!(broker.connections_made() >= 2);
}

#[tokio::test]
async fn a_broker_that_is_away_for_a_while_loses_nothing() {
    let (broker, producer) = broker_with_producer().await;
    producer.send(Raw::from_static(b"0")).await.unwrap();
    broker.stop();
    for n in 1..100 {
        producer.enqueue(Raw::from(n.to_string())).await.unwrap();
    }
    let flush = tokio::spawn(async move { producer.flush().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!flush.is_finished());
    broker.resume();
    flush.await.unwrap().unwrap();
    assert_eq!(broker.values("t", 0), numbers(0..100));
}

#[tokio::test]
async fn a_rejected_message_brings_the_plugins_own_words_and_the_next_one_passes() {
    let (broker, producer) = broker_with_producer().await;
    broker.faults([Fault::Reject("magnitude is missing")]);
    let error = producer.send(Raw::from_static(b"bad")).await.unwrap_err();
    assert!(!error.is_unknown());
    assert!(matches!(&error, SendError::Rejected { text, .. } if text == "magnitude is missing"));
    let receipt = producer.send(Raw::from_static(b"good")).await.unwrap();
    assert_eq!(receipt.offset, Some(Offset(0)));
}

#[tokio::test]
async fn a_refused_message_fails_alone() {
    let (broker, producer) = broker_with_producer().await;
    broker.faults([Fault::Refuse(
        ErrorCode::TooLarge,
        "too large for this topic",
    )]);
    let error = producer.send(Raw::from_static(b"bad")).await.unwrap_err();
    assert!(matches!(
        error,
        SendError::Refused {
            code: ErrorCode::TooLarge,
            ..
        }
    ));
    producer.send(Raw::from_static(b"good")).await.unwrap();
    assert_eq!(broker.values("t", 0), ["good"]);
}

#[tokio::test]
async fn failures_of_enqueued_messages_surface_once_and_are_counted() {
    let (broker, producer) = broker_with_producer().await;
    broker.faults([Fault::Reject("no"), Fault::Reject("no")]);
    producer.enqueue(Raw::from_static(b"a")).await.unwrap();
    let error = producer.flush().await.unwrap_err();
    assert_eq!((error.failed, error.unknown), (1, 0));
    assert!(matches!(error.first, SendError::Rejected { .. }));
    producer.flush().await.unwrap();
    producer.enqueue(Raw::from_static(b"b")).await.unwrap();
    eventually("the failure reaches the producer", || {
        broker.batches_received() == 2
    })
    .await;
    let mut count = 0;
    let noticed = loop {
        count += 1;
        match producer.enqueue(Raw::from_static(b"c")).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(matches!(noticed, SendError::Earlier(failures) if failures.failed == 1));
    producer.close().await.unwrap();
    let values = broker.values("t", 0);
    assert_eq!(values, vec!["c"; count], "the last one was taken, too");
}

#[tokio::test]
async fn messages_handed_over_together_are_not_lost_when_earlier_ones_failed() {
    let (broker, producer) = broker_with_producer().await;
    broker.faults([Fault::Reject("no")]);
    producer.enqueue(Raw::from_static(b"bad")).await.unwrap();
    eventually("it is refused", || broker.batches_received() == 1).await;
    let mut given = 0;
    let error = loop {
        let many = (0..1_000).map(|_| {
            given += 1;
            Raw::from_static(b"good")
        });
        match producer.enqueue_all(many).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(matches!(error.source, SendError::Earlier(_)), "{error}");
    producer.flush().await.unwrap();
    assert_eq!(broker.values("t", 0).len(), given);
}

#[tokio::test]
async fn what_has_no_answer_in_time_is_unknown_and_not_failed() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let producer = client
        .producer::<Raw>("t")
        .delivery_timeout(Duration::from_millis(100))
        .build()
        .await
        .unwrap();
    broker.hold_answers(true);
    let error = producer.send(Raw::from_static(b"slow")).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    assert!(error.to_string().contains("unknown"), "{error}");
    broker.hold_answers(false);
    producer.send(Raw::from_static(b"fast")).await.unwrap();
    assert_eq!(broker.values("t", 0), ["slow", "fast"]);
}

#[tokio::test]
async fn what_was_never_sent_is_known_not_to_be_stored() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let producer = client
        .producer::<Raw>("t")
        .delivery_timeout(Duration::from_millis(150))
        .build()
        .await
        .unwrap();
    broker.stop();
    // A message that leaves before the client has noticed may be anywhere.
    let error = loop {
        match producer.send(Raw::from_static(b"x")).await.unwrap_err() {
            error if error.is_unknown() => {}
            error => break error,
        }
    };
    assert!(matches!(error, SendError::NotSent { .. }), "{error}");
    broker.resume();
    producer.send(Raw::from_static(b"y")).await.unwrap();
    assert_eq!(broker.values("t", 0), ["y"]);
}

#[tokio::test]
async fn a_message_is_not_given_up_because_one_is_that_has_waited_for_longer() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let soon = Duration::from_millis(10);
    let builder = broker.builder().reconnect_delay(soon, soon);
    let client = builder.connect().await.unwrap();
    let timeout = Duration::from_secs(4);
    let producer = client.producer::<Raw>("t").delivery_timeout(timeout);
    let producer = producer.build().await.unwrap();
    broker.stop();
    let lost = producer.submit(Raw::from_static(b"lost")).await.unwrap();
    eventually("it cannot be sent", || producer.setback().is_some()).await;
    let early = producer.submit(Raw::from_static(b"early")).await.unwrap();
    tokio::time::sleep(timeout / 2).await;
    let late = producer.submit(Raw::from_static(b"late")).await.unwrap();
    let error = early.await.unwrap_err();
    assert!(matches!(error, SendError::NotSent { .. }), "{error}");
    broker.resume();
    late.await.unwrap();
    assert!(lost.await.is_err());
    assert_eq!(broker.values("t", 0), ["late"]);
}

#[tokio::test]
async fn a_client_whose_runtime_has_shut_down_lets_nobody_wait_for_ever() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let builder = broker.builder();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    broker.hold_answers(true);
    let task = runtime.spawn(async move {
        let client = builder.connect().await.unwrap();
        let producer = client.producer::<Raw>("t").build().await.unwrap();
        let receipt = producer.submit(Raw::from_static(b"x")).await.unwrap();
        (producer, receipt)
    });
    let (producer, receipt) = task.await.unwrap();
    eventually("it arrives", || broker.batches_received() > 0).await;
    runtime.shutdown_background();
    let outcome = tokio::time::timeout(PATIENCE, receipt).await;
    let error = outcome.expect("it is settled").unwrap_err();
    assert!(error.is_unknown(), "{error}");
    let late = producer.send(Raw::from_static(b"y")).await.unwrap_err();
    assert!(matches!(late, SendError::Stopped { .. }), "{late}");
}

#[tokio::test]
async fn a_setback_is_told_with_the_brokers_reason_until_messages_are_acknowledged_again() {
    let (broker, producer) = broker_with_producer().await;
    producer.send(Raw::from_static(b"0")).await.unwrap();
    assert_eq!(producer.setback(), None);
    let refusal = Fault::Refuse(ErrorCode::NoSpace, "the disk is full");
    broker.faults(vec![refusal; 1_000]);
    let receipts = [b"1", b"2"].map(|value| producer.submit(Raw::from_static(value)));
    let receipts = join_all(receipts).await;
    let has_reason = || {
        let setback = producer.setback();
        setback.is_some_and(|setback| setback.reason == "the disk is full")
    };
    eventually("the producer tells of it", has_reason).await;
    let since = producer.setback().unwrap().since;
    let received = broker.batches_received();
    let tried_again = || broker.batches_received() > received;
    eventually("it is tried again", tried_again).await;
    assert_eq!(producer.setback().unwrap().since, since);
    broker.clear_faults();
    for receipt in receipts {
        receipt.unwrap().await.unwrap();
    }
    assert_eq!(producer.setback(), None);
    assert_eq!(broker.values("t", 0), numbers(0..3));
}

#[tokio::test]
async fn a_client_that_is_closed_tells_of_each_message_whether_it_may_be_stored() {
    for may_be_stored in [false, true] {
        let broker = Broker::start();
        broker.create_topic("t", 1);
        let client = broker.client().await;
        let producer = client.producer::<Raw>("t").build().await.unwrap();
        if may_be_stored {
            broker.hold_answers(true);
        } else {
            let refusal = Fault::Refuse(ErrorCode::NoSpace, "the disk is full");
            broker.faults(vec![refusal; 1_000]);
        }
        let receipt = producer.submit(Raw::from_static(b"x")).await.unwrap();
        eventually("it arrives", || broker.batches_received() > 0).await;
        if !may_be_stored {
            let is_refused = || producer.setback().is_some();
            eventually("it is refused", is_refused).await;
        }
        client.close().await;
        let error = tokio::time::timeout(PATIENCE, receipt)
            .await
            .expect("it is settled long before its time is up")
            .unwrap_err();
        if may_be_stored {
            assert!(error.is_unknown(), "{error}");
            continue;
        }
        // An attempt may have been on its way at that very moment.
        if !error.is_unknown() {
            assert!(matches!(error, SendError::GivenUp { .. }), "{error}");
            assert!(error.to_string().contains("the disk is full"), "{error}");
        }
        let late = producer.send(Raw::from_static(b"y")).await.unwrap_err();
        assert!(matches!(late, SendError::GivenUp { .. }), "{late}");
    }
}

#[tokio::test]
async fn full_memory_makes_enqueue_wait() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let producer = client
        .producer::<Raw>("t")
        .memory_bytes(10_000)
        .batch_bytes(1_000)
        .build()
        .await
        .unwrap();
    broker.hold_answers(true);
    let filler = producer.clone();
    let filling = tokio::spawn(async move {
        for n in 0..100_u32 {
            let mut value = vec![b'.'; 500];
            value[..4].copy_from_slice(&n.to_be_bytes());
            filler.enqueue(Raw::from(value)).await.unwrap();
        }
    });
    eventually("batches arrive", || broker.batches_received() > 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!filling.is_finished());
    assert!(broker.records("t", 0).len() <= 20);
    broker.hold_answers(false);
    filling.await.unwrap();
    producer.flush().await.unwrap();
    let records = broker.records("t", 0);
    assert!(records.iter().map(|(_, value)| &value[..4]).is_sorted());
    assert_eq!(records.len(), 100);
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
async fn a_deleted_topic_fails_what_waits_for_it() {
    let (broker, producer) = broker_with_producer().await;
    producer.send(Raw::from_static(b"x")).await.unwrap();
    broker.delete_topic("t");
    let error = producer.send(Raw::from_static(b"y")).await.unwrap_err();
    assert!(matches!(
        error,
        SendError::Refused {
            code: ErrorCode::UnknownTopic,
            ..
        }
    ));
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
