//! Who leads the shards, as the brokers tell each other.

use std::collections::BTreeMap;

use flumen_protocol::ids::{BrokerId, ShardId};
use parking_lot::RwLock;

/// The leaders that were heard of, each with its term. A later term always wins.
#[derive(Debug, Default)]
pub(crate) struct Leaders {
    heard: RwLock<BTreeMap<ShardId, (u64, BrokerId)>>,
}

impl Leaders {
    /// Takes note of a leader, unless one of a later term is known.
    pub(crate) fn note(&self, shard: ShardId, term: u64, leader: BrokerId) {
        let mut heard = self.heard.write();
        let known = heard.entry(shard).or_insert((term, leader));
        if known.0 <= term {
            *known = (term, leader);
        }
    }

    /// The leader of the latest term, and that term: what the replica here sees, or what was heard.
    pub(crate) fn latest(
        &self,
        shard: ShardId,
        (seen, term): (Option<BrokerId>, u64),
    ) -> (Option<BrokerId>, u64) {
        match self.heard.read().get(&shard) {
            Some((heard_term, leader)) if *heard_term > term => (Some(*leader), *heard_term),
            Some((heard_term, leader)) if *heard_term == term => (seen.or(Some(*leader)), term),
            _ => (seen, term),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    #[test]
    fn the_leader_of_the_latest_term_counts() {
        let leaders = Leaders::default();
        let seen = |id, term| leaders.latest(SHARD, (Some(BrokerId(id)), term)).0;
        assert_eq!(leaders.latest(SHARD, (None, 0)), (None, 0));
        leaders.note(SHARD, 5, BrokerId(1));
        leaders.note(SHARD, 4, BrokerId(2));
        assert_eq!(leaders.latest(SHARD, (None, 0)), (Some(BrokerId(1)), 5));
        assert_eq!(seen(2, 4), Some(BrokerId(1)));
        assert_eq!(seen(2, 6), Some(BrokerId(2)));
        // An election is under way here; the leader that was heard of is of an earlier term.
        assert_eq!(leaders.latest(SHARD, (None, 6)), (None, 6));
    }
}
