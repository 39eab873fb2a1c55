//! The tail of a log: its recent batches, in memory, in the form in which they are sent on.
//!
//! Those in front are on disk, too, and may go when the broker-wide budget asks for it; those
//! behind are not written yet.

use std::collections::VecDeque;

use flumen_protocol::{batch::Batch, ids::Offset};

use super::options::{BATCH_OVERHEAD_BYTES, WRITE_BATCHES_MAX, WRITE_BYTES_MAX};

/// Room for batches that a tail keeps though it has none: a quiet partition shall cost little.
const SPARE_BATCHES_MAX: usize = 64;

/// Recent batches without a gap in between, up to the end of the log.
#[derive(Debug)]
pub(super) struct Tail {
    batches: VecDeque<Batch>,
    /// How many in front are flushed.
    flushed: usize,
    /// Every batch from this offset on is here.
    from: Offset,
    unflushed_bytes: u64,
}

/// What a batch counts for against the budgets.
pub(super) fn cost(batch: &Batch) -> u64 {
    batch.encoded_len() as u64 + BATCH_OVERHEAD_BYTES
}

impl Tail {
    /// An empty tail of a log that ends at `from`.
    pub(super) fn new(from: Offset) -> Self {
        Self {
            batches: VecDeque::new(),
            flushed: 0,
            from,
            unflushed_bytes: 0,
        }
    }

    /// Where it begins: what is before is on disk only.
    pub(super) fn from(&self) -> Offset {
        self.from
    }

    pub(super) fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.unflushed_bytes += cost(&batch);
        self.batches.push_back(batch);
    }

    /// The batches from `offset` to `up_to`: at least one if it ends in time, otherwise as many
    /// as `bytes_max` takes.
    pub(super) fn read(&self, offset: Offset, bytes_max: usize, up_to: Offset) -> Vec<Batch> {
        let first = self.first_after(offset);
        let mut bytes = 0;
        self.batches
            .range(first..)
            .take_while(|batch| {
                let fits = bytes == 0 || bytes + batch.encoded_len() <= bytes_max;
                bytes += batch.encoded_len();
                fits && batch.end_offset() <= up_to
            })
            .cloned()
            .collect()
    }

    /// All batches from `offset` on.
    pub(super) fn iter_from(&self, offset: Offset) -> impl Iterator<Item = &Batch> {
        self.batches.range(self.first_after(offset)..)
    }

    /// The next batches to write, as many as fit into one write and into `room` bytes by their
    /// `size`, which is asked for in order; the first one fits always.
    pub(super) fn to_write(&self, room: u64, mut size: impl FnMut(&Batch) -> u64) -> Vec<Batch> {
        let limit = room.min(WRITE_BYTES_MAX);
        let mut bytes = 0;
        self.batches
            .range(self.flushed..)
            .take(WRITE_BATCHES_MAX)
            .take_while(|batch| {
                let first = bytes == 0;
                bytes += size(batch);
                first || bytes <= limit
            })
            .cloned()
            .collect()
    }

    /// The first batch that is not written yet.
    pub(super) fn first_unflushed(&self) -> Option<&Batch> {
        self.batches.get(self.flushed)
    }

    /// Takes the next `count` batches as written; returns what they count for.
    pub(super) fn set_flushed(&mut self, count: usize) -> u64 {
        let written = self.batches.range(self.flushed..self.flushed + count);
        let bytes = written.map(cost).sum();
        self.flushed += count;
        self.unflushed_bytes -= bytes;
        bytes
    }

    /// Takes out flushed batches that end at or before `to` until `bytes_wanted` are freed;
    /// returns what they counted for. The caller drops them, outside of the lock.
    pub(super) fn evict(&mut self, to: Offset, bytes_wanted: u64, out: &mut Vec<Batch>) -> u64 {
        let mut freed = 0;
        while freed < bytes_wanted && self.flushed > 0 {
            let Some(batch) = self.batches.front().filter(|b| b.end_offset() <= to) else {
                break;
            };
            freed += cost(batch);
            self.from = batch.end_offset();
            out.extend(self.batches.pop_front());
            self.flushed -= 1;
        }
        let room = self.batches.capacity();
        if room > SPARE_BATCHES_MAX && room / 4 > self.batches.len() {
            self.batches.shrink_to(self.batches.len() * 2);
        }
        freed
    }

    /// Drops everything; returns what the flushed and the unflushed batches counted for.
    pub(super) fn clear(&mut self) -> (u64, u64) {
        let flushed = self.batches.range(..self.flushed).map(cost).sum();
        let unflushed = self.unflushed_bytes;
        if let Some(last) = self.batches.back() {
            self.from = last.end_offset();
        }
        self.batches = VecDeque::new();
        self.flushed = 0;
        self.unflushed_bytes = 0;
        (flushed, unflushed)
    }

    fn first_after(&self, offset: Offset) -> usize {
        self.batches
            .partition_point(|batch| batch.end_offset() <= offset)
    }
}
