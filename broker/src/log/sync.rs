//! Checkpoints: making many logs durable with few syncs.

use std::{fmt, io, path::PathBuf, sync::Arc};

use flumen_protocol::ids::{Offset, PartitionId};
use rustc_hash::FxHashSet;

use super::{
    LogCheckpoint, PartitionLog, SegmentCheckpoint,
    names::topic_dir,
    partition::Log,
    read::ReadError,
    segment::{Segment, Unsynced},
    store::StoreShared,
    walk::Walk,
    write::FlushError,
};

/// Files that a checkpoint syncs one by one. When more are dirty, one sync of the whole file
/// system is cheaper.
pub const SYNC_FILES_MAX: usize = 16;

/// Why a checkpoint was not made. The one before it holds on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Batches could not be written; a later checkpoint may succeed.
    #[error("no checkpoint: {0}")]
    Flush(#[from] FlushError),
    /// A segment could not be read.
    #[error("no checkpoint: {0}")]
    Read(#[from] ReadError),
    /// A file is not there, or not all of it, though records in it are in no checkpoint yet. The
    /// write-ahead log has them, and keeps them as long as there is none.
    #[error(
        "no checkpoint: {} of partition {partition} has {found}, and should have {bytes} bytes; the \
         write-ahead log keeps the records that were written there since the last checkpoint; {}; \
         see who removes files from the data directory",
        path.display(),
        what_to_do(*saved_bytes)
    )]
    Gone {
        /// The partition.
        partition: PartitionId,
        /// The file.
        path: PathBuf,
        /// What there is of it.
        found: Found,
        /// Bytes it should have.
        bytes: u64,
        /// Bytes that the last checkpoint has of it.
        saved_bytes: u64,
    },
    /// A sync failed, now or before. What the disk holds is unknown, so no later checkpoint
    /// succeeds either: start the broker anew, and it recovers from the last good one.
    #[error(
        "no checkpoint: {0}; replace the disk or restart the broker to recover from the write-ahead log"
    )]
    Failed(String),
}

/// What there is of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// Nothing.
    NoFile,
    /// So many bytes.
    Bytes(u64),
}

impl fmt::Display for Found {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile => formatter.write_str("no file"),
            Self::Bytes(bytes) => write!(formatter, "{bytes} bytes"),
        }
    }
}

/// How the records of a file come back that is gone.
fn what_to_do(saved_bytes: u64) -> String {
    let restore = if saved_bytes == 0 {
        "restart the broker, which writes all that the file had again".to_owned()
    } else {
        format!(
            "restore its first {saved_bytes} bytes, which the log has no more, and restart the broker"
        )
    };
    format!("where other brokers have the partition, they repair it; else {restore}")
}

impl CheckpointError {
    /// Whether the same checkpoint may succeed later, with more space for instance.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Flush(_))
    }
}

impl From<CheckpointError> for io::Error {
    fn from(error: CheckpointError) -> Self {
        let kind = match &error {
            CheckpointError::Flush(FlushError::NoSpace { .. }) => io::ErrorKind::StorageFull,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Makes each log durable up to its offset.
pub(super) fn checkpoint(
    store: &StoreShared,
    logs: &[(PartitionLog, Offset)],
) -> Result<Vec<LogCheckpoint>, CheckpointError> {
    // One at a time: a second one must not rely on syncs that the first has only begun.
    let _checkpointing = store.checkpointing.lock();
    for (log, end) in logs {
        log.log.flush_to(*end)?;
    }
    sync(store, logs)?;
    logs.iter()
        .map(|(log, end)| log.log.describe(*end))
        .collect()
}

fn sync(store: &StoreShared, logs: &[(PartitionLog, Offset)]) -> Result<(), CheckpointError> {
    if let Some(failed) = store.failed.get() {
        return Err(CheckpointError::Failed(failed.clone()));
    }
    let mut segments = Vec::new();
    let mut dirs = FxHashSet::default();
    for (log, _) in logs {
        let mut state = log.log.state.lock();
        segments.append(&mut state.unsynced);
        if std::mem::take(&mut state.names_unsynced) {
            dirs.insert(topic_dir(&store.dir, log.id().topic));
        }
    }
    sync_files(store, &segments, &dirs).map_err(|(path, error)| {
        let text = format!("syncing {} failed: {error}", path.display());
        tracing::error!(error = text, "no checkpoint will be made any more");
        CheckpointError::Failed(store.failed.get_or_init(|| text).clone())
    })
}

fn sync_files(
    store: &StoreShared,
    segments: &[Arc<Segment>],
    dirs: &FxHashSet<PathBuf>,
) -> Result<(), (PathBuf, io::Error)> {
    let mut open = Vec::new();
    let mut whole = segments.len() + dirs.len() > SYNC_FILES_MAX;
    for segment in segments {
        match segment.take_unsynced() {
            Unsynced::Nothing => {}
            Unsynced::Anyhow => whole = true,
            Unsynced::Through(handle) => match handle.upgrade() {
                Some(handle) => open.push((segment, handle)),
                None => whole = true,
            },
        }
    }
    if whole {
        let synced = store.file_system.sync();
        return synced.map_err(|error| (store.dir.clone(), error));
    }
    for (segment, handle) in open {
        let synced = handle.file.sync_data();
        synced.map_err(|error| (segment.key.segment_path(&store.dir), error))?;
    }
    for dir in dirs {
        match store.disk.sync_dir(dir) {
            // The topic was deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|error| (dir.clone(), error))?,
        }
    }
    Ok(())
}

impl Log {
    /// What to recover to when the log shall end at `end`, a batch's boundary up to which it is
    /// durable.
    fn describe(&self, end: Offset) -> Result<LogCheckpoint, CheckpointError> {
        // Keeps the segments as they are.
        let _maintenance = self.maintenance.lock();
        let (mut checkpoint, segments) = {
            let state = self.state.lock();
            let checkpoint = LogCheckpoint {
                start_offset: state.start.min(end),
                end_offset: end.min(state.end),
                segments: Vec::with_capacity(state.segments.len()),
                compacted_to: state.compacted_to.min(end),
                oldest_tombstone_ms: state.oldest_tombstone_ms,
                version: state.version,
            };
            (checkpoint, state.segments.clone())
        };
        for segment in segments
            .iter()
            .filter(|segment| segment.base_offset() < end)
        {
            let described = segment.checkpoint();
            let described = if described.end_offset > end {
                self.cut(segment, described, end)?
            } else {
                Some(described)
            };
            if let Some(described) = &described {
                self.check_is_there(segment, described.bytes)?;
            }
            checkpoint.segments.extend(described);
        }
        Ok(checkpoint)
    }

    /// Checks that the file of a segment is there with all that the checkpoint before does not
    /// have: a file that somebody has removed is written and synced all the same for as long as it
    /// is open, and then the write-ahead log alone has what was in it.
    fn check_is_there(&self, segment: &Segment, bytes: u64) -> Result<(), CheckpointError> {
        let saved_bytes = segment.saved_bytes();
        if bytes <= saved_bytes {
            return Ok(());
        }
        let path = segment.key.segment_path(&self.store.dir);
        let found = match self.store.disk.open(&path).and_then(|file| file.len()) {
            Ok(len) if len >= bytes => return Ok(()),
            Ok(len) => Found::Bytes(len),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::NoFile,
            Err(source) => return Err(ReadError::io(path, 0, source).into()),
        };
        self.note_lost();
        Err(CheckpointError::Gone {
            partition: self.id,
            path,
            found,
            bytes,
            saved_bytes,
        })
    }

    /// The front part of a segment, up to `end`. `None` if it has no batch before.
    fn cut(
        &self,
        segment: &Segment,
        described: SegmentCheckpoint,
        end: Offset,
    ) -> Result<Option<SegmentCheckpoint>, ReadError> {
        let files = &self.store.files;
        let open = files.get(segment)?;
        let entry = open.floor(files, segment, end)?;
        let info = segment.info();
        let mut walk = Walk::new(segment, &self.store.dir, &*open.file, info).starting_at(entry);
        let mut bytes = walk.position();
        while let Some(step) = walk.step()? {
            bytes = step.position;
            if step.header.base_offset >= end {
                break;
            }
            bytes = walk.position();
        }
        let has_batches = bytes > segment.first().position;
        Ok(has_batches.then_some(SegmentCheckpoint {
            bytes,
            end_offset: end,
            sealed: false,
            ..described
        }))
    }
}
