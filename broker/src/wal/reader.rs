//! Entries back from the segments.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    WalEntry, WalError,
    engine::Engine,
    record::{RecordKind, decode, record_bytes},
    segment::Segment,
    shard::{Shard, Slot},
};

/// Records of other shards between two that are wanted are read along, if they are no longer than
/// this: one read is cheaper than two.
const GAP_BYTES_MAX: u64 = 16 * 1024;
/// How often a read starts again because its entries were purged or replaced meanwhile.
const TRIES_MAX: usize = 8;

/// An entry to read, and where it is.
struct Wanted {
    index: u64,
    term: u64,
    slot: Slot,
    segment: Arc<Segment>,
}

impl Wanted {
    fn start(&self) -> u64 {
        self.slot.position.offset()
    }

    fn end(&self) -> u64 {
        self.start() + record_bytes(self.slot.payload_bytes.into())
    }
}

/// An entry, and where it was read.
pub(super) struct Placed {
    pub(super) entry: WalEntry,
    pub(super) slot: Slot,
}

/// Reads entries of a shard; see [`super::ShardLog::read`].
pub(super) fn read(
    engine: &Engine,
    shard: &Shard,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<WalEntry>, WalError> {
    let placed = read_placed(engine, shard, range, bytes_max)?;
    Ok(placed.into_iter().map(|placed| placed.entry).collect())
}

/// The same, with where they are.
pub(super) fn read_placed(
    engine: &Engine,
    shard: &Shard,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Placed>, WalError> {
    engine.wait_written(shard.queued())?;
    let mut tries = 0;
    loop {
        let wanted = locate(engine, shard, range.clone(), bytes_max)?;
        let result = read_located(&wanted);
        tries += 1;
        // A file that was recycled under the read has other contents, which is no damage.
        let replaced = |wanted: &Wanted| {
            let slot = shard.written.read().slot(wanted.index);
            slot.is_none_or(|slot| slot.position != wanted.slot.position)
        };
        match result {
            Err(error) if tries == TRIES_MAX || !wanted.iter().any(replaced) => return Err(error),
            Err(_) => {}
            Ok(entries) => return Ok(entries),
        }
    }
}

/// Looks the entries up in the index.
fn locate(
    engine: &Engine,
    shard: &Shard,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Wanted>, WalError> {
    // In the order in which the one who writes the log takes them: it must not wait for this index
    // while this waits for the segments, behind somebody who waits to change them.
    let segments = engine.segments.read();
    let index = shard.written.read();
    let oldest = segments.front().map_or(0, |segment| segment.sequence);
    let first = index.extent.first().unwrap_or(index.extent.end());
    if range.start < first && range.start < range.end {
        return Err(WalError::Purged { first });
    }
    let mut wanted: Vec<Wanted> = Vec::new();
    let (mut bytes, mut gaps) = (0, 0);
    for number in range.start..range.end.min(index.extent.end()) {
        let (Some(slot), Some(term)) = (index.slot(number), index.extent.term(number)) else {
            break;
        };
        bytes += slot.payload_bytes as usize;
        if bytes > bytes_max && !wanted.is_empty() {
            break;
        }
        let at = slot.position.sequence().checked_sub(oldest);
        // A live entry keeps its segment, and the index is locked.
        let Some(segment) = at.and_then(|at| segments.get(at as usize)) else {
            break;
        };
        let next = Wanted {
            index: number,
            term,
            slot,
            segment: Arc::clone(segment),
        };
        // What is read along is in memory, too.
        gaps += wanted.last().and_then(|last| gap(last, &next)).unwrap_or(0) as usize;
        if gaps > bytes_max {
            break;
        }
        wanted.push(next);
    }
    Ok(wanted)
}

/// Bytes between two records that are read together, if they are.
fn gap(a: &Wanted, b: &Wanted) -> Option<u64> {
    let same = a.segment.sequence == b.segment.sequence;
    let gap = b.start().checked_sub(a.end()).filter(|_| same);
    gap.filter(|gap| *gap <= GAP_BYTES_MAX)
}

fn read_located(wanted: &[Wanted]) -> Result<Vec<Placed>, WalError> {
    let mut entries = Vec::with_capacity(wanted.len());
    for run in wanted.chunk_by(|a, b| gap(a, b).is_some()) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            continue;
        };
        let (start, len) = (first.start(), (last.end() - first.start()) as usize);
        let mut bytes = Vec::new();
        first
            .segment
            .file
            .read_onto(&mut bytes, len, start)
            .map_err(|error| WalError::failed("read", &first.segment.path, &error))?;
        let bytes = Bytes::from(bytes);
        for wanted in run {
            let entry = extract(wanted, &bytes, start)?;
            let slot = wanted.slot;
            entries.push(Placed { entry, slot });
        }
    }
    Ok(entries)
}

fn extract(wanted: &Wanted, bytes: &Bytes, start: u64) -> Result<WalEntry, WalError> {
    let damaged = |reason: String| WalError::Damaged {
        path: wanted.segment.path.clone(),
        position: wanted.start(),
        reason: reason.into(),
    };
    let from = bytes.len().min((wanted.start() - start) as usize);
    let (header, payload) = decode(&bytes[from..], wanted.segment.tag, wanted.start())
        .map_err(|error| damaged(error.to_string()))?;
    if !matches!(header.kind, RecordKind::Entry | RecordKind::Moved)
        || header.index != wanted.index
        || header.term != wanted.term
    {
        return Err(damaged("there is another record".into()));
    }
    Ok(WalEntry {
        term: header.term,
        index: header.index,
        payload: vec![bytes.slice_ref(payload)],
    })
}
