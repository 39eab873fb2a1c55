//! Recent entries of a Raft log in memory.

use std::{collections::VecDeque, ops::Range};

use openraft::entry::RaftEntry;

use crate::shard::types::Entry;

/// Bytes of applied entries that a shard keeps for readers that are slightly behind. Entries
/// that are not applied yet are always kept, whatever their size.
pub(super) const APPLIED_BYTES_MAX: usize = 1024 * 1024;

/// A run of entries without gaps, the oldest first.
#[derive(Default)]
pub(super) struct EntryCache {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    applied_end: u64,
}

impl EntryCache {
    /// The indexes that are here.
    pub(super) fn range(&self) -> Range<u64> {
        let start = self.entries.front().map_or(0, |(entry, _)| entry.index());
        start..start + self.entries.len() as u64
    }

    /// Adds the entry after the last one; if it is not that, the cache starts anew with it.
    pub(super) fn push(&mut self, entry: Entry, bytes: usize) {
        if !self.entries.is_empty() && entry.index() != self.range().end {
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        self.evict();
    }

    /// Entries up to `index` are applied.
    pub(super) fn applied(&mut self, index: u64) {
        self.applied_end = self.applied_end.max(index + 1);
        self.evict();
    }

    /// Drops entries from `start` on.
    pub(super) fn truncate_from(&mut self, start: u64) {
        while self.range().end > start
            && let Some((_, bytes)) = self.entries.pop_back()
        {
            self.bytes -= bytes;
        }
    }

    /// Drops entries before `end`.
    pub(super) fn purge_to(&mut self, end: u64) {
        while self.entries.front().is_some_and(|(e, _)| e.index() < end) {
            self.pop_front();
        }
    }

    /// The entries of `range`, which must be here.
    pub(super) fn get(&self, range: Range<u64>) -> impl Iterator<Item = &Entry> {
        let first = self.range().start;
        let range = (range.start - first) as usize..(range.end - first) as usize;
        self.entries.range(range).map(|(entry, _)| entry)
    }

    fn evict(&mut self) {
        while self.bytes > APPLIED_BYTES_MAX
            && let Some((entry, _)) = self.entries.front()
            && entry.index() < self.applied_end
        {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{command::log_id, types::Payload};

    fn entry(index: u64) -> Entry {
        Entry {
            log_id: log_id(1, index),
            payload: Payload::Blank,
        }
    }

    fn filled(indexes: Range<u64>, bytes: usize) -> EntryCache {
        let mut cache = EntryCache::default();
        for index in indexes {
            cache.push(entry(index), bytes);
        }
        cache
    }

    #[test]
    fn entries_not_applied_stay_beyond_the_budget() {
        let mut cache = filled(5..25, APPLIED_BYTES_MAX / 4);
        assert_eq!(cache.range(), 5..25);
        cache.applied(9);
        assert_eq!(cache.range(), 10..25);
        cache.applied(24);
        assert_eq!(cache.range(), 21..25);
    }

    #[test]
    fn truncated_and_purged_entries_are_gone() {
        let mut cache = filled(0..10, 100);
        cache.truncate_from(7);
        cache.purge_to(3);
        assert_eq!(cache.range(), 3..7);
        let indexes: Vec<_> = cache.get(4..6).map(RaftEntry::index).collect();
        assert_eq!(indexes, [4, 5]);
        cache.truncate_from(0);
        assert!(cache.range().is_empty());
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn a_gap_starts_the_cache_anew() {
        let mut cache = filled(0..10, 100);
        cache.push(entry(20), 100);
        assert_eq!(cache.range(), 20..21);
        assert_eq!(cache.bytes, 100);
    }
}
