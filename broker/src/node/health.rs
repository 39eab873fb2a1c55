//! What the admin endpoints show of the broker.

use super::Node;
use crate::{admin::Health, metrics::Metrics};

impl Health for Node {
    fn failure(&self) -> Option<String> {
        self.shards.failure()
    }

    fn not_ready(&self) -> Option<String> {
        self.degraded()
    }

    fn refresh(&self, metrics: &Metrics) {
        self.plugins.hooks().count();
        let shards = self.shards.all_data();
        let partitions: u64 = shards.iter().map(|shard| shard.status().partitions).sum();
        let storage = &metrics.storage;
        storage.partitions.set(partitions as i64);
        storage
            .topics
            .set(self.catalog.snapshot().topics.len() as i64);
        storage
            .unflushed_bytes
            .set(self.logs.unflushed_bytes() as i64);
        storage.degraded.set(i64::from(self.degraded().is_some()));
        metrics.wal.used_bytes.set(self.wal.usage().bytes as i64);
    }
}
