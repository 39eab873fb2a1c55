//! The write-ahead log: one per broker, shared by all its Raft groups.
//!
//! Every shard appends its Raft log, its votes and its purge points here, and one sequence of
//! segment files takes them all, so that what waits at the same time is written with one call and
//! made durable with one `fdatasync`, whichever shards it belongs to.
//!
//! ```
//! # use std::sync::{Arc, mpsc};
//! # use bytes::Bytes;
//! # use flumen_broker::{disk::SimulatedDisk, ids::ShardId};
//! # use flumen_broker::wal::{Wal, WalEntry, WalOptions};
//! let disk = Arc::new(SimulatedDisk::new());
//! let options = WalOptions {
//!     segment_bytes: 1 << 20,
//!     bytes_max: 8 << 20,
//!     ..WalOptions::new("/wal")
//! };
//! let wal = Wal::open(disk, options, Arc::new(())).unwrap();
//! let log = wal.shard(ShardId(1));
//! let entry = WalEntry {
//!     term: 1,
//!     index: 0,
//!     payload: vec![Bytes::from_static(b"hello "), Bytes::from_static(b"world")],
//! };
//! let (tx, rx) = mpsc::channel();
//! log.append(vec![entry], move |result| tx.send(result).unwrap());
//! rx.recv().unwrap().unwrap(); // Durable now.
//! assert_eq!(log.read(0..1, usize::MAX).unwrap()[0].payload, ["hello world"]);
//! ```
//!
//! What holds:
//! - the operations of one shard reach the disk in the order of the calls;
//! - `done` is called exactly once for each call that takes one, on the writer's thread or, for a
//!   small append under [`SyncPolicy::Every`], on the caller's before the call returns. It must be
//!   cheap, must not block and must not take a lock that the caller holds: all appends of the
//!   broker wait while it runs;
//! - after a failed write or sync nothing is acknowledged any more, by anyone ([`Wal::failed`]);
//! - the files stay below [`WalOptions::bytes_max`] as long as what is appended was reserved.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{disk::Disk, ids::ShardId};

mod error;
mod options;
mod simple;

pub use error::{OpenError, WalError};
pub use options::{
    ParseSyncPolicyError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN, SYNC_INTERVAL_MAX,
    SyncPolicy, WalOptions,
};

/// What is called when an operation is durable (as the sync policy says) or has failed.
pub(crate) type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// Where an entry stands in the log of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The Raft term of the entry.
    pub term: u64,
    /// The Raft index of the entry.
    pub index: u64,
}

/// One entry of a shard's Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalEntry {
    /// The Raft term.
    pub term: u64,
    /// The Raft index; each entry's is one more than that of the entry before.
    pub index: u64,
    /// Opaque. The parts are written one after the other without being joined in memory; read
    /// back, they are one part.
    pub payload: Vec<Bytes>,
}

/// What the WAL knows of a shard's log, everything that was called for included, durable or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardLogState {
    /// All entries up to here were purged.
    pub purged: Option<LogPosition>,
    /// What [`ShardLog::purge`] was told to remember along with the position.
    pub purged_log_id: Option<Bytes>,
    /// The index of the first entry that is left; `None` if there is none.
    pub first: Option<u64>,
    /// The last entry; where none is left, the last purged one.
    pub last: Option<LogPosition>,
    /// The last saved vote.
    pub vote: Option<Bytes>,
    /// The last saved commit point; after a crash, possibly an older one.
    pub committed: Option<Bytes>,
}

/// How much of the WAL is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes between the oldest entry that is needed and the newest.
    pub bytes: u64,
    /// The most that may be in use.
    pub bytes_max: u64,
}

/// Watches what the WAL does, for metrics. Called on the writing threads: must be cheap.
pub trait WalObserver: Send + Sync {
    /// `records` were written with one call, `bytes` in all.
    fn on_write(&self, records: usize, bytes: u64) {
        let _ = (records, bytes);
    }

    /// A sync took `seconds`.
    fn on_sync(&self, seconds: f64) {
        let _ = seconds;
    }
}

impl WalObserver for () {}

/// The write-ahead log of a broker. Clones are handles to the same one.
#[derive(Clone)]
pub struct Wal(Arc<simple::Inner>);

impl Wal {
    /// Opens the WAL in `options.dir`, or makes an empty one, and recovers what is in it.
    ///
    /// # Errors
    /// [`OpenError`]: damaged files are never repaired silently; only an unfinished tail is cut.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        observer: Arc<dyn WalObserver>,
    ) -> Result<Self, OpenError> {
        let _ = observer;
        Ok(Self(Arc::new(simple::Inner::open(disk, options)?)))
    }

    /// The log of one shard, which is empty if it was never written to.
    pub fn shard(&self, shard: ShardId) -> ShardLog {
        ShardLog {
            wal: self.clone(),
            shard,
        }
    }

    /// The shards of which the WAL knows anything, in order.
    pub fn shards(&self) -> Vec<ShardId> {
        self.0.shards()
    }

    /// Sets room aside for an entry of `bytes` payload, before it is proposed. Keep the result
    /// until the entry was appended: an append whose bytes are reserved never fails, nor waits,
    /// for lack of space.
    ///
    /// # Errors
    /// [`WalError::Full`] and [`WalError::NoSpace`], both worth another try later.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, WalError> {
        self.0.check()?;
        let _ = bytes;
        Ok(Reservation { _private: () })
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        self.0.usage()
    }

    /// Changes each time the WAL has grown to a size at which shards should checkpoint and purge:
    /// those that [`Wal::shards_to_checkpoint`] names.
    pub fn checkpoint_wanted(&self) -> watch::Receiver<u64> {
        self.0.checkpoint_wanted.subscribe()
    }

    /// The shards whose oldest entries keep the older half of the segments from being recycled.
    pub fn shards_to_checkpoint(&self) -> Vec<ShardId> {
        self.shards()
    }

    /// Becomes the error when the WAL has failed for good: the broker should then stop.
    pub fn failed(&self) -> watch::Receiver<Option<WalError>> {
        self.0.failed.subscribe()
    }

    /// Makes all that was called for before durable, whatever the sync policy. Blocks.
    ///
    /// # Errors
    /// [`WalError::Failed`] or [`WalError::Closed`].
    pub fn sync(&self) -> Result<(), WalError> {
        self.0.sync()
    }

    /// Writes and syncs what is left, and ends the threads. Later calls fail with
    /// [`WalError::Closed`]. Dropping the last handle does the same.
    ///
    /// # Errors
    /// [`WalError::Failed`] if the last of it could not be made durable.
    pub fn shutdown(&self) -> Result<(), WalError> {
        self.0.shutdown()
    }
}

/// Room set aside by [`Wal::reserve`]; given back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the room back"]
pub struct Reservation {
    _private: (),
}

/// The log of one shard. Clones are handles to the same one.
#[derive(Clone)]
pub struct ShardLog {
    wal: Wal,
    shard: ShardId,
}

impl ShardLog {
    /// Whose log it is.
    pub fn id(&self) -> ShardId {
        self.shard
    }

    /// What is in it, including all that was called for and is not yet written.
    pub fn state(&self) -> ShardLogState {
        self.wal.0.state(self.shard)
    }

    /// Appends entries. Never waits for the disk to sync.
    ///
    /// `done` gets [`WalError::OutOfSequence`] if the entries do not follow the last one.
    pub fn append(
        &self,
        entries: Vec<WalEntry>,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) {
        self.wal.0.append(self.shard, entries, Box::new(done));
    }

    /// Saves a vote. Always synced before `done`, under every policy: a vote that is forgotten
    /// could be given twice.
    pub fn save_vote(&self, vote: Bytes, done: impl FnOnce(Result<(), WalError>) + Send + 'static) {
        self.wal.0.save_vote(self.shard, vote, Box::new(done));
    }

    /// Remembers how far the log is committed. Costs no write of its own: it is written along
    /// with other records of the shard, now and then, and at shutdown.
    pub fn save_committed(&self, committed: Bytes) {
        self.wal.0.save_committed(self.shard, committed);
    }

    /// Removes all entries after `index`; all there are, if `None`.
    pub fn truncate_after(
        &self,
        index: Option<u64>,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) {
        self.wal.0.truncate_after(self.shard, index, Box::new(done));
    }

    /// Removes all entries up to and including `up_to`, and remembers `log_id`. Past the last
    /// entry, it empties the log, which then goes on after `up_to` (a snapshot was installed).
    pub fn purge(&self, up_to: LogPosition, log_id: Bytes) {
        self.wal.0.purge(self.shard, up_to, log_id);
    }

    /// Reads entries of `range`, from its start, until their payloads pass `bytes_max` (but at
    /// least one), from the disk. Blocks, and waits for what was called for before to be written.
    /// What is past the last entry is not an error, just not there.
    ///
    /// # Errors
    /// [`WalError::Purged`] if the start of the range is gone, [`WalError::Damaged`] if the disk
    /// gives back something else than was written, [`WalError::Failed`] if it gives nothing.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<WalEntry>, WalError> {
        self.wal.0.read(self.shard, range, bytes_max)
    }
}
