//! Kill the broker at any moment: what it acknowledged is there, once, in order.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flumen_client::{Client, Message, StartAt, TopicConfig};
use flumen_tests::{
    broker::Broker,
    checker::{Acknowledged, History, Seen, check},
};
use rand::RngExt;
use tokio::task::JoinHandle;

const TOPIC: &str = "numbers";
const PARTITIONS: u32 = 3;
const PRODUCERS: u32 = 6;

/// Rounds of work and kill. More by `FLUMEN_TEST_ROUNDS`.
fn rounds() -> u32 {
    let rounds = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    rounds.and_then(|text| text.parse().ok()).unwrap_or(12)
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_kill_9_once_and_in_order() {
    survive_kills(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_kill_9_without_waiting_for_syncs() {
    // A crash of the process loses nothing that was written; only a loss of power could.
    survive_kills(&["--wal-sync", "every 100ms"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_kill_9_with_constant_checkpoints() {
    survive_kills(&[
        "--limits-batch-bytes-max=256KiB",
        "--wal-segment-bytes=1MiB",
        "--wal-bytes-max=4MiB",
    ])
    .await;
}

async fn survive_kills(args: &[&str]) {
    let mut broker = Broker::start_with(args).await;
    let client = broker.client().await;
    let config = TopicConfig {
        partitions: PARTITIONS,
        segment_bytes: 256 * 1024,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|id| spawn_producer(id, client.clone(), Arc::clone(&stop)))
        .collect();
    for _ in 0..rounds() {
        let uptime = rand::rng().random_range(10..400);
        tokio::time::sleep(Duration::from_millis(uptime)).await;
        broker.kill();
        broker.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut histories = BTreeMap::new();
    for (id, producer) in producers.into_iter().enumerate() {
        histories.insert(id as u32, producer.await.unwrap());
    }
    broker.kill();
    broker.restart().await;

    let seen = read_all(&broker.client().await).await;
    let acknowledged: usize = histories.values().map(|h| h.acknowledged.len()).sum();
    assert!(
        acknowledged > 0,
        "nothing was acknowledged, so nothing was tested"
    );
    let contradictions = check(&histories, &seen);
    assert!(
        contradictions.is_empty(),
        "{} contradictions over {acknowledged} acknowledged records, such as: {:#?}",
        contradictions.len(),
        &contradictions[..contradictions.len().min(10)]
    );
}

/// Sends numbers until told to stop, several in flight, and keeps what it was told.
fn spawn_producer(id: u32, client: Client, stop: Arc<AtomicBool>) -> JoinHandle<History> {
    tokio::spawn(async move {
        let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
        let partition = id % PARTITIONS;
        let mut history = History::default();
        while !stop.load(Ordering::Relaxed) {
            let first = history.sent;
            history.sent += 8;
            let sends = (first..history.sent).map(|number| {
                let value = Bytes::from(format!("{id} {number}"));
                producer.send(Message::new(value).partition(partition))
            });
            let receipts = futures_util::future::join_all(sends).await;
            for (number, receipt) in (first..).zip(receipts) {
                // What failed may or may not be there; the checker allows for both.
                if let Ok(receipt) = receipt {
                    history.acknowledged.push(Acknowledged {
                        number,
                        partition: receipt.partition,
                        offset: receipt.offset.map(|offset| offset.0),
                    });
                }
            }
        }
        history
    })
}

async fn read_all(client: &Client) -> Vec<Seen> {
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.until_end().build().await.unwrap();
    let mut seen = Vec::new();
    while let Some(received) = consumer.next().await {
        let received = received.unwrap();
        let (partition, offset) = (received.partition, received.offset.0);
        seen.push(Seen::parse(&received.value, partition, offset));
    }
    seen
}
