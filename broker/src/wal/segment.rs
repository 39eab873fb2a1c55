//! A segment file: a header block, then records until a seal or the end of what was written.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crc_fast::crc32_iscsi;

use crate::disk::File;

/// The version of the format of segments, their header and their records.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Bytes before the first record. A block of its own, so that no later write touches it.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 4096;
/// The bytes of the header that mean something.
const HEADER_FIELDS_BYTES: usize = 44;
const MAGIC: [u8; 8] = *b"FLUMENWL";
const SEGMENT_EXTENSION: &str = "wal";
const SPARE_EXTENSION: &str = "spare";

/// A place in the WAL: the sequence number of a segment, and an offset in it. Later is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position(pub(super) u64);

impl Position {
    /// Sequence numbers have 32 bits: at 1 GiB a second in segments of 64 MiB, eight years' worth.
    pub(super) fn new(sequence: u64, offset: u64) -> Self {
        debug_assert!(sequence <= u32::MAX.into() && offset <= u32::MAX.into());
        Self(sequence << 32 | offset)
    }

    pub(super) fn sequence(self) -> u64 {
        self.0 >> 32
    }

    pub(super) fn offset(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

/// A [`Position`] that several threads see. It only ever grows.
#[derive(Debug, Default)]
pub(super) struct AtomicPosition(AtomicU64);

impl AtomicPosition {
    pub(super) fn new(position: Position) -> Self {
        Self(AtomicU64::new(position.0))
    }

    pub(super) fn get(&self) -> Position {
        Position(self.0.load(Ordering::Acquire))
    }

    pub(super) fn raise(&self, position: Position) {
        self.0.fetch_max(position.0, Ordering::AcqRel);
    }
}

/// A segment that is part of the log.
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) tag: u64,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    /// The size of the file.
    pub(super) len: u64,
    /// Entries in it that are still needed.
    pub(super) live: AtomicU64,
    /// The log must be durable up to here before the file may be reused: the records that freed
    /// the last entries stand before it.
    pub(super) free_after: AtomicPosition,
    /// Where the states at its beginning end, once they are written. Older segments are needed
    /// until these are durable.
    pub(super) opening_end: AtomicPosition,
}

impl fmt::Debug for Segment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Segment({})", self.path.display())
    }
}

impl Segment {
    pub(super) fn new(header: SegmentHeader, path: PathBuf, file: Arc<dyn File>) -> Self {
        Self {
            sequence: header.sequence,
            tag: header.tag,
            path,
            file,
            len: header.len,
            live: AtomicU64::new(0),
            free_after: AtomicPosition::default(),
            opening_end: AtomicPosition::default(),
        }
    }

    /// The place right behind the last byte.
    pub(super) fn end(&self) -> Position {
        Position::new(self.sequence, self.len)
    }
}

/// The first block of a segment file. Written and synced before the file gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) sequence: u64,
    pub(super) tag: u64,
    pub(super) len: u64,
}

/// Why a file is no segment.
#[derive(Debug)]
pub(super) enum HeaderError {
    Io(io::Error),
    Version(u32),
    Damaged(&'static str),
}

impl SegmentHeader {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.tag.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(crc32_iscsi(&bytes).to_le_bytes());
        bytes.resize(SEGMENT_HEADER_BYTES as usize, 0);
        bytes
    }

    /// Reads the header of a file that should be the segment with this sequence number.
    pub(super) fn read(file: &dyn File, sequence: u64) -> Result<Self, HeaderError> {
        let mut bytes = [0; HEADER_FIELDS_BYTES];
        if file.read_at(&mut bytes, 0).map_err(HeaderError::Io)? < bytes.len() {
            return Err(HeaderError::Damaged("the file is shorter than its header"));
        }
        let u32_at = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(number)
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..8] != MAGIC {
            return Err(HeaderError::Damaged(
                "the file does not begin as a segment does",
            ));
        }
        // The version decides what the other fields mean, so it comes before the checksum; the
        // magic before it makes a flipped bit here unlikely.
        let version = u32_at(8);
        if version > FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        if crc32_iscsi(&bytes[..40]) != u32_at(40) {
            return Err(HeaderError::Damaged(
                "the checksum of the header does not match",
            ));
        }
        let header = Self {
            sequence: u64_at(16),
            tag: u64_at(24),
            len: u64_at(32),
        };
        if header.sequence != sequence {
            return Err(HeaderError::Damaged(
                "the file has the name of another segment",
            ));
        }
        Ok(header)
    }
}

/// What a name in the directory stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileName {
    Segment(u64),
    Spare(u64),
    Foreign,
}

impl FileName {
    pub(super) fn parse(name: &str) -> Self {
        let Some((stem, extension)) = name.split_once('.') else {
            return Self::Foreign;
        };
        let digits = stem.len() == 16
            && stem
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match (digits, u64::from_str_radix(stem, 16), extension) {
            (true, Ok(number), SEGMENT_EXTENSION) if number > 0 && number <= u32::MAX.into() => {
                Self::Segment(number)
            }
            (true, Ok(number), SPARE_EXTENSION) => Self::Spare(number),
            _ => Self::Foreign,
        }
    }
}

/// The path of the segment with this sequence number.
pub(super) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.{SEGMENT_EXTENSION}"))
}

/// The path of a file that waits to become a segment.
pub(super) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SPARE_EXTENSION}"))
}
