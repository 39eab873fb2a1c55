//! What a steward remembers from round to round, and the steps that it has begun.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flumen_protocol::ids::ShardId;
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};

use crate::shard::raft::GroupView;

/// What the steward remembers from round to round.
#[derive(Default)]
pub(super) struct Memory {
    /// Since when this broker has led what it leads, and in which term.
    led_since: BTreeMap<ShardId, (u64, Instant)>,
    pub(super) reported: Option<(Instant, Vec<(ShardId, u64)>)>,
    /// Steps under way, and the shards that they are of.
    pub(super) steps: JoinSet<()>,
    busy: Arc<Mutex<BTreeSet<ShardId>>>,
}

/// A shard with a step under way; it ends with this, however that comes about.
struct Busy {
    shards: Arc<Mutex<BTreeSet<ShardId>>>,
    shard: ShardId,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shards.lock().remove(&self.shard);
    }
}

impl Memory {
    /// Begins a step of a shard, unless one is under way.
    pub(super) fn begin(
        &mut self,
        shard: ShardId,
        step: impl Future<Output = ()> + Send + 'static,
    ) {
        if self.busy.lock().insert(shard) {
            let busy = Busy {
                shards: Arc::clone(&self.busy),
                shard,
            };
            self.steps.spawn(async move {
                step.await;
                drop(busy);
            });
        }
    }

    pub(super) fn note_leadership(&mut self, views: &BTreeMap<ShardId, GroupView>) {
        self.led_since.retain(|shard, (term, _)| {
            views.get(shard).is_some_and(|v| v.leads && v.term == *term)
        });
        for (shard, view) in views.iter().filter(|(_, view)| view.leads) {
            let since = (view.term, Instant::now());
            self.led_since.entry(*shard).or_insert(since);
        }
    }

    pub(super) fn led_for(&self, shard: ShardId) -> Duration {
        let since = self.led_since.get(&shard);
        since.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }
}
