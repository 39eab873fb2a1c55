//! Compaction: of each key, the last record stays.
//!
//! Only sealed segments take part. A pass takes in the last offset of each key in the stretch
//! that was not compacted yet, as far as memory allows, and then rewrites the segments from the
//! oldest on without the records that a later one in that stretch supersedes. (The approach of
//! Kafka's log cleaner.) Records without a key stay.
//!
//! A tombstone stays for the topic's time, so that readers who follow learn of the deletion. It
//! may go then because the records it deletes went before it: in an earlier pass, or in this one,
//! in an older segment.
//!
//! The segments are replaced in memory at once, but the old files go only when a checkpoint that
//! names the new ones was saved: a crash finds either the old ones or the new ones whole. Small
//! neighbours become one segment on the way.

use std::sync::Arc;

use flumen_protocol::{batch::Batch, ids::Offset, topic::Cleanup};
use tokio_util::sync::CancellationToken;

mod filter;
mod keys;
mod output;

pub use self::keys::COMPACTION_KEYS_MAX;
use self::{
    filter::{Filter, Filtered},
    keys::LatestOffsets,
    output::Output,
};
use super::{
    LogOptions, PartitionLog, frame::FrameError, names::SegmentKey, partition::Log,
    read::ReadError, scan::Scan, segment::Segment, write::FlushError,
};

/// Compaction waits until what is new has one byte for so many bytes that were compacted before:
/// each pass reads all of them.
pub const CLEAN_BYTES_PER_DIRTY_BYTE_MAX: u64 = 4;

/// Why a log was not compacted, or only its older part was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// A segment cannot be read.
    #[error("compaction stopped: {0}")]
    Read(#[from] ReadError),
    /// A new segment cannot be written.
    #[error("compaction stopped: {0}")]
    Write(#[from] FlushError),
    /// It was cancelled.
    #[error("compaction was cancelled; a later one does what is left")]
    Cancelled,
}

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Passes over the log.
    pub passes: u64,
    /// Records that are gone.
    pub records_removed: u64,
    /// Segments that were replaced.
    pub segments_before: u64,
    /// Segments that replaced them.
    pub segments_after: u64,
}

impl PartitionLog {
    /// Removes records that a later one with the same key supersedes, and tombstones whose time
    /// is over at `now_ms`, milliseconds since the epoch. Does nothing if the topic is not
    /// compacted, or there is too little to gain yet. Blocks, perhaps for long; reading and
    /// appending go on. It ends within a batch when it is cancelled.
    ///
    /// # Errors
    /// When a segment is damaged, the disk is full, or it was cancelled. What was done until then
    /// is right.
    pub fn compact(
        &self,
        now_ms: u64,
        cancelled: &CancellationToken,
    ) -> Result<Compaction, CompactError> {
        let compacted = self.log.compact(now_ms, COMPACTION_KEYS_MAX, cancelled);
        compacted.inspect_err(|error| {
            if let CompactError::Read(error) = error {
                self.log.note_damage(error);
            }
        })
    }

    /// Does something while no compaction of the log can begin.
    #[cfg(test)]
    pub(crate) fn without_compaction<T>(&self, work: impl FnOnce() -> T) -> T {
        let _compacting = self.log.compacting.lock();
        work()
    }
}

/// The part of a log that takes part.
struct Work {
    options: LogOptions,
    segments: Vec<Arc<Segment>>,
    /// Up to where no key occurs twice.
    compacted_to: Offset,
    /// The end of the last sealed segment.
    end: Offset,
    cancelled: CancellationToken,
}

impl Work {
    /// Gives the next batch of a segment, if there is one, unless the work was cancelled.
    fn next_batch(&self, scan: &mut Scan<'_>) -> Result<Option<Batch>, CompactError> {
        if self.cancelled.is_cancelled() {
            return Err(CompactError::Cancelled);
        }
        Ok(scan.next_batch()?)
    }
}

impl Log {
    pub(super) fn compact(
        &self,
        now_ms: u64,
        keys_max: usize,
        cancelled: &CancellationToken,
    ) -> Result<Compaction, CompactError> {
        let _compacting = self.compacting.lock();
        let mut done = Compaction::default();
        // Ends: each pass moves `compacted_to` on by a batch at least.
        while let Some(work) = self.compaction_work(now_ms, done.passes > 0, cancelled) {
            self.compaction_pass(&work, now_ms, keys_max, &mut done)?;
        }
        Ok(done)
    }

    /// What there is to do. `None` if it is not worth it.
    fn compaction_work(
        &self,
        now_ms: u64,
        in_the_middle: bool,
        cancelled: &CancellationToken,
    ) -> Option<Work> {
        let state = self.state.lock();
        let options = state.options;
        if options.cleanup != Cleanup::Compact || state.removed {
            return None;
        }
        let sealed = state
            .segments
            .iter()
            .filter(|segment| segment.info().sealed);
        let segments: Vec<_> = sealed.cloned().collect();
        let end = segments.last()?.end_offset();
        let compacted_to = state.compacted_to.max(state.start);
        let (mut clean_bytes, mut dirty_bytes) = (0, 0);
        for segment in &segments {
            let info = segment.info();
            if info.end_offset > compacted_to {
                dirty_bytes += info.bytes;
            } else {
                clean_bytes += info.bytes;
            }
        }
        let tombstones_due = state
            .oldest_tombstone_ms
            .is_some_and(|at| at.saturating_add(options.tombstone_retention_ms) <= now_ms);
        let enough = dirty_bytes.saturating_mul(CLEAN_BYTES_PER_DIRTY_BYTE_MAX) >= clean_bytes;
        let worth_it = if in_the_middle {
            dirty_bytes > 0
        } else {
            tombstones_due || (dirty_bytes > 0 && enough)
        };
        worth_it.then_some(Work {
            options,
            segments,
            compacted_to,
            end,
            cancelled: cancelled.clone(),
        })
    }

    fn compaction_pass(
        &self,
        work: &Work,
        now_ms: u64,
        keys_max: usize,
        done: &mut Compaction,
    ) -> Result<(), CompactError> {
        let (latest, clean_to) = self.latest_offsets(work, keys_max)?;
        let mut filter = Filter {
            latest,
            clean_to,
            tombstones_before_ms: now_ms.checked_sub(work.options.tombstone_retention_ms),
            oldest_tombstone_ms: None,
            records_removed: 0,
        };
        let taking_part = work.segments.iter().filter(|s| s.base_offset() < clean_to);
        let taking_part: Vec<_> = taking_part.cloned().collect();
        for group in groups(&taking_part, work.options.segment_bytes) {
            if group.len() > 1 || self.would_change(work, &group[0], &mut filter)? {
                self.rewrite(work, group, &mut filter, done)?;
            }
        }
        done.passes += 1;
        done.records_removed += filter.records_removed;
        let mut state = self.state.lock();
        state.compacted_to = clean_to;
        state.oldest_tombstone_ms = filter.oldest_tombstone_ms;
        Ok(())
    }

    /// The last offset of each key from where the last pass ended to as far as memory allows.
    fn latest_offsets(
        &self,
        work: &Work,
        keys_max: usize,
    ) -> Result<(LatestOffsets, Offset), CompactError> {
        let mut latest = LatestOffsets::default();
        let dirty = work
            .segments
            .iter()
            .filter(|s| s.end_offset() > work.compacted_to);
        for segment in dirty {
            let open = self.store.files.get(segment)?;
            let mut scan = Scan::new(segment, &self.store.dir, &open);
            while let Some(batch) = work.next_batch(&mut scan)? {
                if batch.end_offset() <= work.compacted_to {
                    continue;
                }
                let columns = batch
                    .columns()
                    .map_err(|e| self.damaged(segment, e.into()))?;
                for index in 0..columns.len() {
                    if let Some(key) = columns.record(index).key {
                        latest.note(key, columns.offset(index));
                    }
                }
                if latest.len() >= keys_max {
                    return Ok((latest, batch.end_offset()));
                }
            }
        }
        Ok((latest, work.end.max(work.compacted_to)))
    }

    /// Whether the filter would change a segment. If not, its tombstones are counted.
    fn would_change(
        &self,
        work: &Work,
        segment: &Arc<Segment>,
        filter: &mut Filter,
    ) -> Result<bool, CompactError> {
        let counted = filter.oldest_tombstone_ms;
        let open = self.store.files.get(segment)?;
        let mut scan = Scan::new(segment, &self.store.dir, &open);
        while let Some(batch) = work.next_batch(&mut scan)? {
            let damaged = |e: flumen_protocol::batch::BatchError| self.damaged(segment, e.into());
            if filter.changes(&batch).map_err(damaged)? {
                filter.oldest_tombstone_ms = counted;
                return Ok(true);
            }
            filter.apply(&batch).map_err(damaged)?;
        }
        Ok(false)
    }

    /// Replaces a group of neighbours by one segment with what the filter leaves.
    fn rewrite(
        &self,
        work: &Work,
        group: &[Arc<Segment>],
        filter: &mut Filter,
        done: &mut Compaction,
    ) -> Result<(), CompactError> {
        let generations = group.iter().map(|segment| segment.key.generation);
        let key = SegmentKey {
            generation: generations.max().unwrap_or_default() + 1,
            ..group[0].key
        };
        let mut output = Output::new(&self.store, key, work.options.index_interval());
        for segment in group {
            let open = self.store.files.get(segment)?;
            let mut scan = Scan::new(segment, &self.store.dir, &open);
            while let Some(batch) = work.next_batch(&mut scan)? {
                let filtered = filter.apply(&batch);
                match filtered.map_err(|e| self.damaged(segment, e.into()))? {
                    Filtered::Unchanged => output.push(batch)?,
                    Filtered::Changed(batch) => output.push(batch)?,
                    Filtered::Nothing => {}
                }
            }
        }
        let new = output.finish()?;
        done.segments_before += group.len() as u64;
        done.segments_after += u64::from(new.is_some());
        self.replace(group, new);
        Ok(())
    }

    /// Puts `new` in the place of `group`, unless somebody removed a part of it meanwhile.
    fn replace(&self, group: &[Arc<Segment>], new: Option<Arc<Segment>>) {
        let _maintenance = self.maintenance.lock();
        let mut state = self.state.lock();
        let at = state.segments.iter().position(|s| s.id == group[0].id);
        let is_there = |at: &usize| {
            let there = state.segments.range(*at..);
            there.len() >= group.len() && there.zip(group).all(|(a, b)| a.id == b.id)
        };
        let Some(at) = at.filter(is_there) else {
            drop(state);
            if let Some(new) = new {
                self.store.remove_files(&new);
            }
            return;
        };
        state.version += 1;
        let version = state.version;
        let old: Vec<_> = state.segments.drain(at..at + group.len()).collect();
        state
            .obsolete
            .extend(old.into_iter().map(|segment| (version, segment)));
        if let Some(new) = new {
            state.segments.insert(at, new);
        }
    }

    fn damaged(&self, segment: &Segment, source: FrameError) -> ReadError {
        let path = segment.key.segment_path(&self.store.dir);
        ReadError::damaged(path, segment.first().position, source)
    }
}

/// Divides segments into groups of neighbours that fit into one segment together.
fn groups(segments: &[Arc<Segment>], segment_bytes: u64) -> Vec<&[Arc<Segment>]> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, segment) in segments.iter().enumerate() {
        let len = segment.info().bytes;
        if at > start && bytes + len > segment_bytes {
            groups.push(&segments[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += len;
    }
    if start < segments.len() {
        groups.push(&segments[start..]);
    }
    groups
}
