//! The one that writes: turns operations into records, records into segments, and keeps the index
//! in step. Whoever holds it has the right to write.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use flumen_protocol::ids::ShardId;

use super::{
    LogPosition, WalEntry, WalError,
    engine::Engine,
    reader::Placed,
    record::{RecordBuffer, RecordHeader, RecordKind, record_bytes},
    segment::{Position, SEGMENT_HEADER_BYTES, Segment},
    shard::{Change, Shard, Slot},
};

/// What is waiting is written in pieces of about this size, which bounds the memory for headers
/// and for slices.
const WRITE_BYTES: u64 = 4 << 20;
const SEAL_BYTES: u64 = record_bytes(0);

/// What an operation does to its shard's log.
pub(super) enum Operation {
    Append(Vec<WalEntry>),
    /// Entries that go to the end, unless they are not where they were read any more.
    Move(Vec<Placed>),
    Vote(Bytes),
    Truncate(Option<u64>),
    Purge(LogPosition, Bytes),
    Reset,
}

pub(super) struct Writer {
    active: Arc<Segment>,
    /// Where the next record goes, once `buffer` is written.
    offset: u64,
    buffer: RecordBuffer,
    changes: Vec<(Arc<Shard>, Change)>,
    durable: Position,
}

impl Writer {
    pub(super) fn new(active: Arc<Segment>, offset: u64) -> Self {
        Self {
            active,
            offset,
            buffer: RecordBuffer::default(),
            changes: Vec::new(),
            durable: Position::default(),
        }
    }

    /// Adds the records of an operation, and writes what fills a segment or a piece.
    pub(super) fn add(
        &mut self,
        engine: &Engine,
        shard: &Arc<Shard>,
        operation: Operation,
    ) -> Result<(), WalError> {
        match operation {
            Operation::Append(entries) => {
                for entry in entries {
                    self.add_entry(engine, shard, &entry)?;
                }
                Ok(())
            }
            Operation::Move(entries) => self.add_moved(engine, shard, entries),
            Operation::Vote(vote) => {
                let parts = [vote.clone()];
                self.add_record(engine, shard, RecordKind::Vote, (0, 0), &parts)?;
                self.changed(shard, Change::Vote(vote));
                Ok(())
            }
            Operation::Truncate(index) => {
                let numbers = (u64::from(index.is_some()), index.unwrap_or(0));
                self.add_record(engine, shard, RecordKind::Truncate, numbers, &[])?;
                self.changed(shard, Change::Truncate(index));
                Ok(())
            }
            Operation::Purge(up_to, log_id) => {
                let numbers = (up_to.term, up_to.index);
                let parts = [log_id.clone()];
                self.add_record(engine, shard, RecordKind::Purge, numbers, &parts)?;
                self.changed(shard, Change::Purge(up_to, log_id));
                Ok(())
            }
            Operation::Reset => {
                self.add_record(engine, shard, RecordKind::Reset, (0, 0), &[])?;
                self.changed(shard, Change::Reset);
                Ok(())
            }
        }
    }

    fn add_entry(
        &mut self,
        engine: &Engine,
        shard: &Arc<Shard>,
        entry: &WalEntry,
    ) -> Result<(), WalError> {
        let (term, index) = (entry.term, entry.index);
        let slot = self.add_entry_record(engine, shard, RecordKind::Entry, entry)?;
        self.changed(shard, Change::Entry { term, index, slot });
        self.flush_if_large(engine)
    }

    fn add_moved(
        &mut self,
        engine: &Engine,
        shard: &Arc<Shard>,
        entries: Vec<Placed>,
    ) -> Result<(), WalError> {
        // The index has to have what was added before, such as a purge.
        self.flush(engine)?;
        for Placed { entry, slot: from } in entries {
            let index = entry.index;
            let now = shard.written.read().slot(index);
            if now.is_some_and(|now| now.position == from.position) {
                let slot = self.add_entry_record(engine, shard, RecordKind::Moved, &entry)?;
                self.changed(shard, Change::Moved { index, slot });
                self.flush_if_large(engine)?;
            }
        }
        Ok(())
    }

    fn add_entry_record(
        &mut self,
        engine: &Engine,
        shard: &Shard,
        kind: RecordKind,
        entry: &WalEntry,
    ) -> Result<Slot, WalError> {
        let numbers = (entry.term, entry.index);
        let payload_bytes = entry.payload.iter().map(Bytes::len).sum::<usize>() as u32;
        let position = self.add_record(engine, shard, kind, numbers, &entry.payload)?;
        Ok(Slot {
            position,
            payload_bytes,
        })
    }

    fn flush_if_large(&mut self, engine: &Engine) -> Result<(), WalError> {
        if self.buffer.bytes() >= WRITE_BYTES {
            self.flush(engine)?;
        }
        Ok(())
    }

    fn changed(&mut self, shard: &Arc<Shard>, change: Change) {
        self.changes.push((Arc::clone(shard), change));
    }

    /// Adds a record where there is room for it and for a seal, and tells where that is.
    fn add_record(
        &mut self,
        engine: &Engine,
        shard: &Shard,
        kind: RecordKind,
        numbers: (u64, u64),
        parts: &[Bytes],
    ) -> Result<Position, WalError> {
        if self.offset == SEGMENT_HEADER_BYTES {
            self.open_segment(engine)?;
        }
        let payload_bytes: usize = parts.iter().map(Bytes::len).sum();
        if self.offset + record_bytes(payload_bytes as u64) + SEAL_BYTES > self.active.len {
            self.roll(engine)?;
            self.open_segment(engine)?;
        }
        Ok(self.push(engine, shard.id, kind, numbers, parts))
    }

    fn push(
        &mut self,
        engine: &Engine,
        shard: ShardId,
        kind: RecordKind,
        (term, index): (u64, u64),
        parts: &[Bytes],
    ) -> Position {
        if self.buffer.records() == 0 {
            self.durable = engine.durable.get();
        }
        let position = Position::new(self.active.sequence, self.offset);
        let header = RecordHeader {
            kind,
            shard,
            term,
            index,
            tag: self.active.tag,
            durable: self.durable,
            offset: self.offset as u32,
            payload_bytes: parts.iter().map(Bytes::len).sum::<usize>() as u32,
        };
        let before = self.buffer.bytes();
        self.buffer.push(header, parts);
        self.offset += self.buffer.bytes() - before;
        position
    }

    /// Seals the active segment and takes the next.
    fn roll(&mut self, engine: &Engine) -> Result<(), WalError> {
        // What is complete does not wait for the file; the seal does, since it promises that the
        // file is there.
        self.flush(engine)?;
        let next = engine.space.take_standby(engine.opening_bytes())?;
        self.push(engine, ShardId(0), RecordKind::Seal, (0, 0), &[]);
        self.flush(engine)?;
        engine.segments.write().push_back(Arc::clone(&next));
        self.active = next;
        self.offset = SEGMENT_HEADER_BYTES;
        engine.segment_filled();
        Ok(())
    }

    /// Goes on in the next segment, whatever room is left in this one.
    pub(super) fn leave_segment(&mut self, engine: &Engine) -> Result<(), WalError> {
        if self.offset == SEGMENT_HEADER_BYTES {
            self.open_segment(engine)?;
        }
        self.roll(engine)?;
        self.open_segment(engine)?;
        self.flush(engine)
    }

    /// Begins a segment with the state of every shard, so that it needs none before it.
    fn open_segment(&mut self, engine: &Engine) -> Result<(), WalError> {
        debug_assert!(
            self.changes.is_empty(),
            "the states must include all records before"
        );
        for (shard, image) in engine.images() {
            let size = record_bytes(image.len() as u64);
            // The largest entry, three eighths of a segment, must fit behind them.
            if self.offset + size > self.active.len / 2 {
                return Err(WalError::Failed {
                    reason: format!(
                        "the states of all shards do not fit into a segment of {} bytes; raise \
                         wal.segment_bytes",
                        self.active.len
                    )
                    .into(),
                });
            }
            self.push(engine, shard, RecordKind::State, (0, 0), &[image]);
        }
        self.push(engine, ShardId(0), RecordKind::OpeningEnd, (0, 0), &[]);
        let end = Position::new(self.active.sequence, self.offset);
        self.active.opening_end.raise(end);
        Ok(())
    }

    /// Writes what was added, and brings the index up to it.
    pub(super) fn flush(&mut self, engine: &Engine) -> Result<(), WalError> {
        if self.buffer.records() == 0 {
            return Ok(());
        }
        let start = self.offset - self.buffer.bytes();
        let written = self.active.file.write_at(&mut self.buffer.slices(), start);
        if let Err(error) = written {
            return Err(WalError::failed("write to", &self.active.path, &error));
        }
        engine
            .observer
            .on_write(self.buffer.records(), self.buffer.bytes());
        self.buffer.clear();
        engine.wrote(&self.active, self.offset);
        self.apply_changes(engine);
        Ok(())
    }

    fn apply_changes(&mut self, engine: &Engine) {
        let segments = engine.segments.read();
        let Some(first) = segments.front().map(|segment| segment.sequence) else {
            return;
        };
        let segment_of = |position: Position| {
            let at = position.sequence().checked_sub(first)?;
            segments.get(at as usize)
        };
        let head = Position::new(self.active.sequence, self.offset);
        let mut freed = false;
        for (shard, change) in self.changes.drain(..) {
            if let Change::Entry { slot, .. } | Change::Moved { slot, .. } = &change
                && let Some(segment) = segment_of(slot.position)
            {
                segment.live.fetch_add(1, Ordering::Relaxed);
            }
            shard.written.write().apply(change, |slot| {
                if let Some(segment) = segment_of(slot.position) {
                    segment.free_after.raise(head);
                    let before = segment.live.fetch_sub(1, Ordering::AcqRel);
                    freed |= before == 1;
                }
            });
        }
        if freed {
            engine.space.request_recycling();
        }
    }
}
