//! What compaction leaves of a batch.

use flumen_protocol::{
    batch::{Batch, BatchBuilder, BatchError, Columns},
    ids::Offset,
};

use super::keys::LatestOffsets;

/// Decides which records stay.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) latest: LatestOffsets,
    /// Records from here on stay, whatever they are.
    pub(super) clean_to: Offset,
    /// Tombstones of batches that were appended at or before this time go.
    pub(super) tombstones_before_ms: Option<u64>,
    /// When the oldest tombstone that stays was appended.
    pub(super) oldest_tombstone_ms: Option<u64>,
    pub(super) records_removed: u64,
}

/// What is left of a batch.
#[derive(Debug)]
pub(super) enum Filtered {
    Unchanged,
    Changed(Batch),
    Nothing,
}

impl Filter {
    /// Applies the filter to a batch, and counts.
    pub(super) fn apply(&mut self, batch: &Batch) -> Result<Filtered, BatchError> {
        let columns = batch.columns()?;
        let kept: Vec<usize> = (0..columns.len())
            .filter(|&index| self.keeps(batch, &columns, index))
            .collect();
        self.note_tombstones(batch, &columns, &kept);
        if kept.len() == columns.len() {
            return Ok(Filtered::Unchanged);
        }
        self.records_removed += (columns.len() - kept.len()) as u64;
        if kept.is_empty() {
            return Ok(Filtered::Nothing);
        }
        Ok(rebuild(batch, &columns, &kept).map_or(Filtered::Unchanged, Filtered::Changed))
    }

    /// Whether any record of a batch goes.
    pub(super) fn changes(&self, batch: &Batch) -> Result<bool, BatchError> {
        let columns = batch.columns()?;
        Ok((0..columns.len()).any(|index| !self.keeps(batch, &columns, index)))
    }

    fn keeps(&self, batch: &Batch, columns: &Columns, index: usize) -> bool {
        let record = columns.record(index);
        let offset = columns.offset(index);
        // Without a key, there is nothing that could supersede it.
        let Some(key) = record.key else { return true };
        if offset >= self.clean_to {
            return true;
        }
        let tombstone_is_due = record.value.is_none()
            && self
                .tombstones_before_ms
                .is_some_and(|before| batch.header().append_time_ms <= before);
        !tombstone_is_due && !self.latest.is_superseded(key, offset)
    }

    fn note_tombstones(&mut self, batch: &Batch, columns: &Columns, kept: &[usize]) {
        if columns.value_validity().is_none() {
            return;
        }
        let has_tombstone = kept.iter().any(|&index| {
            let record = columns.record(index);
            let counts = columns.offset(index) < self.clean_to;
            counts && record.key.is_some() && record.value.is_none()
        });
        if has_tombstone {
            let at = batch.header().append_time_ms;
            let oldest = self.oldest_tombstone_ms.unwrap_or(at);
            self.oldest_tombstone_ms = Some(oldest.min(at));
        }
    }
}

/// A batch with the kept records only, at the place and with the identity of the old one. `None`
/// if it cannot be built: the gaps in the offsets take room, which a batch that is full to the
/// brim does not have. It then stays as it is, which is always right.
fn rebuild(batch: &Batch, columns: &Columns, kept: &[usize]) -> Option<Batch> {
    let header = batch.header();
    let mut builder = BatchBuilder::new();
    builder.set_content_type(columns.content_type()).ok()?;
    for &index in kept {
        let delta = (columns.offset(index).0 - header.base_offset.0) as u32;
        builder.push_at(delta, &columns.record(index)).ok()?;
    }
    let built = builder.build_spanning(
        header.codec,
        header.producer,
        header.base_offset,
        header.offset_span,
    );
    let batch = built.ok()?;
    Some(batch.placed(header.base_offset, header.append_time_ms))
}
