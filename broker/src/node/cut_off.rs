//! Shards that this broker is cut off from: it hears of no leader, or leads and hears of no
//! majority. What it has of them may be old by now, and stay so. Those who read it cannot tell that
//! from a topic in which nothing happens, so they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use flumen_protocol::ids::ShardId;
use tokio::{sync::watch, time::sleep};

use super::Node;

/// How often a broker that has others looks whether it hears of them.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A shard counts as cut off when that has lasted so long: several elections. Each time clients ask
/// others.
const CUT_OFF_AFTER: Duration = Duration::from_secs(1);

/// How often this broker was cut off from each shard so far; those that it never was are missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct CutOffs(Arc<BTreeMap<ShardId, u64>>);

impl CutOffs {
    /// Whether this broker was cut off from a shard since `before`.
    pub(crate) fn has_new(&self, before: &Self, shard: ShardId) -> bool {
        let now = self.0.get(&shard);
        now.is_some() && now != before.0.get(&shard)
    }
}

/// What was seen of the shards.
#[derive(Debug, Default)]
struct Looks {
    /// Shards that are out of touch, since when, and whether that counts already.
    out_of_touch: BTreeMap<ShardId, (Instant, bool)>,
    counts: BTreeMap<ShardId, u64>,
}

impl Looks {
    /// Takes note of the shards that are out of touch now; what is new, if anything is.
    fn look(&mut self, now: Instant, out_of_touch: &BTreeSet<ShardId>) -> Option<CutOffs> {
        self.out_of_touch
            .retain(|shard, _| out_of_touch.contains(shard));
        let mut is_new = false;
        for shard in out_of_touch {
            let (since, counts) = self.out_of_touch.entry(*shard).or_insert((now, false));
            if !*counts && now.duration_since(*since) >= CUT_OFF_AFTER {
                *counts = true;
                is_new = true;
                *self.counts.entry(*shard).or_default() += 1;
            }
        }
        is_new.then(|| CutOffs(Arc::new(self.counts.clone())))
    }
}

impl Node {
    /// Is told whenever this broker is cut off from shards.
    pub(crate) fn cut_offs(&self) -> watch::Receiver<CutOffs> {
        self.cut_offs.subscribe()
    }

    fn out_of_touch(&self) -> BTreeSet<ShardId> {
        let shards = self.shards.all_data().into_iter();
        let shards = shards.map(|shard| shard.group().shard());
        shards.filter(|shard| !self.is_in_touch(*shard)).collect()
    }
}

/// Looks after the shards for as long as the broker runs.
pub(super) async fn look_after(node: Weak<Node>) {
    let Some(mut catalog) = node.upgrade().map(|node| node.catalog.watch()) else {
        return;
    };
    let mut looks = Looks::default();
    loop {
        // A broker that is alone is not to be woken for this.
        let has_others = catalog.wait_for(|state| state.brokers.len() > 1);
        if has_others.await.map(drop).is_err() {
            return;
        }
        sleep(LOOK_INTERVAL).await;
        let Some(node) = node.upgrade() else { return };
        if let Some(news) = looks.look(Instant::now(), &node.out_of_touch()) {
            node.cut_offs.send_replace(news);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(shards: &[u32]) -> BTreeSet<ShardId> {
        shards.iter().map(|shard| ShardId(*shard)).collect()
    }

    #[test]
    fn a_shard_is_cut_off_once_when_it_is_out_of_touch_for_long_and_again_after_it_was_not() {
        let (start, none) = (Instant::now(), CutOffs::default());
        let mut looks = Looks::default();
        let look = |looks: &mut Looks, after: Duration, shards: &[u32]| {
            looks.look(start + after, &set(shards))
        };
        assert!(look(&mut looks, Duration::ZERO, &[1, 2]).is_none());
        assert!(look(&mut looks, CUT_OFF_AFTER / 2, &[1]).is_none());
        let first = look(&mut looks, CUT_OFF_AFTER, &[1, 2]).unwrap();
        assert!(first.has_new(&none, ShardId(1)));
        assert!(!first.has_new(&none, ShardId(2)), "it was in touch between");
        assert!(look(&mut looks, CUT_OFF_AFTER * 3 / 2, &[1]).is_none());
        assert!(look(&mut looks, CUT_OFF_AFTER * 2, &[]).is_none());
        assert!(look(&mut looks, CUT_OFF_AFTER * 3, &[1]).is_none());
        let again = look(&mut looks, CUT_OFF_AFTER * 4, &[1]).unwrap();
        assert!(again.has_new(&first, ShardId(1)));
        assert!(!again.has_new(&again, ShardId(1)));
    }
}
