//! What the producers of a delivery and the tasks that send for them share: the records that wait,
//! and where their topic is.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use flumen_protocol::{
    batch::Codec,
    ids::{ProducerId, ShardId, TopicId},
    message::TopicMetadata,
    topic::TopicName,
};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::{
    client::Client,
    producer::{ProducerOptions, accounts::AccountId, accumulator::Accumulator, room::Room},
    setback::Setbacks,
};

/// A delivery: what the producers and the tasks that send for them share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) client: Client,
    pub(crate) topic: TopicName,
    pub(super) producer_id: ProducerId,
    pub(super) codec: Codec,
    pub(crate) options: ProducerOptions,
    pub(crate) accumulator: Mutex<Accumulator>,
    /// Those who wait for memory.
    pub(crate) room: Room,
    pub(crate) setbacks: Setbacks,
    pub(super) place: Mutex<TopicPlace>,
    /// When the leaders were last asked for; held while asking, so that one asks for all.
    refreshed: tokio::sync::Mutex<Instant>,
}

/// Where the topic is, as far as was heard.
#[derive(Debug)]
pub(super) struct TopicPlace {
    id: TopicId,
    /// The shard that each partition lives in.
    pub(super) shards: Vec<ShardId>,
}

impl Shared {
    pub(crate) fn start(
        client: Client,
        metadata: TopicMetadata,
        accumulator: Accumulator,
        options: ProducerOptions,
        codec: Codec,
    ) -> Arc<Self> {
        let shared = Arc::new(Self {
            client,
            topic: metadata.name,
            // Zero would ask for no duplicate detection.
            producer_id: ProducerId(rand::random_range(1..=u64::MAX)),
            codec,
            options,
            accumulator: Mutex::new(accumulator),
            room: Room::default(),
            setbacks: Setbacks::default(),
            place: Mutex::new(TopicPlace {
                id: metadata.id,
                shards: metadata.shards,
            }),
            refreshed: tokio::sync::Mutex::new(Instant::now()),
        });
        tokio::spawn(watch_topic(Arc::downgrade(&shared)));
        shared
    }

    /// Another producer gives its records to this delivery; `None` if all others are closed
    /// or gone, and its tasks about to end.
    pub(crate) fn join(&self) -> Option<AccountId> {
        let mut accumulator = self.accumulator.lock();
        (!accumulator.is_closed()).then(|| accumulator.open_account())
    }

    /// Takes over what was heard of the topic.
    pub(crate) fn learn(&self, metadata: TopicMetadata) {
        let partitions = metadata.shards.len() as u32;
        let mut place = self.place.lock();
        if metadata.id < place.id {
            // Of a broker that is behind, from before the topic was made anew.
            return;
        }
        let is_made_anew = metadata.id > place.id;
        *place = TopicPlace {
            id: metadata.id,
            shards: metadata.shards,
        };
        let mut accumulator = self.accumulator.lock();
        if is_made_anew {
            accumulator.set_partitions(partitions);
        } else {
            // A broker that is behind may know fewer than there are.
            accumulator.grow(partitions);
        }
    }

    /// Asks for the leaders unless somebody did since `since`; false if the topic is gone.
    pub(super) async fn refresh(&self, since: Instant) -> bool {
        let mut refreshed = self.refreshed.lock().await;
        if *refreshed > since {
            return true;
        }
        match self.client.topic(&self.topic).await {
            Ok(Some(metadata)) => {
                *refreshed = Instant::now();
                self.learn(metadata);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::debug!(topic = %self.topic, %error, "cannot look for leaders");
                true
            }
        }
    }
}

/// Looks for new partitions from time to time, as long as the producer lives.
async fn watch_topic(shared: Weak<Shared>) {
    loop {
        let Some(interval) = shared
            .upgrade()
            .filter(|shared| !shared.accumulator.lock().is_closed())
            .map(|shared| shared.client.config().metadata_refresh)
        else {
            return;
        };
        sleep(interval).await;
        if let Some(shared) = shared.upgrade() {
            shared.refresh(Instant::now()).await;
        }
    }
}
