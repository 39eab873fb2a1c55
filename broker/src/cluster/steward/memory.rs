//! What a steward remembers from round to round, and the steps that it has begun.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flumen_protocol::ids::{BrokerId, ShardId};
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
    pub(super) stuck: Stuck,
}

/// Damaged shards that this broker goes on to lead since no other one can, and how things stood when
/// that was told last. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Stuck {
    told: Arc<Mutex<BTreeMap<ShardId, Standing>>>,
}

/// What has to change until another broker can lead a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) term: u64,
    pub(super) voters: BTreeSet<BrokerId>,
    /// The brokers that were heard of lately.
    pub(super) present: BTreeSet<BrokerId>,
}

impl Stuck {
    /// Whether this was not told yet; from now on it was.
    pub(super) fn is_news(&self, shard: ShardId, standing: Standing) -> bool {
        let before = self.told.lock().insert(shard, standing.clone());
        before != Some(standing)
    }

    /// Forgets all shards but these.
    pub(super) fn keep_only(&self, damaged: &BTreeSet<ShardId>) {
        self.told.lock().retain(|shard, _| damaged.contains(shard));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nobody_else_can_lead_is_told_again_when_something_has_changed() {
        let shard = ShardId(1);
        let alone = Standing {
            term: 1,
            voters: BTreeSet::from([BrokerId(1)]),
            present: BTreeSet::from([BrokerId(1)]),
        };
        let another_is_there = Standing {
            present: BTreeSet::from([BrokerId(1), BrokerId(2)]),
            ..alone.clone()
        };
        let stuck = Stuck::default();
        assert!(stuck.is_news(shard, alone.clone()));
        assert!(!stuck.is_news(shard, alone.clone()));
        assert!(stuck.is_news(ShardId(2), alone.clone()));
        assert!(stuck.is_news(shard, another_is_there));
        assert!(stuck.is_news(shard, alone.clone()));
        stuck.keep_only(&BTreeSet::from([ShardId(2)]));
        assert!(!stuck.is_news(ShardId(2), alone.clone()));
        // It was repaired, and is damaged once more.
        assert!(stuck.is_news(shard, alone));
    }
}
