//! A record on its way into a batch, and where it was taken to, or why not.

use flumen_protocol::batch::{Headers, PushError, RecordRef};

/// Bytes that a record takes in the arrays of its batch, for the account of memory.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 16;

/// A record on its way into a batch.
#[derive(Clone, Copy, Debug)]
pub(in crate::producer) struct NewRecord<'a> {
    pub(in crate::producer) value: Option<&'a [u8]>,
    pub(in crate::producer) key: Option<&'a [u8]>,
    pub(in crate::producer) headers: &'a [u8],
    pub(in crate::producer) timestamp_ms: Option<i64>,
    pub(in crate::producer) partition: Option<u32>,
    /// Somebody waits for its receipt.
    pub(in crate::producer) awaited: bool,
    /// It has waited for room, and it is its turn.
    pub(in crate::producer) has_turn: bool,
}

impl<'a> NewRecord<'a> {
    /// As it goes into a batch.
    #[inline]
    pub(super) fn at(&self, timestamp_ms: i64) -> RecordRef<'a> {
        RecordRef {
            timestamp_ms,
            key: self.key,
            value: self.value,
            headers: Headers::from_encoded(self.headers),
        }
    }

    /// Bytes that it takes of the producers' memory.
    #[inline]
    pub(super) fn memory_bytes(&self) -> usize {
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        len(self.value) + len(self.key) + self.headers.len() + RECORD_OVERHEAD_BYTES
    }
}

/// Where a record was taken to. One number, as the error is one pointer, so that either comes back
/// in registers: read back from memory, it would have to wait until the record's bytes have left
/// the processor.
#[derive(Clone, Copy, Debug)]
pub(in crate::producer) struct Taken(u64);

impl Taken {
    /// A batch has fewer records by far (`RECORDS_PER_BATCH_MAX`), so that the bit is free.
    const HAS_FAILURES: u32 = 1 << 31;

    #[inline]
    pub(super) fn new(partition: u32, index: u32, has_failures: bool) -> Self {
        let failures = if has_failures { Self::HAS_FAILURES } else { 0 };
        Self(u64::from(partition) << 32 | u64::from(index | failures))
    }

    #[inline]
    pub(in crate::producer) fn partition(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Its place in its batch.
    #[inline]
    pub(in crate::producer) fn index(self) -> u32 {
        self.0 as u32 & !Self::HAS_FAILURES
    }

    /// Whether records of the same producer have failed that it was not told of.
    #[inline]
    pub(in crate::producer) fn has_failures(self) -> bool {
        self.0 as u32 & Self::HAS_FAILURES != 0
    }
}

/// Why a record was not taken.
#[derive(Debug)]
pub(in crate::producer) enum NotTaken {
    /// No room, or others wait for some; try again when it is its turn.
    Full,
    Closed,
    /// Nobody sends any more.
    Stopped,
    Invalid(PushError),
    UnknownPartition {
        partition: u32,
        partitions: u32,
    },
}
