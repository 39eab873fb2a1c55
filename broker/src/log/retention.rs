//! Retention: whole segments go, oldest first, by age and by size.
//!
//! Age counts from when the broker appended a batch, not from the producer's timestamps (see
//! [`LogOptions::retention_age_ms`](super::LogOptions::retention_age_ms)). Removing does not wait
//! for a checkpoint: on a full disk there may be none until something was removed. Instead, an
//! empty file with the new start offset in its name is made durable first, so that recovery knows
//! why files are missing that the last checkpoint names.

use std::{io, path::PathBuf, sync::Arc};

use flumen_protocol::{ids::Offset, topic::Cleanup};

use super::{
    LogOptions, PartitionLog,
    names::{StartMark, topic_dir},
    partition::Log,
    segment::{Segment, SegmentInfo},
};

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
#[error("retention cannot write {}: {source}; check the disk", path.display())]
pub struct RetentionError {
    path: PathBuf,
    source: io::Error,
}

impl PartitionLog {
    /// Removes the segments that the topic's retention keeps no longer at `now_ms`, milliseconds
    /// since the epoch, and returns how many bytes that frees. Blocks.
    ///
    /// It also seals a segment that has become old without becoming full, so that retention and
    /// compaction reach it; call it for compacted topics, too.
    ///
    /// # Errors
    /// When the disk does not take the mark of what is removed; nothing is removed then.
    pub fn enforce_retention(&self, now_ms: u64) -> Result<u64, RetentionError> {
        let log = &self.log;
        let _maintenance = log.maintenance.lock();
        let options = self.options();
        log.seal_if_old(&options, now_ms);
        let expired = log.expired(&options, now_ms);
        let Some(last) = expired.last() else {
            return Ok(0);
        };
        let start = last.end_offset();
        let old_marks = log.mark_start(start)?;
        let bytes = expired.iter().map(|segment| segment.info().bytes).sum();
        log.drop_segments(start, expired.len());
        for segment in &expired {
            log.store.remove_files(segment);
        }
        log.remove_marks(&old_marks);
        Ok(bytes)
    }
}

impl Log {
    /// Ends the log and removes its files, though the last checkpoint names them. Gives the marks
    /// that say so.
    pub(super) fn remove_ahead(&self) -> Result<Vec<StartMark>, RetentionError> {
        let _maintenance = self.maintenance.lock();
        let (end, has_files) = {
            let state = self.state.lock();
            // Those that compaction has replaced are what the last checkpoint names.
            let has_files = !state.segments.is_empty() || !state.obsolete.is_empty();
            (state.end, has_files)
        };
        let old_marks = if has_files {
            self.mark_start(end)?
        } else {
            Vec::new()
        };
        let (segments, marks) = self.end();
        for segment in &segments {
            self.store.remove_files(segment);
        }
        self.remove_marks(&old_marks);
        Ok(marks)
    }

    fn seal_if_old(&self, options: &LogOptions, now_ms: u64) {
        let old_active = || {
            let active = self.state.lock().active().cloned()?;
            let info = active.info();
            let age_ms = now_ms.saturating_sub(info.first_append_ms);
            let is_old = age_ms >= options.segment_age_ms() || is_expired(&info, options, now_ms);
            is_old.then_some(active)
        };
        // Mostly it is not, and then a write that goes on need not be waited for.
        if old_active().is_some() {
            let _writer = self.writer.lock();
            if let Some(active) = old_active() {
                self.seal(&active);
            }
        }
    }

    /// The segments in front that may go.
    fn expired(&self, options: &LogOptions, now_ms: u64) -> Vec<Arc<Segment>> {
        if options.cleanup != Cleanup::Delete {
            return Vec::new();
        }
        let mut bytes = self.size_bytes();
        let state = self.state.lock();
        let expired = state.segments.iter().take_while(|segment| {
            let info = segment.info();
            bytes = bytes.saturating_sub(info.bytes);
            let too_large = options.retention_bytes.is_some_and(|max| bytes >= max);
            info.sealed && (too_large || is_expired(&info, options, now_ms))
        });
        expired.cloned().collect()
    }

    /// Makes it durable that the log begins at `offset`; returns the marks before.
    fn mark_start(&self, offset: Offset) -> Result<Vec<StartMark>, RetentionError> {
        let store = &self.store;
        let mark = {
            let mut state = self.state.lock();
            state.version += 1;
            let version = state.version;
            StartMark { offset, version }
        };
        let path = mark.path(&store.dir, self.id);
        let dir = topic_dir(&store.dir, self.id.topic);
        let written = store.disk.create(&path).map(drop);
        written
            .and_then(|()| store.disk.sync_dir(&dir))
            .map_err(|source| RetentionError { path, source })?;
        Ok(std::mem::replace(
            &mut self.state.lock().start_marks,
            vec![mark],
        ))
    }

    fn drop_segments(&self, start: Offset, count: usize) {
        let mut evicted = Vec::new();
        let mut state = self.state.lock();
        state.start = start;
        state.segments.drain(..count);
        let freed = state.tail.evict(start, u64::MAX, &mut evicted);
        drop(state);
        self.store.budget.dropped(freed);
    }
}

fn is_expired(info: &SegmentInfo, options: &LogOptions, now_ms: u64) -> bool {
    let age_ms = now_ms.saturating_sub(info.last_append_ms);
    options.cleanup == Cleanup::Delete && options.retention_age_ms.is_some_and(|max| age_ms >= max)
}
