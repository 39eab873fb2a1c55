//! Producers and consumers whose leader changes.

use std::time::{Duration, Instant};

use flumen_client::{Client, Consumer, Offset, Producer, Raw};
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::broker::{PATIENCE, cluster::Cluster, eventually};

/// What a client may add to the time that brokers take to elect a leader, in tests that share
/// the machine with others.
const CLIENT_SHARE: Duration = Duration::from_secs(2);

async fn producer(client: &Client) -> Producer<Raw> {
    client.producer::<Raw>("t").build().await.unwrap()
}

fn to_first(n: u32) -> flumen_client::Message<Raw> {
    flumen_client::Message::new(Raw::from(n.to_string())).partition(0)
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn next_text(consumer: &mut Consumer<Raw>) -> String {
    let next = timeout(PATIENCE, consumer.next()).await;
    let message = next.expect("a message comes").unwrap().unwrap();
    String::from_utf8(message.value.to_vec()).unwrap()
}

#[tokio::test]
async fn a_producer_follows_a_planned_change_without_a_pause() {
    let cluster = Cluster::start(3).await;
    let producer = producer(&cluster.client().await).await;
    let mut slowest = Duration::ZERO;
    for n in 0..60 {
        if n % 10 == 9 {
            cluster.elect(Some(n as usize / 10 % 3));
        }
        let started = Instant::now();
        producer.send(to_first(n)).await.unwrap();
        slowest = slowest.max(started.elapsed());
    }
    assert_eq!(cluster.values("t", 0), numbers(0..60));
    assert!(slowest < CLIENT_SHARE / 2, "{slowest:?}");
}

#[tokio::test]
async fn a_producer_waits_for_a_leader_while_there_is_none() {
    let cluster = Cluster::start(3).await;
    let producer = producer(&cluster.client().await).await;
    producer.send(to_first(0)).await.unwrap();
    cluster.elect(None);
    let sending = tokio::spawn(async move { producer.send(to_first(1)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!sending.is_finished());
    cluster.elect(Some(2));
    let elected = Instant::now();
    sending.await.unwrap().unwrap();
    assert!(elected.elapsed() < CLIENT_SHARE, "{:?}", elected.elapsed());
    assert_eq!(cluster.values("t", 0), numbers(0..2));
}

#[tokio::test]
async fn a_producer_leaves_a_leader_that_is_cut_off_as_soon_as_another_one_leads() {
    let cluster = Cluster::start(3).await;
    let producer = producer(&cluster.client().await).await;
    producer.send(to_first(0)).await.unwrap();
    cluster.cut(0);
    let sending = tokio::spawn(async move { producer.send(to_first(1)).await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    cluster.elect(Some(1));
    let elected = Instant::now();
    sending.await.unwrap().unwrap();
    assert!(elected.elapsed() < CLIENT_SHARE, "{:?}", elected.elapsed());
    assert_eq!(cluster.values("t", 0), numbers(0..2));
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_is_one_record_also_at_another_leader() {
    let cluster = Cluster::start(3).await;
    let producer = producer(&cluster.client().await).await;
    producer.send(to_first(0)).await.unwrap();
    cluster.brokers[0].hold_answers(true);
    let before = cluster.brokers[0].batches_received();
    let sending = tokio::spawn(async move { producer.send(to_first(1)).await });
    eventually("the batch is stored", || {
        cluster.brokers[0].batches_received() > before
    })
    .await;
    cluster.elect(Some(1));
    let receipt = sending.await.unwrap().unwrap();
    assert!(receipt.duplicate);
    assert_eq!(receipt.offset, Some(Offset(1)));
    // What the old leader says now, nobody listens to.
    cluster.brokers[0].hold_answers(false);
    assert_eq!(cluster.values("t", 0), numbers(0..2));
}

#[tokio::test]
async fn a_batch_that_was_stuck_at_the_old_leader_is_stored_once_and_in_order() {
    let cluster = Cluster::start(3).await;
    let producer = producer(&cluster.client().await).await;
    producer.send(to_first(0)).await.unwrap();
    cluster.brokers[0].get_stuck(true);
    let mut receipts = Vec::new();
    for n in 1..200 {
        receipts.push(producer.submit(to_first(n)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    cluster.elect(Some(2));
    cluster.brokers[0].get_stuck(false);
    for (n, receipt) in join_all(receipts).await.into_iter().enumerate() {
        assert_eq!(receipt.unwrap().offset, Some(Offset(n as u64 + 1)));
    }
    assert_eq!(cluster.values("t", 0), numbers(0..200));
}

#[tokio::test]
async fn leaders_that_change_all_the_time_lose_double_and_reorder_nothing() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let producer = producer(&client).await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    let sending = async {
        let mut receipts = Vec::new();
        for n in 0..400 {
            receipts.push(producer.submit(to_first(n)).await.unwrap());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for receipt in join_all(receipts).await {
            receipt.unwrap();
        }
    };
    let changing = async {
        for change in 0.. {
            let broker = &cluster.brokers[change % 3];
            broker.hold_answers(change % 2 == 0);
            broker.get_stuck(change % 5 == 0);
            tokio::time::sleep(Duration::from_millis(15)).await;
            cluster.elect(Some((change + 1) % 3).filter(|_| change % 4 != 3));
            for broker in &cluster.brokers {
                broker.hold_answers(false);
                broker.get_stuck(false);
            }
        }
    };
    tokio::select! {
        () = sending => {}
        () = changing => {}
    }
    assert_eq!(cluster.values("t", 0), numbers(0..400));
    for n in 0..400 {
        assert_eq!(next_text(&mut consumer).await, n.to_string());
    }
}

#[tokio::test]
async fn a_consumer_goes_on_at_the_next_leader_where_it_was() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    for n in 0..30_u32 {
        if n % 10 == 5 {
            cluster.elect(Some(n as usize / 10 + 1).filter(|at| *at < 3));
        }
        cluster.brokers[0].append("t", 0, "", &[n.to_string().as_bytes()]);
        assert_eq!(next_text(&mut consumer).await, n.to_string());
    }
}

#[tokio::test]
async fn a_consumer_notices_that_its_broker_is_gone_although_nothing_is_asked_of_it() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    cluster.brokers[0].append("t", 0, "", &[b"0"]);
    assert_eq!(next_text(&mut consumer).await, "0");
    cluster.cut(0);
    cluster.elect(Some(1));
    let elected = Instant::now();
    cluster.brokers[0].append("t", 0, "", &[b"1"]);
    assert_eq!(next_text(&mut consumer).await, "1");
    let took = elected.elapsed();
    assert!(
        took < flumen_client::config::SILENCE + CLIENT_SHARE,
        "{took:?}"
    );
}

#[tokio::test]
async fn a_new_leader_that_does_not_know_all_records_yet_is_waited_for() {
    let cluster = Cluster::start(2).await;
    let client = cluster.client().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    for n in ["0", "1"] {
        cluster.brokers[0].append("t", 0, "", &[n.as_bytes()]);
        assert_eq!(next_text(&mut consumer).await, n);
    }
    cluster.brokers[1].retain_end("t", 0, 1);
    cluster.elect(Some(1));
    let waiting = timeout(Duration::from_millis(200), consumer.next()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    cluster.brokers[1].retain_end("t", 0, 2);
    cluster.brokers[1].append("t", 0, "", &[b"2"]);
    assert_eq!(next_text(&mut consumer).await, "2");
}
