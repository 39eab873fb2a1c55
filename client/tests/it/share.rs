//! Producers of one client that send the same way share a delivery, and nothing else.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Duration,
};

use flumen_client::{Client, Message, Producer, Raw, SendError};
use futures_util::future::{FutureExt as _, join_all, join3};
use parking_lot::Mutex;

use crate::broker::{Broker, Fault, eventually};

async fn producer(client: &Client) -> Producer<Raw> {
    client.producer::<Raw>("t").build().await.unwrap()
}

/// A broker and two producers of one client.
async fn two() -> (Broker, Producer<Raw>, Producer<Raw>) {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let two = (producer(&client).await, producer(&client).await);
    (broker, two.0, two.1)
}

fn text(text: &'static str) -> Raw {
    Raw::from_static(text.as_bytes())
}

#[tokio::test]
async fn what_producers_send_at_the_same_time_shares_batches_and_each_keeps_its_order() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let mut tasks = Vec::new();
    for number in 0..64 {
        let producer = producer(&client.clone()).await;
        tasks.push(tokio::spawn(async move {
            for n in 0..20 {
                let value = Raw::from(format!("{number:02} {n:02}"));
                producer.send(value).await.unwrap();
            }
        }));
    }
    for task in join_all(tasks).await {
        task.unwrap();
    }
    let values = broker.values("t", 0);
    assert_eq!(values.len(), 64 * 20);
    for number in 0..64 {
        let prefix = format!("{number:02} ");
        assert!(values.iter().filter(|v| v.starts_with(&prefix)).is_sorted());
    }
    let batches = broker.batches("t", 0);
    assert!(batches.len() < 64 * 20 / 4, "{} batches", batches.len());
    let id = batches[0].header().producer.producer_id;
    assert!(
        batches
            .iter()
            .all(|b| b.header().producer.producer_id == id)
    );
}

#[tokio::test]
async fn other_settings_another_topic_or_a_wish_for_it_give_a_delivery_of_its_own() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    broker.create_topic("u", 1);
    let client = broker.client().await;
    let builders = [
        client.producer::<Raw>("t"),
        client.producer::<Raw>("t").linger(Duration::from_millis(1)),
        client.producer::<Raw>("t").content_type("text/plain"),
        client.producer::<Raw>("t").batch_records(7),
        client.producer::<Raw>("t").dedicated(),
        client.producer::<Raw>("u"),
    ];
    let mut producers = Vec::new();
    for builder in builders {
        let producer = builder.build().await.unwrap();
        producer.send(text("x")).await.unwrap();
        producers.push(producer);
    }
    let batches = [broker.batches("t", 0), broker.batches("u", 0)].concat();
    let mut ids: Vec<_> = batches
        .iter()
        .map(|batch| batch.header().producer.producer_id.0)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), producers.len());
}

#[tokio::test]
async fn a_producer_that_is_closed_or_dropped_leaves_the_others_open() {
    let (broker, closed, open) = two().await;
    let clone = closed.clone();
    closed.enqueue(text("a")).await.unwrap();
    closed.close().await.unwrap();
    assert_eq!(broker.values("t", 0), ["a"]);
    let error = clone.send(text("b")).await.unwrap_err();
    assert!(matches!(error, SendError::Closed { .. }));
    open.send(text("c")).await.unwrap();
    drop(clone);
    open.enqueue(text("d")).await.unwrap();
    open.flush().await.unwrap();
    assert_eq!(broker.values("t", 0), ["a", "c", "d"]);
}

#[tokio::test]
async fn a_producer_that_is_built_when_all_others_are_closed_works() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    for n in 0..3 {
        let first = producer(&client).await;
        first.send(Raw::from(n.to_string())).await.unwrap();
        if n == 1 {
            first.close().await.unwrap();
        }
    }
    assert_eq!(broker.values("t", 0), ["0", "1", "2"]);
}

#[tokio::test]
async fn what_a_dropped_producer_has_enqueued_does_not_wait_for_its_linger() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let linger = Duration::from_secs(50);
    let builder = client.producer::<Raw>("t").linger(linger);
    let kept = builder.clone().build().await.unwrap();
    let dropped = builder.build().await.unwrap();
    dropped.enqueue(text("x")).await.unwrap();
    drop(dropped);
    eventually("it is stored", || broker.values("t", 0) == ["x"]).await;
    kept.enqueue(text("y")).await.unwrap();
    kept.close().await.unwrap();
}

#[tokio::test]
async fn a_failure_is_told_to_the_producer_whose_message_it_was() {
    let (broker, failing, other) = two().await;
    broker.faults([Fault::Reject("no")]);
    failing.enqueue(text("bad")).await.unwrap();
    eventually("it is refused", || broker.batches_received() == 1).await;
    other.send(text("good")).await.unwrap();
    other.enqueue(text("good too")).await.unwrap();
    other.flush().await.unwrap();
    let error = failing.flush().await.unwrap_err();
    assert_eq!((error.failed, error.unknown), (1, 0));
    failing.flush().await.unwrap();
}

#[tokio::test]
async fn messages_that_were_sent_together_fail_together_and_each_producer_counts_its_own() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let builder = client
        .producer::<Raw>("t")
        .linger(Duration::from_secs(50))
        .batch_records(6);
    let a = builder.clone().build().await.unwrap();
    let b = builder.build().await.unwrap();
    broker.faults([Fault::Reject("no")]);
    a.enqueue(text("1")).await.unwrap();
    b.enqueue(text("2")).await.unwrap();
    b.enqueue(text("3")).await.unwrap();
    let awaited = a.submit(text("4")).await.unwrap();
    b.enqueue(text("5")).await.unwrap();
    a.enqueue(text("6")).await.unwrap();
    assert!(matches!(awaited.await, Err(SendError::Rejected { .. })));
    assert_eq!(a.flush().await.unwrap_err().failed, 2);
    assert_eq!(b.flush().await.unwrap_err().failed, 3);
}

#[tokio::test]
async fn a_flush_waits_for_its_own_producer_only() {
    let broker = Broker::start();
    broker.create_topic("t", 2);
    let client = broker.client().await;
    let (a, b) = (producer(&client).await, producer(&client).await);
    broker.hold_answers(true);
    let message = |partition| Message::new(text("x")).partition(partition);
    a.enqueue(message(0)).await.unwrap();
    eventually("it arrives", || broker.batches_received() == 1).await;
    b.flush().await.unwrap();
    let flush = tokio::spawn(async move { a.flush().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!flush.is_finished());
    broker.hold_answers(false);
    flush.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_topic_that_was_made_again_is_another_one() {
    let broker = Broker::start();
    broker.create_topic("t", 3);
    let client = broker.client().await;
    let before = producer(&client).await;
    before.send(text("x")).await.unwrap();
    broker.delete_topic("t");
    broker.create_topic("t", 1);
    let after = producer(&client).await;
    assert_eq!(after.partitions(), 1);
    after.send(text("y")).await.unwrap();
    assert_eq!(broker.values("t", 0), ["y"]);
}

/// A broker, and a producer whose memory has room for 100 bytes more, and gets none back yet.
async fn nearly_full() -> (Broker, Producer<Raw>) {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    broker.hold_answers(true);
    let client = broker.client().await;
    let producer = client.producer::<Raw>("t").memory_bytes(1_000);
    let producer = producer.build().await.unwrap();
    producer.enqueue(value("first", 900 - 16)).await.unwrap();
    (broker, producer)
}

fn value(name: &str, bytes: usize) -> Raw {
    Raw::from(format!("{name:.<bytes$}"))
}

fn names(broker: &Broker) -> Vec<String> {
    let values = broker.values("t", 0);
    let names = values.iter().map(|v| v.trim_end_matches('.').to_owned());
    names.collect()
}

#[tokio::test]
async fn messages_that_wait_for_room_are_taken_in_their_order_large_ones_too() {
    let (broker, producer) = nearly_full().await;
    let mut large = std::pin::pin!(producer.send(value("large", 500)));
    assert!(large.as_mut().now_or_never().is_none());
    let mut small = std::pin::pin!(producer.send(value("small", 10)));
    assert!(small.as_mut().now_or_never().is_none());
    let many = producer.enqueue_all([value("many", 10), value("more", 10)]);
    let mut many = std::pin::pin!(many);
    assert!(many.as_mut().now_or_never().is_none());
    broker.hold_answers(false);
    // Whoever is polled first, the one that came first is taken first.
    let (many, small, large) = join3(many, small, large).await;
    many.unwrap();
    small.unwrap();
    large.unwrap();
    producer.flush().await.unwrap();
    assert_eq!(names(&broker), ["first", "large", "small", "many", "more"]);
}

#[tokio::test]
async fn a_send_that_is_not_polled_any_more_keeps_no_room_from_others() {
    let (broker, producer) = nearly_full().await;
    let mut left = std::pin::pin!(producer.send(value("left", 500)));
    assert!(left.as_mut().now_or_never().is_none());
    let mut next = std::pin::pin!(producer.send(value("next", 500)));
    assert!(next.as_mut().now_or_never().is_none());
    broker.hold_answers(false);
    next.await.unwrap();
    producer.send(value("other", 10)).await.unwrap();
    left.await.unwrap();
    assert_eq!(names(&broker), ["first", "next", "other", "left"]);
}

#[tokio::test]
async fn a_message_that_waits_for_room_is_withdrawn_when_its_call_is_dropped() {
    let (broker, producer) = nearly_full().await;
    {
        let mut large = std::pin::pin!(producer.send(value("large", 500)));
        assert!(large.as_mut().now_or_never().is_none());
    }
    // Nobody waits any more, and this one fits.
    let small = producer.submit(value("small", 10)).await.unwrap();
    broker.hold_answers(false);
    small.await.unwrap();
    assert_eq!(names(&broker), ["first", "small"]);
}

/// A send that goes on within the very call that wakes it, as it may on another thread.
struct GoesOnAtOnce(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl GoesOnAtOnce {
    fn go_on(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        // One that is just being polled is woken by itself.
        let Some(mut future) = self.0.try_lock() else {
            return;
        };
        if let Some(running) = &mut *future
            && running
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
        {
            *future = None;
        }
    }
}

impl Wake for GoesOnAtOnce {
    fn wake(self: Arc<Self>) {
        self.go_on();
    }
}

#[tokio::test]
async fn the_turn_of_one_that_has_come_to_it_within_the_end_of_the_last_one_begins_once() {
    let (broker, producer) = nearly_full().await;
    let mut large = std::pin::pin!(producer.send(value("large", 600)));
    assert!(large.as_mut().now_or_never().is_none());
    let other = producer.clone();
    let next = async move {
        other.enqueue(value("next", 600)).await.unwrap();
    };
    let next = Arc::new(GoesOnAtOnce(Mutex::new(Some(Box::pin(next)))));
    next.go_on();
    broker.hold_answers(false);
    producer.flush().await.unwrap();
    broker.hold_answers(true);
    // Takes its turn, and with it ends that of the next one begins, which finds no room yet.
    assert!(large.as_mut().now_or_never().is_none());
    eventually("it arrives", || broker.batches_received() == 2).await;
    // Whoever does not take a turn for so long is passed over.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut small = std::pin::pin!(producer.send(value("small", 10)));
    assert!(small.as_mut().now_or_never().is_none());
    broker.hold_answers(false);
    small.await.unwrap();
    large.await.unwrap();
    producer.flush().await.unwrap();
    assert_eq!(names(&broker), ["first", "large", "next", "small"]);
}
