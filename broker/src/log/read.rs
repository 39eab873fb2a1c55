//! Reading: from memory at once, from the disk by a job that may block.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use flumen_protocol::{batch::Batch, ids::Offset};

use super::{
    frame::{FRAME_LEN, FrameError, decode_batch, decode_front, frame_bytes},
    index::IndexEntry,
    open_files::OpenSegment,
    partition::Log,
    segment::Segment,
    walk::Walk,
};

/// Bytes that one read from the disk takes at most, unless a single batch is larger.
pub const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that one read from the disk takes at least: a lookup may begin up to an index interval
/// too early, and shall not need a second read.
const READ_BYTES_MIN: usize = 64 * 1024;

/// Reads a partition's log. Cheap to clone, and safe to use from many threads while others
/// append, remove and compact.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) log: Arc<Log>,
}

/// What [`LogReader::read`] found.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadOutcome {
    /// Recent batches, at least one. The first may begin before the offset asked for.
    Memory(Vec<Batch>),
    /// Older batches, to be fetched where blocking is allowed.
    Disk(DiskRead),
    /// There is nothing at or behind the offset that the caller may see yet.
    End,
    /// The offset is not in the log.
    OutOfRange {
        /// The first offset of the log.
        start: Offset,
        /// The offset after its last record.
        end: Offset,
    },
}

/// Why batches could not be read from the disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The disk failed.
    #[error("cannot read {} at byte {position}: {source}; check the disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Where.
        position: u64,
        /// What the disk said.
        source: io::Error,
    },
    /// The file does not hold what was written to it.
    #[error(
        "{} is damaged at byte {position}: {source}; \
         other replicas repair it, and where there are none, restore the file or skip the offsets",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged batch begins.
        position: u64,
        /// What is wrong.
        source: FrameError,
    },
    /// The offset was removed while it was being read.
    #[error("the log now holds offsets {start} to {end} only: what was to be read was removed")]
    OutOfRange {
        /// The first offset of the log.
        start: Offset,
        /// The offset after its last record.
        end: Offset,
    },
}

impl ReadError {
    pub(super) fn io(path: PathBuf, position: u64, source: io::Error) -> Self {
        Self::Io {
            path,
            position,
            source,
        }
    }

    pub(super) fn damaged(path: PathBuf, position: u64, source: FrameError) -> Self {
        Self::Damaged {
            path,
            position,
            source,
        }
    }

    /// Whether the file is to blame, and another try would find the same.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            // Gone, or in a part of the disk that cannot be read.
            Self::Io { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
            }
            Self::OutOfRange { .. } => false,
        }
    }
}

impl LogReader {
    /// The batches from the one that holds `offset` on, up to `bytes_max` bytes but at least one,
    /// as far as they end at or before `up_to`. Never blocks.
    ///
    /// Compaction leaves gaps: the first batch may begin behind `offset`.
    pub fn read(&self, offset: Offset, bytes_max: usize, up_to: Offset) -> ReadOutcome {
        let state = self.log.state.lock();
        // What the caller may see can lie behind the last batch that is here: a replica that
        // caught up has no batches for what retention had removed at the others by then.
        let (start, end) = (state.start, state.end.max(up_to));
        if offset < start || offset > end {
            return ReadOutcome::OutOfRange { start, end };
        }
        if offset >= up_to || offset >= state.end {
            return ReadOutcome::End;
        }
        if offset < state.tail.from()
            && let Some(segment) = state.segment_after(offset)
        {
            return ReadOutcome::Disk(DiskRead {
                reader: self.clone(),
                segment: Arc::clone(segment),
                offset,
                bytes_max: bytes_max.min(READ_BYTES_MAX),
                up_to,
            });
        }
        let batches = state.tail.read(offset, bytes_max, up_to);
        if batches.is_empty() {
            ReadOutcome::End
        } else {
            ReadOutcome::Memory(batches)
        }
    }

    /// The first offset that can be read.
    pub fn start_offset(&self) -> Offset {
        self.log.state.lock().start
    }

    /// The offset that the next record gets.
    pub fn end_offset(&self) -> Offset {
        self.log.state.lock().end
    }

    /// Bytes of all batches, on disk or not yet.
    pub fn size_bytes(&self) -> u64 {
        self.log.size_bytes()
    }

    /// How long ago a read found something damaged in it.
    pub fn damaged_for(&self) -> Option<Duration> {
        self.log.store.damaged_for(self.log.id)
    }

    /// Whether the partition was removed from the store. Nothing can be read any more.
    pub fn is_removed(&self) -> bool {
        self.log.state.lock().removed
    }
}

/// A read from the disk that is yet to be done.
#[derive(Debug)]
#[must_use = "nothing is read until it runs"]
pub struct DiskRead {
    reader: LogReader,
    segment: Arc<Segment>,
    offset: Offset,
    bytes_max: usize,
    up_to: Offset,
}

impl DiskRead {
    /// Reads, and checks every batch. Blocks: not for an async worker thread.
    ///
    /// Empty when there is nothing that the caller may see yet, as with [`ReadOutcome::End`].
    ///
    /// # Errors
    /// [`ReadError::Damaged`] names the batch that is not whole; those before it are returned by
    /// a read that ends in front of it, those behind by one that begins there.
    pub fn run(mut self) -> Result<Vec<Batch>, ReadError> {
        loop {
            // Taken first: the segment may grow while it is read.
            let info = self.segment.info();
            match self.run_once(info.bytes) {
                Ok(batches) if !batches.is_empty() => return Ok(batches),
                // What was looked up has been removed or replaced: look again.
                Ok(_) | Err(ReadError::Io { .. }) if self.segment.is_removed() => {}
                Err(error) => return Err(error),
                // Nothing more in this segment: a gap that compaction left, or the caller may
                // not see more yet, which the next lookup tells.
                Ok(_) => self.offset = self.offset.max(info.end_offset).min(self.up_to),
            }
            match self.reader.read(self.offset, self.bytes_max, self.up_to) {
                ReadOutcome::Memory(batches) => return Ok(batches),
                ReadOutcome::Disk(next) => self = next,
                ReadOutcome::End => return Ok(Vec::new()),
                ReadOutcome::OutOfRange { start, end } => {
                    return Err(ReadError::OutOfRange { start, end });
                }
            }
        }
    }

    fn run_once(&self, end: u64) -> Result<Vec<Batch>, ReadError> {
        let files = &self.reader.log.store.files;
        let open = files.get(&self.segment);
        let open = open.inspect_err(|error| self.note_damage(error))?;
        let floor = open.floor(files, &self.segment, self.offset)?;
        let mut position = floor.position;
        let mut bytes_wanted = self.bytes_max.max(READ_BYTES_MIN);
        // Ends: each round moves on by a batch, or asks for as many bytes as that one has.
        while position < end {
            let buffer = self.fetch(&open, position, bytes_wanted, end)?;
            let parsed = match self.parse(&open, &buffer, position, end) {
                Ok(parsed) => parsed,
                Err((damaged_at, source)) => {
                    let damaged = self.damaged(damaged_at, source);
                    position = self.pass_damage(&open, damaged_at).ok_or(damaged)?;
                    continue;
                }
            };
            if !parsed.batches.is_empty() || parsed.reached_limit {
                return Ok(parsed.batches);
            }
            position = parsed.position;
            bytes_wanted = parsed.bytes_wanted.max(READ_BYTES_MIN);
        }
        Ok(Vec::new())
    }

    fn fetch(
        &self,
        open: &OpenSegment,
        position: u64,
        bytes_wanted: usize,
        end: u64,
    ) -> Result<Bytes, ReadError> {
        let len = (end - position).min(bytes_wanted as u64) as usize;
        let mut buffer = Vec::with_capacity(len);
        open.file
            .read_onto(&mut buffer, len, position)
            .map_err(|source| ReadError::io(self.path(), position, source))
            .inspect_err(|error| self.note_damage(error))?;
        if buffer.len() < len {
            let missing = end - position - buffer.len() as u64;
            return Err(self.damaged(
                position + buffer.len() as u64,
                FrameError::FileShort { missing },
            ));
        }
        Ok(buffer.into())
    }

    /// Where to go on behind damage in an earlier batch. `None` if it may be in the batch that the
    /// caller asked for.
    fn pass_damage(&self, open: &OpenSegment, position: u64) -> Option<u64> {
        let entry = IndexEntry {
            offset: self.segment.base_offset(),
            position,
            max_before_ms: i64::MIN,
        };
        let dir = &self.reader.log.store.dir;
        let info = self.segment.info();
        let mut walk = Walk::new(&self.segment, dir, &*open.file, info).starting_at(entry);
        let found = walk.skip_damage().ok()?.then_some(walk.position())?;
        let next = walk.step().ok()??;
        (next.header.base_offset <= self.offset).then_some(found)
    }

    /// Takes the batches out of what was read from `start` on. Damage behind a whole batch is
    /// left to the read that begins there.
    fn parse(
        &self,
        open: &OpenSegment,
        buffer: &Bytes,
        start: u64,
        end: u64,
    ) -> Result<Parsed, (u64, FrameError)> {
        let mut parsed = Parsed {
            batches: Vec::new(),
            position: start,
            bytes_wanted: self.bytes_max,
            reached_limit: false,
        };
        let mut bytes_taken = 0;
        loop {
            let rest = buffer.slice(((parsed.position - start) as usize).min(buffer.len())..);
            match self.parse_one(&rest, parsed.position, end, bytes_taken) {
                Ok(Found::Batch(batch, len)) => {
                    parsed.batches.push(batch);
                    parsed.position += len;
                    bytes_taken += len;
                }
                Ok(Found::Earlier(len)) => parsed.position += len,
                Ok(Found::Limit) => {
                    parsed.reached_limit = true;
                    break;
                }
                Ok(Found::CutOff(bytes_wanted)) => {
                    parsed.bytes_wanted = bytes_wanted as usize;
                    break;
                }
                Err(source) if parsed.batches.is_empty() => {
                    return Err((parsed.position, source));
                }
                Err(_) => break,
            }
        }
        if let Some(last) = parsed.batches.last() {
            open.hint(last.end_offset(), parsed.position);
        }
        Ok(parsed)
    }

    /// Looks at the frame at the front of `rest`, which lies at `position`.
    fn parse_one(
        &self,
        rest: &Bytes,
        position: u64,
        end: u64,
        bytes_taken: u64,
    ) -> Result<Found, FrameError> {
        let left = end - position;
        if left == 0 {
            return Ok(Found::CutOff(0));
        }
        if left < FRAME_LEN as u64 {
            let len = FRAME_LEN as u64;
            return Err(FrameError::BehindEnd { len, left });
        }
        if rest.len() < FRAME_LEN {
            return Ok(Found::CutOff(FRAME_LEN as u64));
        }
        let header = decode_front(rest, position)?;
        let len = frame_bytes(&header, position);
        if len > left {
            return Err(FrameError::BehindEnd { len, left });
        }
        let batch_end = header.base_offset.plus(header.offset_span.into());
        if batch_end <= self.offset {
            return Ok(Found::Earlier(len));
        }
        let is_first = bytes_taken == 0;
        if batch_end > self.up_to || (!is_first && bytes_taken + len > self.bytes_max as u64) {
            return Ok(Found::Limit);
        }
        if (rest.len() as u64) < len {
            return Ok(Found::CutOff(len));
        }
        let batch = decode_batch(&rest.slice(..len as usize), position)?;
        Ok(Found::Batch(batch, len))
    }

    fn damaged(&self, position: u64, source: FrameError) -> ReadError {
        let error = ReadError::damaged(self.path(), position, source);
        self.note_damage(&error);
        error
    }

    /// Takes note of damage, unless the file is gone because retention has removed the segment, or
    /// compaction replaced it, since it was looked up.
    fn note_damage(&self, error: &ReadError) {
        if !self.segment.is_removed() {
            self.reader.log.note_damage(error);
        }
    }

    fn path(&self) -> PathBuf {
        self.segment.key.segment_path(&self.reader.log.store.dir)
    }
}

/// What was found in a buffer.
struct Parsed {
    batches: Vec<Batch>,
    /// Where to read on.
    position: u64,
    /// How many bytes a read must take to hold the batch there.
    bytes_wanted: usize,
    /// Whether the batch there is not for the caller yet.
    reached_limit: bool,
}

/// What was found at a position.
enum Found {
    /// A batch that the caller asked for, and its bytes in the file.
    Batch(Batch, u64),
    /// A batch of so many bytes that ends before what the caller asked for.
    Earlier(u64),
    /// A batch that the caller may not see yet, or has no room for.
    Limit,
    /// What was read ends here; the batch takes so many bytes.
    CutOff(u64),
}
