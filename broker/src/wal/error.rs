//! What can go wrong with the WAL: while opening it, and afterwards.

use std::{io, path::PathBuf, sync::Arc};

use flumen_protocol::size::Size;

/// Why an operation on the WAL did not succeed. Cheap to clone: one failure reaches many waiters.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// All of the WAL is in use.
    #[error(
        "the write-ahead log is full ({} of {} in use); try again once a checkpoint has made \
         room, or raise wal.bytes_max",
        Size(*bytes),
        Size(*bytes_max)
    )]
    Full {
        /// Bytes in use.
        bytes: u64,
        /// The most that may be in use.
        bytes_max: u64,
    },
    /// The disk has no room for another segment.
    #[error(
        "no room on the disk for another write-ahead log segment in {dir} ({reason}); free some \
         space, and it goes on by itself"
    )]
    NoSpace {
        /// The directory of the WAL.
        dir: PathBuf,
        /// What the disk said.
        reason: Arc<str>,
    },
    /// A file of the log was removed while it is in use.
    #[error(
        "the write-ahead log segment {path} is gone; nothing is taken until checkpoints have made \
         it needless, which they do by themselves; see who removes files from the data directory"
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// A file that nothing needs any more cannot be used again.
    #[error("cannot use the write-ahead log segment {path} again: {reason}")]
    Stuck {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        reason: Arc<str>,
    },
    /// The entry can never be appended: it is larger than a segment allows.
    #[error("an entry of {} is larger than the {} that the write-ahead log takes", Size(*bytes), Size(*bytes_max))]
    TooLarge {
        /// The size of the entry's payload.
        bytes: u64,
        /// The largest payload.
        bytes_max: u64,
    },
    /// The entries do not follow the last one of the shard.
    #[error("entry {found} appended to a shard's log that goes on at {expected}")]
    OutOfSequence {
        /// The index the next entry must have.
        expected: u64,
        /// The index it had.
        found: u64,
    },
    /// The entries that were asked for are no longer there.
    #[error("entries before {first} of this shard's log were purged")]
    Purged {
        /// The first index that is left, or the next one to come.
        first: u64,
    },
    /// What is on the disk is not what was written.
    #[error("the write-ahead log segment {path} is damaged at byte {position}: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The byte at which the damaged record begins.
        position: u64,
        /// What is wrong.
        reason: Arc<str>,
    },
    /// A write or a sync failed. Final: what is on the disk is unknown, so nothing is acknowledged
    /// any more. Restarting recovers what is there.
    #[error("the write-ahead log has failed: {reason}; restart the broker once the disk is sound")]
    Failed {
        /// What was attempted, on which file, and what the disk said.
        reason: Arc<str>,
    },
    /// The WAL was shut down.
    #[error("the write-ahead log is closed")]
    Closed,
}

impl WalError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::NoSpace { .. } | Self::Gone { .. } | Self::Stuck { .. }
        )
    }

    pub(super) fn failed(attempt: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::Failed {
            reason: format!("cannot {attempt} {}: {error}", path.display()).into(),
        }
    }
}

/// Why the WAL did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The options contradict each other.
    #[error("the settings of the write-ahead log do not fit: {0}")]
    Options(String),
    /// The disk failed.
    #[error("cannot {attempt} {path} of the write-ahead log")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// A file is damaged where it had been durable.
    #[error(
        "the write-ahead log segment {path} is damaged at byte {position}: {reason}; acknowledged \
         records would be lost, so the broker does not start: restore the file; in a cluster, \
         `flumen cluster remove` this broker, empty its data directory, and let it join as a new \
         one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        position: u64,
        /// What is wrong, and how it is known.
        reason: String,
    },
    /// A file between two others, or before the first, is not there.
    #[error(
        "the write-ahead log segment {path} is missing: {reason}; restore it; in a cluster, \
         `flumen cluster remove` this broker, empty its data directory, and let it join as a new \
         one"
    )]
    Missing {
        /// The file that should be there.
        path: PathBuf,
        /// How that is known.
        reason: String,
    },
    /// The file was written by a later version.
    #[error(
        "{path} has version {found} of the write-ahead log's format, and this broker reads up to \
         {supported}: start the newer broker that wrote it"
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// A record is whole, and of a kind that only a later version knows.
    #[error(
        "the write-ahead log segment {path} has at byte {position} a record of kind {kind}, which \
         this broker does not know: it was written by a newer version; start that one"
    )]
    NewerRecord {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        position: u64,
        /// The number of its kind.
        kind: u8,
    },
}
