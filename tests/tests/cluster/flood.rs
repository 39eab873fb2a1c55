//! Much data in little time, in small write-ahead logs.

use bytes::Bytes;
use flumen_client::{TopicConfig, TopicName};
use flumen_tests::{cluster::Cluster, copies::equal_copies};

/// Arguments for brokers whose write-ahead logs are soon full.
pub(crate) const SMALL_LOGS: [&str; 3] = [
    "--limits-batch-bytes-max=256KiB",
    "--wal-segment-bytes=1MiB",
    "--wal-bytes-max=8MiB",
];

/// Bytes of a record.
const VALUE_BYTES: usize = 100_000;

/// Records that a flood has in flight.
const IN_FLIGHT: usize = 8;

/// A topic for floods.
pub(crate) struct Flood {
    topic: TopicName,
    records: u64,
}

impl Flood {
    /// Makes the topic.
    pub(crate) async fn make(cluster: &Cluster) -> Self {
        let topic: TopicName = "flood".parse().unwrap();
        let config = TopicConfig {
            partitions: 6,
            segment_bytes: 1 << 20,
            ..TopicConfig::default()
        };
        let client = cluster.client().await;
        let made = client.admin().create_topic(topic.as_str(), config).await;
        made.unwrap();
        Self { topic, records: 0 }
    }

    /// Sends at least so many bytes, all of which must be acknowledged.
    pub(crate) async fn send(&mut self, cluster: &Cluster, bytes: usize) {
        let client = cluster.client().await;
        let producer = client.producer::<Bytes>(self.topic.to_string());
        let producer = producer.build().await.unwrap();
        let value = Bytes::from(vec![7; VALUE_BYTES]);
        for _ in 0..bytes.div_ceil(VALUE_BYTES * IN_FLIGHT) {
            let sent = (0..IN_FLIGHT).map(|_| producer.send(value.clone()));
            for outcome in futures_util::future::join_all(sent).await {
                outcome.unwrap();
                self.records += 1;
            }
        }
    }

    /// Every broker has all of it.
    pub(crate) async fn assert_everywhere(&self, cluster: &Cluster) {
        let copy = equal_copies(cluster, &self.topic, cluster.brokers.len()).await;
        let batches = copy.values().flatten();
        let records: u64 = batches.map(|batch| u64::from(batch.record_count())).sum();
        assert_eq!(records, self.records);
    }
}
