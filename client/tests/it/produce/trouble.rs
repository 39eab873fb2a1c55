//! What producers promise when the broker misbehaves or memory is full: nothing is lost in silence.

use std::time::Duration;

use flumen_client::{ErrorCode, Message, Offset, Raw, SendError};
use futures_util::future::join_all;

use super::{Order, broker_with_producer, numbers};
use crate::broker::{Broker, Fault, PATIENCE, eventually};

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
