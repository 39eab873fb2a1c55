//! How much of the log is in use and by whom, and the segments that are free again.

use std::sync::{Arc, atomic::Ordering};

use flumen_protocol::ids::ShardId;

use super::Engine;
use crate::wal::{
    Usage, WalError,
    segment::{Position, Segment},
    space::{Claim, Task},
};

/// Shards are asked for checkpoints when this share of the WAL is in use: 1 of so many parts.
const CHECKPOINT_SHARE: u64 = 3;

impl Engine {
    /// Tells that a segment is full and the next one begun.
    pub(in crate::wal) fn segment_filled(&self) {
        self.hurry_syncer();
        let usage = self.usage();
        if usage.bytes * CHECKPOINT_SHARE >= usage.bytes_max {
            self.checkpoint_wanted.send_modify(|count| *count += 1);
        }
    }

    fn oldest_sequence(&self) -> u64 {
        let segments = self.segments.read();
        segments.front().map_or(0, |segment| segment.sequence)
    }

    pub(in crate::wal) fn reserve(&self, payloads: &[u64], claim: Claim) -> Result<u64, WalError> {
        self.queue.lock().check()?;
        let oldest = self.oldest_sequence();
        let reserved = self.space.reserve(payloads, oldest, claim);
        if matches!(reserved, Err(WalError::Full { .. })) && self.oldest_waits_for_sync() {
            self.hurry_syncer();
        }
        reserved
    }

    /// Whether nothing needs the oldest segment, but that is not durable yet.
    fn oldest_waits_for_sync(&self) -> bool {
        let segments = self.segments.read();
        let oldest = segments.front().filter(|_| segments.len() > 1);
        oldest.is_some_and(|segment| segment.live.load(Ordering::Acquire) == 0)
            && self.durable.get() < self.head.get()
    }

    pub(in crate::wal) fn usage(&self) -> Usage {
        let head = self.head.get();
        let whole = head.sequence().saturating_sub(self.oldest_sequence());
        Usage {
            bytes: whole * self.options.segment_bytes + head.offset(),
            bytes_max: self.options.bytes_max,
        }
    }

    /// The shards with entries in the older half of the full segments.
    pub(in crate::wal) fn shards_to_checkpoint(&self) -> Vec<ShardId> {
        let before = self.older_half();
        let shards = self.shards.read();
        shards
            .values()
            .filter(|shard| shard.written.read().oldest().is_some_and(|at| at < before))
            .map(|shard| shard.id)
            .collect()
    }

    /// Where the older half of the full segments ends.
    pub(in crate::wal) fn older_half(&self) -> Position {
        let (oldest, newest) = (self.oldest_sequence(), self.head.get().sequence());
        Position::new(oldest + (newest - oldest).div_ceil(2), 0)
    }

    /// The segments, oldest first, that nothing needs any more.
    pub(super) fn recyclable(&self) -> Vec<Arc<Segment>> {
        let durable = self.durable.get();
        let segments = self.segments.read();
        let pairs = segments.iter().zip(segments.iter().skip(1));
        pairs
            .take_while(|(segment, next)| {
                let opened = next.opening_end.get();
                segment.live.load(Ordering::Acquire) == 0
                    && segment.free_after.get() <= durable
                    && opened > Position::default()
                    && opened <= durable
            })
            .map(|(segment, _)| Arc::clone(segment))
            .collect()
    }

    pub(super) fn run_space(&self) {
        while let Task::Recycle = self.space.prepare() {
            self.recycle();
        }
    }

    /// Has the segments used again that nothing needs any more.
    pub(in crate::wal) fn recycle(&self) {
        let recyclable = self.recyclable();
        self.segments.write().drain(..recyclable.len());
        let stuck = self.space.recycle(&recyclable);
        // Those are tried again with the next ones.
        let mut segments = self.segments.write();
        for segment in stuck.iter().rev() {
            segments.push_front(Arc::clone(segment));
        }
    }

    /// Goes on in the next segment.
    pub(in crate::wal) fn leave_segment(&self) -> Result<(), WalError> {
        let left = self.writer.lock().leave_segment(self);
        let synced = left.and_then(|()| self.sync_written());
        synced.inspect_err(|error| self.fail(error))
    }
}
