//! Opening a log: what the checkpoint promises must be there, whatever else is there goes.

use std::{io, path::PathBuf, sync::Arc};

use flumen_protocol::ids::{Offset, PartitionId};
use parking_lot::Mutex;

use super::{
    LogCheckpoint, LogOptions, SegmentCheckpoint,
    names::{FileKind, SegmentKey, StartMark},
    partition::{Log, State},
    segment::Segment,
    store::StoreShared,
    tail::Tail,
    write::Writer,
};
use crate::mutation::{Mutation, is_planted};

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file that the checkpoint names is not there.
    #[error(
        "{} is missing: the checkpoint of partition {partition} has {bytes} bytes of it; \
         restore the file; in a cluster, `flumen cluster remove` this broker, empty its data \
         directory, and let it join as a new one",
        path.display()
    )]
    Missing {
        /// The partition.
        partition: PartitionId,
        /// The file.
        path: PathBuf,
        /// Bytes it should have.
        bytes: u64,
    },
    /// A file is shorter than the checkpoint promises.
    #[error(
        "{} ends at byte {len}, but the checkpoint of partition {partition} has {bytes} bytes of \
         it; restore the file; in a cluster, `flumen cluster remove` this broker, empty its data \
         directory, and let it join as a new one",
        path.display()
    )]
    Short {
        /// The partition.
        partition: PartitionId,
        /// The file.
        path: PathBuf,
        /// Bytes it has: the position of what is missing.
        len: u64,
        /// Bytes it should have.
        bytes: u64,
    },
    /// The disk failed.
    #[error("cannot open {}: {source}; check the disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// Opens the log of `id` as `checkpoint` describes it. `found` are its files on disk.
pub(super) fn recover(
    store: &Arc<StoreShared>,
    id: PartitionId,
    options: LogOptions,
    checkpoint: &LogCheckpoint,
    found: &[FileKind],
) -> Result<Log, OpenError> {
    let marks = retention_marks(found, checkpoint);
    let removed_to = removed_to(found, checkpoint);
    let mut segments = Vec::new();
    for promised in &checkpoint.segments {
        let key = SegmentKey::of(id, promised);
        if promised.end_offset > removed_to {
            let bytes = check_file(store, &key, promised)?;
            segments.push(Segment::recovered(
                key,
                &SegmentCheckpoint { bytes, ..*promised },
            ));
        }
    }
    // Only now, when nothing is missing, is anything removed.
    let keys: Vec<_> = segments.iter().map(|segment| segment.key).collect();
    let is_needed = |kind: &FileKind| match kind {
        FileKind::Segment(key) => keys.contains(key),
        FileKind::Start(mark) => marks.contains(mark),
    };
    let leftover: Vec<_> = found
        .iter()
        .copied()
        .filter(|kind| !is_needed(kind))
        .collect();
    store.remove_found(id, &leftover);

    let start = checkpoint.start_offset.max(removed_to);
    Ok(Log {
        id,
        store: Arc::clone(store),
        compacting: Mutex::default(),
        maintenance: Mutex::default(),
        writer: Mutex::new(Writer),
        state: Mutex::new(State {
            options,
            start,
            end: checkpoint.end_offset,
            segments: segments.into_iter().map(Arc::new).collect(),
            tail: Tail::new(checkpoint.end_offset),
            compacted_to: checkpoint.compacted_to,
            oldest_tombstone_ms: checkpoint.oldest_tombstone_ms,
            // The next checkpoint has no need of the marks.
            version: marks
                .iter()
                .map(|mark| mark.version)
                .fold(checkpoint.version, u64::max),
            obsolete: Vec::new(),
            unsynced: Vec::new(),
            names_unsynced: false,
            start_marks: marks,
            due: super::flusher::Due::default(),
            removed: false,
        }),
    })
}

/// Up to where retention has removed what the checkpoint names.
pub(super) fn removed_to(found: &[FileKind], checkpoint: &LogCheckpoint) -> Offset {
    let marks = retention_marks(found, checkpoint);
    let marked = marks.iter().map(|mark| mark.offset).max();
    // What lies behind the checkpoint is appended again, and then removed again.
    marked.unwrap_or_default().min(checkpoint.end_offset)
}

/// What retention has removed since the checkpoint. Removing does not wait for a checkpoint, since
/// a full disk may not be able to take one.
fn retention_marks(found: &[FileKind], checkpoint: &LogCheckpoint) -> Vec<StartMark> {
    let marks = found.iter().filter_map(|kind| match kind {
        FileKind::Start(mark) if mark.version > checkpoint.version => Some(*mark),
        _ => None,
    });
    marks.collect()
}

/// Checks that the file of a segment is there and as long as promised, and cuts the rest off.
/// Returns its length then.
fn check_file(
    store: &StoreShared,
    key: &SegmentKey,
    promised: &SegmentCheckpoint,
) -> Result<u64, OpenError> {
    let path = key.segment_path(&store.dir);
    let (partition, bytes) = (key.partition, promised.bytes);
    let failed = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let file = match store.disk.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Missing {
                partition,
                path,
                bytes,
            });
        }
        Err(error) => return Err(failed(error)),
    };
    let len = file.len().map_err(failed)?;
    if len < bytes {
        return Err(OpenError::Short {
            partition,
            path,
            len,
            bytes,
        });
    }
    if len > bytes {
        if is_planted(Mutation::LogNotCut) {
            return Ok(len);
        }
        file.set_len(bytes).map_err(failed)?;
    }
    Ok(bytes)
}
