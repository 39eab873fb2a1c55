//! Producers and consumers at work while a test does something to the brokers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flumen_client::{Client, Message, SendError, StartAt, TopicConfig, TopicName};
use tokio::task::JoinHandle;

use crate::{
    checker::{Acknowledged, History, Seen, check},
    cluster::Cluster,
    copies::{equal_copies, records},
    wait::until,
};

/// Partitions of the topic under load.
const PARTITIONS: u32 = 6;

/// Producers, each with a client and a sequence of its own.
const PRODUCERS: u32 = 4;

/// Consumers, each with a client of its own; each reads everything.
const CONSUMERS: usize = 2;

/// Records that a producer has in flight.
const BURST: u64 = 8;

/// The rest between two bursts: enough load for a test, and the machine is not full.
const REST: Duration = Duration::from_millis(15);

/// Records that each producer must have got through until it counts as going on.
const PROGRESS: u64 = 2 * BURST;

/// Idempotent producers and consumers on a topic of their own.
#[derive(Debug)]
pub struct Load {
    topic: TopicName,
    stop: Arc<AtomicBool>,
    producers: Vec<Producing>,
    consumers: Vec<Consuming>,
}

#[derive(Debug)]
struct Producing {
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<(History, Vec<SendError>)>,
}

#[derive(Debug)]
struct Consuming {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Consuming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What came of a load.
#[derive(Debug)]
pub struct Outcome {
    /// Sends that failed, or whose outcome is unknown.
    pub failures: Vec<SendError>,
    /// Sends that were acknowledged.
    pub acknowledged: u64,
}

impl Outcome {
    /// Nobody had to hear of what was done to the brokers.
    ///
    /// # Panics
    /// When a send has failed.
    pub fn assert_no_send_failed(&self) {
        let failures = &self.failures;
        assert!(
            failures.is_empty(),
            "{} sends failed of {} and more, such as: {:?}",
            failures.len(),
            self.acknowledged,
            failures[0]
        );
    }
}

impl Load {
    /// Makes a topic, and starts producers and consumers that go on until [`Load::finish`].
    ///
    /// # Panics
    /// When they cannot start.
    pub async fn start(cluster: &Cluster, topic: &str) -> Self {
        let client = cluster.client().await;
        let config = TopicConfig {
            partitions: PARTITIONS,
            segment_bytes: 256 * 1024,
            ..TopicConfig::default()
        };
        client.admin().create_topic(topic, config).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = Self {
            topic: topic.parse().unwrap(),
            stop,
            producers: Vec::new(),
            consumers: Vec::new(),
        };
        for id in 0..PRODUCERS {
            let client = cluster.client().await;
            load.producers.push(load.produce(id, client).await);
        }
        for _ in 0..CONSUMERS {
            let client = cluster.client().await;
            load.consumers.push(load.consume(client).await);
        }
        load.until_progress().await;
        load
    }

    /// Sends numbers to all partitions in turn, and keeps what it is told.
    async fn produce(&self, id: u32, client: Client) -> Producing {
        let producer = client.producer::<Bytes>(self.topic.to_string());
        let producer = producer.build().await.unwrap();
        let stop = Arc::clone(&self.stop);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&acknowledged);
        let task = tokio::spawn(async move {
            let mut history = History::default();
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let mut sent = Vec::new();
                for number in history.sent..history.sent + BURST {
                    let partition = (id + number as u32) % PARTITIONS;
                    let value = Bytes::from(format!("{id} {number}"));
                    let message = Message::new(value).partition(partition);
                    sent.push((number, producer.submit(message).await));
                }
                history.sent += BURST;
                for (number, pending) in sent {
                    let outcome = match pending {
                        Ok(pending) => pending.await,
                        Err(error) => Err(error),
                    };
                    match outcome {
                        Ok(receipt) => {
                            counter.fetch_add(1, Ordering::Relaxed);
                            history.acknowledged.push(Acknowledged {
                                number,
                                partition: receipt.partition,
                                offset: receipt.offset.map(|offset| offset.0),
                            });
                        }
                        Err(error) => failures.push(error),
                    }
                }
                tokio::time::sleep(REST).await;
            }
            (history, failures)
        });
        Producing { acknowledged, task }
    }

    async fn consume(&self, client: Client) -> Consuming {
        let consumer = client.consumer::<Bytes>(self.topic.to_string());
        let consumer = consumer.from(StartAt::Beginning).build().await;
        let mut consumer = consumer.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Some(received) = consumer.next().await {
                let received = received.unwrap();
                let (partition, offset) = (received.partition, received.offset.0);
                let record = Seen::parse(&received.value, partition, offset);
                all.lock().unwrap().push(record);
            }
        });
        Consuming { seen, task }
    }

    /// Waits until every producer has got more records through than it has now, those that are
    /// on their way left out of account.
    ///
    /// # Panics
    /// When that does not come about within the deadline.
    pub async fn until_progress(&self) {
        for producing in &self.producers {
            let counter = &producing.acknowledged;
            let goal = counter.load(Ordering::Relaxed) + PROGRESS;
            until("every producer gets records through", || async {
                counter.load(Ordering::Relaxed) >= goal
            })
            .await;
        }
    }

    /// Ends the load and compares what everybody was told and has: nothing that was acknowledged
    /// is lost, nothing is there twice, each producer's records are in order, all copies are
    /// equal, and each consumer has seen all of it, without going back.
    ///
    /// # Panics
    /// When anything contradicts.
    pub async fn finish(self, cluster: &Cluster, replicas: usize) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut histories = BTreeMap::new();
        let mut failures = Vec::new();
        for (id, producing) in (0..).zip(self.producers) {
            let (history, failed) = producing.task.await.unwrap();
            histories.insert(id, history);
            failures.extend(failed);
        }
        let copy = equal_copies(cluster, &self.topic, replicas).await;
        let stored = records(&copy);
        complain("the copies", &check(&histories, &stored));
        for consuming in &self.consumers {
            until("the consumers have seen everything", || async {
                assert!(!consuming.task.is_finished(), "a consumer has failed");
                consuming.seen.lock().unwrap().len() >= stored.len()
            })
            .await;
            let seen = consuming.seen.lock().unwrap().clone();
            complain("a consumer", &check(&histories, &seen));
            let mut sorted = seen;
            sorted.sort_by_key(|record| (record.partition, record.offset));
            assert!(sorted == stored, "a consumer has seen what is not stored");
        }
        let acknowledged = histories.values().map(|h| h.acknowledged.len() as u64);
        let acknowledged = acknowledged.sum();
        assert!(acknowledged > 0, "nothing was acknowledged");
        Outcome {
            failures,
            acknowledged,
        }
    }
}

fn complain(who: &str, contradictions: &[String]) {
    assert!(
        contradictions.is_empty(),
        "{who}: {} contradictions, such as: {:#?}",
        contradictions.len(),
        &contradictions[..contradictions.len().min(10)]
    );
}
