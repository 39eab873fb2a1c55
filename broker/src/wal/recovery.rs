//! Start-up: what the files say, or why they cannot be trusted.
//!
//! The segments are read once, in order, through a window. Where the records end, there are three
//! possibilities, and only one of them is fine:
//! - the log ends here, or a crash tore what was never acknowledged as durable: the rest is cut;
//! - a later record says that the log had been durable beyond this place: something damaged it
//!   since, and nothing is touched;
//! - the place is within what older segments were removed in trust of: damage, too.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use flumen_protocol::ids::ShardId;

use super::{
    LogPosition, OpenError, WalOptions,
    record::{DecodeError, RecordHeader, RecordKind, record_bytes},
    scan::{Remains, Window, search_remains},
    segment::{
        FORMAT_VERSION, FileName, HeaderError, Position, SEGMENT_HEADER_BYTES, Segment,
        SegmentHeader, segment_path, spare_path,
    },
    shard::{Change, ShardImage, ShardIndex, Slot},
    space::{Spare, create_spare, make_segment},
};
use crate::disk::{Disk, File};

/// Zeros written at a time.
const ZEROS_BYTES: usize = 1 << 20;

/// What recovery found.
pub(super) struct Recovered {
    /// Never empty; the last one is the active one.
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) shards: BTreeMap<ShardId, ShardIndex>,
    /// Where writing goes on.
    pub(super) head: Position,
    /// The segments that were ready behind the active one.
    pub(super) standbys: VecDeque<Arc<Segment>>,
    pub(super) spares: Vec<Spare>,
    pub(super) spare_next: u64,
}

/// Reads the WAL in `options.dir`, or makes an empty one.
pub(super) fn recover(disk: &dyn Disk, options: &WalOptions) -> Result<Recovered, OpenError> {
    let dir = &options.dir;
    disk.create_dir_all(dir).map_err(io_error("create", dir))?;
    let files = Files::list(disk, dir)?;
    let mut recovery = Recovery {
        disk,
        options,
        segments: open_segments(disk, dir, &files.segments)?,
        shards: BTreeMap::new(),
        spares: open_spares(disk, options, &files.spares)?,
        spare_next: files.spares.last().map_or(0, |number| number + 1),
        durable_seen: Position::default(),
    };
    if recovery.segments.is_empty() {
        recovery.create_first_segment()?;
    }
    let (head, standbys) = recovery.replay()?;
    recovery.check_nothing_is_missing()?;
    recovery.sync()?;
    Ok(Recovered {
        segments: recovery.segments.into(),
        shards: recovery.shards,
        head,
        standbys,
        spares: recovery.spares,
        spare_next: recovery.spare_next,
    })
}

/// Whether there are segments in a directory, which need not be there.
pub(super) fn has_segments(disk: &dyn Disk, dir: &Path) -> Result<bool, OpenError> {
    match disk.list(dir) {
        Ok(_) => Ok(!Files::list(disk, dir)?.segments.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("list", dir)(error)),
    }
}

pub(super) fn io_error<'a>(
    attempt: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io {
        attempt,
        path: path.to_path_buf(),
        source,
    }
}

/// The files in the directory that are the WAL's.
#[derive(Default)]
struct Files {
    segments: Vec<u64>,
    spares: Vec<u64>,
}

impl Files {
    fn list(disk: &dyn Disk, dir: &Path) -> Result<Self, OpenError> {
        let mut files = Self::default();
        for entry in disk.list(dir).map_err(io_error("list", dir))? {
            match entry.name().map_or(FileName::Foreign, FileName::parse) {
                FileName::Segment(sequence) if !entry.is_dir => files.segments.push(sequence),
                FileName::Spare(number) if !entry.is_dir => files.spares.push(number),
                _ => tracing::warn!(path = %entry.path.display(),
                    "a file in the write-ahead log's directory is not its own; left alone"),
            }
        }
        files.segments.sort_unstable();
        files.spares.sort_unstable();
        Ok(files)
    }
}

fn open_segments(
    disk: &dyn Disk,
    dir: &Path,
    sequences: &[u64],
) -> Result<Vec<Arc<Segment>>, OpenError> {
    for pair in sequences.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(OpenError::Missing {
                path: segment_path(dir, pair[0] + 1),
                reason: "there are segments before and after it".into(),
            });
        }
    }
    let open = |sequence: &u64| {
        let path = segment_path(dir, *sequence);
        let file = disk.open(&path).map_err(io_error("open", &path))?;
        match SegmentHeader::read(&*file, *sequence) {
            Ok(header) => Ok(Arc::new(Segment::new(header, path, file))),
            Err(HeaderError::Io(source)) => Err(io_error("read", &path)(source)),
            Err(HeaderError::Version(found)) => Err(OpenError::NewerVersion {
                path,
                found,
                supported: FORMAT_VERSION,
            }),
            // It was synced before the file got its name, so no crash can have torn it.
            Err(HeaderError::Damaged(reason)) => Err(OpenError::Damaged {
                path,
                position: 0,
                reason: reason.into(),
            }),
        }
    };
    sequences.iter().map(open).collect()
}

/// Opens the spares that can be used; removes those of another size or beyond the limit.
fn open_spares(
    disk: &dyn Disk,
    options: &WalOptions,
    numbers: &[u64],
) -> Result<Vec<Spare>, OpenError> {
    let mut spares = Vec::new();
    for number in numbers {
        let path = spare_path(&options.dir, *number);
        let file = disk.open(&path).map_err(io_error("open", &path))?;
        if file.len().map_err(io_error("measure", &path))? == options.segment_bytes {
            let filled = options.segment_bytes;
            spares.push(Spare { path, file, filled });
        } else {
            disk.remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(spares)
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    options: &'a WalOptions,
    segments: Vec<Arc<Segment>>,
    shards: BTreeMap<ShardId, ShardIndex>,
    spares: Vec<Spare>,
    spare_next: u64,
    /// The furthest that any record says had been durable.
    durable_seen: Position,
}

/// How the records of a segment end.
enum End {
    /// With a seal: the log goes on in the next segment.
    Sealed(u64),
    /// At this offset, where there is no record, for this reason.
    Open(u64, DecodeError),
}

impl Recovery<'_> {
    fn create_first_segment(&mut self) -> Result<(), OpenError> {
        let dir = &self.options.dir;
        let spare = match self.spares.pop() {
            Some(spare) => spare,
            None => create_spare(self.disk, self.options, self.spare_next)
                .map_err(io_error("create a segment in", dir))?,
        };
        self.spare_next += 1;
        let segment = make_segment(self.disk, self.options, &spare, 1)
            .map_err(io_error("create a segment in", dir))?;
        self.segments.push(Arc::new(segment));
        Ok(())
    }

    /// Replays all segments, cuts what a crash left, and returns where the log ends, and the
    /// segments that are ready behind it.
    fn replay(&mut self) -> Result<(Position, VecDeque<Arc<Segment>>), OpenError> {
        let mut at = 0;
        loop {
            let segment = Arc::clone(&self.segments[at]);
            match self.replay_segment(&segment, at == 0)? {
                End::Sealed(offset) if at + 1 == self.segments.len() => {
                    return Err(OpenError::Missing {
                        path: segment_path(&self.options.dir, segment.sequence + 1),
                        reason: format!(
                            "{} says at byte {offset} that the log goes on in it",
                            segment.path.display()
                        ),
                    });
                }
                End::Sealed(_) => at += 1,
                End::Open(offset, error) => return self.cut(at, offset, error),
            }
        }
    }

    /// Ends the log at `offset` of a segment, unless a later record says it was durable beyond.
    fn cut(
        &mut self,
        at: usize,
        offset: u64,
        error: DecodeError,
    ) -> Result<(Position, VecDeque<Arc<Segment>>), OpenError> {
        let segment = Arc::clone(&self.segments[at]);
        let end = Position::new(segment.sequence, offset);
        let damaged = |reason| {
            Err(OpenError::Damaged {
                path: segment.path.clone(),
                position: offset,
                reason,
            })
        };
        let mut remains = Remains::default();
        let mut untouched = true;
        for (number, later) in self.segments[at..].iter().enumerate() {
            let start = if number == 0 {
                offset
            } else {
                SEGMENT_HEADER_BYTES
            };
            let found = search_remains(later, start)?;
            if let Some((durable, position)) = found.witness
                && durable > end
            {
                return damaged(format!(
                    "{error}, though the record at byte {position} of {} says that it had been \
                     synced",
                    later.path.display()
                ));
            }
            if number == 0 {
                remains = found;
            } else {
                untouched &= found.end.is_none() && later.len == self.options.segment_bytes;
            }
        }
        if self.durable_seen > end {
            return damaged(format!(
                "{error}, though a record before it says it had been synced"
            ));
        }
        // Older segments are removed once the states at the beginning of the next are durable.
        let opened = segment.opening_end.get() > Position::default();
        if !opened && at == 0 && segment.sequence > 1 {
            return damaged(format!(
                "{error}, among the states for which the segments before were removed"
            ));
        }
        let standbys = if untouched {
            self.segments.split_off(at + 1).into()
        } else {
            self.discard_after(at)?;
            VecDeque::new()
        };
        // States that a crash cut short repeat what older segments say; they are written anew.
        let offset = if opened { offset } else { SEGMENT_HEADER_BYTES };
        // A file that lost its end must not run out of room later. No crash does that: files are
        // made at full length.
        let found = segment
            .file
            .len()
            .map_err(io_error("measure", &segment.path))?;
        if found < segment.len {
            tracing::warn!(
                path = %segment.path.display(), bytes = found, bytes_made = segment.len,
                "the last segment of the write-ahead log was cut short by something else than a \
                 crash; what stood behind its end is lost, restore the file if you have a copy"
            );
        }
        segment
            .file
            .allocate(segment.len)
            .map_err(io_error("allocate", &segment.path))?;
        if let Some(remains_end) = remains.end {
            tracing::info!(path = %segment.path.display(), offset, %error,
                "cutting a write that a crash cut short");
            overwrite_with_zeros(&*segment.file, offset, remains_end)
                .map_err(io_error("clean the end of", &segment.path))?;
        }
        Ok((Position::new(segment.sequence, offset), standbys))
    }

    /// Makes the segments after `at` into spares, the last first, so that a crash leaves no gap.
    fn discard_after(&mut self, at: usize) -> Result<(), OpenError> {
        let dir = self.options.dir.clone();
        while self.segments.len() > at + 1 {
            let Some(segment) = self.segments.pop() else {
                break;
            };
            let path = spare_path(&dir, self.spare_next);
            self.spare_next += 1;
            self.disk
                .rename(&segment.path, &path)
                .map_err(io_error("rename", &segment.path))?;
            self.disk.sync_dir(&dir).map_err(io_error("sync", &dir))?;
            if segment.len == self.options.segment_bytes {
                self.spares.push(Spare {
                    path,
                    file: Arc::clone(&segment.file),
                    filled: segment.len,
                });
            } else {
                self.disk
                    .remove_file(&path)
                    .map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    fn replay_segment(&mut self, segment: &Segment, oldest: bool) -> Result<End, OpenError> {
        let mut window = Window::new(segment);
        let mut offset = SEGMENT_HEADER_BYTES;
        loop {
            let (header, payload) = match window.record(offset)? {
                Ok(record) => record,
                // No crash has left that, and what follows may be the same.
                Err(DecodeError::Kind { kind, .. }) => {
                    return Err(OpenError::NewerRecord {
                        path: segment.path.clone(),
                        position: offset,
                        kind,
                    });
                }
                Err(error) => return Ok(End::Open(offset, error)),
            };
            self.durable_seen = self.durable_seen.max(header.durable);
            let next = offset + record_bytes(header.payload_bytes.into());
            match header.kind {
                RecordKind::Seal => return Ok(End::Sealed(offset)),
                RecordKind::OpeningEnd => segment
                    .opening_end
                    .raise(Position::new(segment.sequence, next)),
                _ => self
                    .apply(segment, oldest, &header, payload)
                    .map_err(|reason| OpenError::Damaged {
                        path: segment.path.clone(),
                        position: offset,
                        reason: reason.into(),
                    })?,
            }
            offset = next;
        }
    }

    fn apply(
        &mut self,
        segment: &Segment,
        oldest: bool,
        header: &RecordHeader,
        payload: &[u8],
    ) -> Result<(), &'static str> {
        if header.kind == RecordKind::State {
            return self.apply_state(oldest, header, payload);
        }
        let index = self.shards.entry(header.shard).or_default();
        let (term, number) = (header.term, header.index);
        let bytes = || Bytes::copy_from_slice(payload);
        let change = match header.kind {
            RecordKind::Entry => {
                if index.extent.next().is_some_and(|next| next != number) {
                    return Err("the entry does not follow the one before it");
                }
                segment.live.fetch_add(1, Ordering::Relaxed);
                Change::Entry {
                    term,
                    index: number,
                    slot: Slot {
                        position: Position::new(segment.sequence, header.offset.into()),
                        payload_bytes: header.payload_bytes,
                    },
                }
            }
            RecordKind::Moved => {
                if index.extent.term(number) != Some(term) {
                    return Err("the entry that moved is not there");
                }
                segment.live.fetch_add(1, Ordering::Relaxed);
                Change::Moved {
                    index: number,
                    slot: Slot {
                        position: Position::new(segment.sequence, header.offset.into()),
                        payload_bytes: header.payload_bytes,
                    },
                }
            }
            RecordKind::Vote => Change::Vote(bytes()),
            RecordKind::Truncate => Change::Truncate((term != 0).then_some(number)),
            RecordKind::Purge => {
                let up_to = LogPosition {
                    term,
                    index: number,
                };
                Change::Purge(up_to, bytes())
            }
            RecordKind::Reset => Change::Reset,
            RecordKind::Committed
            | RecordKind::State
            | RecordKind::OpeningEnd
            | RecordKind::Seal => return Ok(()),
        };
        let segments = &self.segments;
        let first = segments.first().map_or(0, |segment| segment.sequence);
        let head = Position::new(
            segment.sequence,
            u64::from(header.offset) + record_bytes(header.payload_bytes.into()),
        );
        index.apply(change, |slot| {
            let at = slot.position.sequence().checked_sub(first);
            if let Some(segment) = at.and_then(|at| segments.get(at as usize)) {
                segment.live.fetch_sub(1, Ordering::Relaxed);
                segment.free_after.raise(head);
            }
        });
        Ok(())
    }

    fn apply_state(
        &mut self,
        oldest: bool,
        header: &RecordHeader,
        payload: &[u8],
    ) -> Result<(), &'static str> {
        let image: ShardImage =
            postcard::from_bytes(payload).map_err(|_| "the state of a shard does not decode")?;
        if oldest {
            self.shards
                .insert(header.shard, ShardIndex::from_image(image));
        } else if self.shards.get(&header.shard).map(ShardIndex::image) != Some(image) {
            return Err("the state of a shard is not what the records before it make it");
        }
        Ok(())
    }

    /// Entries from before the oldest segment must all have been purged since.
    fn check_nothing_is_missing(&self) -> Result<(), OpenError> {
        let oldest = self.segments[0].sequence;
        for (shard, index) in &self.shards {
            let missing = index.missing();
            if missing > 0 {
                return Err(OpenError::Missing {
                    path: segment_path(&self.options.dir, oldest.saturating_sub(1)),
                    reason: format!("{missing} entries of shard {shard} are in it, or before it"),
                });
            }
        }
        Ok(())
    }

    /// What was read may be in the page cache only; from here on it counts as durable.
    fn sync(&self) -> Result<(), OpenError> {
        for segment in &self.segments {
            if segment.end() > self.durable_seen {
                segment
                    .file
                    .sync_data()
                    .map_err(io_error("sync", &segment.path))?;
            }
        }
        Ok(())
    }
}

fn overwrite_with_zeros(file: &dyn File, start: u64, end: u64) -> io::Result<()> {
    let mut at = start;
    let zeros = vec![0; ZEROS_BYTES];
    while at < end {
        let count = (end - at).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..count as usize], at)?;
        at += count;
    }
    file.sync_data()
}
