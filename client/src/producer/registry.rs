//! Producers of one client that send the same way share one delivery.
//!
//! Many tasks of a service with one record on its way each are slow if each record is a batch,
//! with a stream, a checksum and a place in the log of its own. What they send at the same time
//! goes into one batch instead, as if they had clones of one producer.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use flumen_protocol::{batch::Codec, ids::TopicId, message::TopicMetadata};
use parking_lot::Mutex;

use super::{
    ProducerOptions,
    accounts::AccountId,
    accumulator::{Accumulator, AccumulatorOptions},
    worker::Shared,
};
use crate::client::Client;

/// All that must be equal for producers to share a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DeliveryKey {
    /// A topic that was deleted and made again is another one.
    pub(super) topic: TopicId,
    pub(super) content_type: String,
    pub(super) codec: Codec,
    pub(super) limits: AccumulatorOptions,
    pub(super) options: ProducerOptions,
}

impl DeliveryKey {
    /// Begins a delivery of that kind.
    pub(super) fn start(self, client: Client, metadata: TopicMetadata) -> (Arc<Shared>, AccountId) {
        let partitions = metadata.shards.len() as u32;
        let mut accumulator = Accumulator::new(self.limits, self.content_type, partitions);
        accumulator.begin_at(rand::random_range(0..usize::MAX));
        let account = accumulator.open_account();
        let shared = Shared::start(client, metadata, accumulator, self.options, self.codec);
        (shared, account)
    }
}

/// The deliveries of a client that are in use.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    by_key: Mutex<HashMap<DeliveryKey, Weak<Shared>>>,
}

impl Deliveries {
    /// Joins the delivery of that kind, or begins it.
    pub(super) fn join(
        &self,
        key: DeliveryKey,
        client: Client,
        metadata: TopicMetadata,
    ) -> (Arc<Shared>, AccountId) {
        let mut by_key = self.by_key.lock();
        if let Some(shared) = by_key.get(&key).and_then(Weak::upgrade)
            && let Some(account) = shared.join()
        {
            drop(by_key);
            shared.learn(metadata);
            return (shared, account);
        }
        by_key.retain(|_, shared| shared.strong_count() > 0);
        let (shared, account) = key.clone().start(client, metadata);
        by_key.insert(key, Arc::downgrade(&shared));
        (shared, account)
    }
}
