//! From which broker a partition is read, and for how long that stays so.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use flumen_protocol::{
    ids::{BrokerId, Offset, ShardId},
    message::StartAt,
};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::avoided::{Avoided, Useless};
use crate::{client::Client, config::SILENCE};

/// How often a stream looks whether its broker is silent, and whether it may return to a copy.
const CHECK: Duration = Duration::from_millis(100);

/// Where shards are read from.
#[derive(Debug)]
pub(super) struct Places {
    client: Client,
    avoided: Mutex<Avoided>,
}

/// Why a stream should be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// There is a better place to read from.
    Moved,
    /// The copy that is read says nothing any more; the leader may.
    Silent,
}

impl Places {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            avoided: Mutex::default(),
        }
    }

    /// The broker to read a shard from. What is asked of the end, or of a time, only the leader
    /// knows for sure; once the offset is known, a copy in the client's zone is as good.
    pub(super) fn of(&self, shard: ShardId, start: StartAt) -> Option<BrokerId> {
        let zone = match start {
            StartAt::Beginning | StartAt::Offset(_) => self.client.config().zone.as_deref(),
            StartAt::End | StartAt::Time(_) => None,
        };
        let now = Instant::now();
        let avoided = self.avoided.lock();
        let cluster = self.client.cluster();
        cluster.reader(shard, zone, |id| avoided.contains(id, now))
    }

    /// Notes that a broker is of no use to read from. Matters only where it is not the leader.
    pub(super) fn avoid(&self, broker: BrokerId, why: Useless) {
        self.avoided.lock().note(broker, why, Instant::now());
    }

    /// Whether the broker leads all of the shards, as far as is known.
    pub(super) fn leads(&self, broker: Option<BrokerId>, shards: &[ShardId]) -> bool {
        let cluster = self.client.cluster();
        shards.iter().all(|shard| cluster.leader(*shard) == broker)
    }

    /// Waits until the shards should no longer be read from this broker. Once the broker has said
    /// where it starts, all starts are offsets.
    pub(super) async fn left(
        &self,
        broker: Option<BrokerId>,
        starts: &[(ShardId, StartAt)],
        has_started: &AtomicBool,
    ) -> Leave {
        let shards: Vec<_> = starts.iter().map(|(shard, _)| *shard).collect();
        let connected = self.client.broker(broker);
        let mut changes = self.client.cluster().changes();
        let mut search = None;
        loop {
            let has_started = has_started.load(Ordering::Relaxed);
            let better = |(shard, start): &(ShardId, StartAt)| {
                let known = StartAt::Offset(Offset(0));
                let place = self.of(*shard, if has_started { known } else { *start });
                place.is_some() && place != broker
            };
            if starts.iter().any(better) {
                return Leave::Moved;
            }
            if !connected.is_silent() {
                search = None;
            } else if !self.leads(broker, &shards) {
                return Leave::Silent;
            } else if search.is_none() {
                tracing::debug!(
                    broker = connected.address(),
                    "silent for {SILENCE:?}, asking others"
                );
                search = Some(self.client.search());
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(CHECK) => {}
            }
        }
    }

    /// Waits until one of the shards is read from another broker than this one, for at most
    /// `wait`; meanwhile others are asked.
    pub(super) async fn elsewhere(
        &self,
        broker: Option<BrokerId>,
        starts: &[(ShardId, StartAt)],
        wait: Duration,
    ) {
        let _search = self.client.search();
        let mut changes = self.client.cluster().changes();
        let elsewhere = async {
            let other = |(shard, start): &(ShardId, StartAt)| {
                let place = self.of(*shard, *start);
                place.is_some() && place != broker
            };
            while !starts.iter().any(other) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // When the time is up, the same broker is tried again.
        let _ = tokio::time::timeout(wait, elsewhere).await;
    }
}
