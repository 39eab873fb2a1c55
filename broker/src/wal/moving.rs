//! Entries that are written again, so that the segments they were in can be used for others.
//!
//! Segments are used again in order, so one entry that stays holds back all that came after it, of
//! every shard. What stays is what a replica has that is closed: it takes no checkpoints. So its
//! entries in the older half of the log go to the end, as records that say so ([`RecordKind::Moved`]).
//! Before the oldest entry of a replica that is open, that is: behind it, moving would make no room.
//! What is in memory points to the new place once that is written; the segment with the old one goes
//! when the new one is durable, as after a purge. A crash in between leaves one of them, or both.
//!
//! [`RecordKind::Moved`]: super::record::RecordKind::Moved

use std::sync::Arc;

use flumen_protocol::ids::ShardId;

use super::{
    WalError, engine::Engine, reader, record::record_bytes, segment::Position, shard::Shard,
    space::Claim, writer::Operation,
};

/// What is moved has at most this part of the log, or each round would write more than it frees:
/// 1 of so many parts.
const MOVED_SHARE: u64 = 4;

/// Payloads that are in memory on their way.
const PIECE_BYTES_MAX: usize = 4 << 20;

impl Engine {
    /// Moves the entries of shards out of the older half of the segments. See [`super::Wal::move_on`].
    pub(super) fn move_on(&self, shards: &[ShardId]) -> Result<(), WalError> {
        let (shards, others): (Vec<_>, Vec<_>) = {
            let known = self.shards.read();
            let known = known.values().map(Arc::clone);
            known.partition(|shard| shards.contains(&shard.id))
        };
        let held = |shard: &Arc<Shard>| shard.written.read().record_bytes();
        let held: u64 = shards.iter().map(held).sum();
        if held * MOVED_SHARE > self.options.bytes_max {
            return Ok(());
        }
        let kept = others
            .iter()
            .filter_map(|shard| shard.written.read().oldest());
        let kept = kept.map(|oldest| Position::new(oldest.sequence(), 0)).min();
        let before = self.older_half();
        let before = kept.map_or(before, |kept| kept.min(before));
        for shard in &shards {
            loop {
                let next = shard.written.read().first_run_before(before);
                let Some(run) = next else { break };
                match reader::read_placed(self, shard, run, PIECE_BYTES_MAX) {
                    // They are gone by now.
                    Err(WalError::Purged { .. }) => {}
                    placed => self.move_some(shard, placed?)?,
                }
            }
        }
        Ok(())
    }

    fn move_some(&self, shard: &Arc<Shard>, placed: Vec<reader::Placed>) -> Result<(), WalError> {
        let size = |placed: &reader::Placed| placed.slot.payload_bytes.into();
        let payloads: Vec<u64> = placed.iter().map(size).collect();
        let bytes = payloads.iter().copied().map(record_bytes).sum();
        // It is what makes room: as much as this, and more, is used again afterwards.
        let cost = self.reserve(&payloads, Claim::Decided)?;
        self.submit(shard, Operation::Move(placed), bytes, None, |_| Ok(()));
        let written = self.wait_written(shard.queued());
        self.space.give_back(cost);
        written
    }
}
