//! The write-ahead log: one per broker, shared by all its Raft groups.
//!
//! Every shard appends its Raft log, its votes and its purge points here, and one sequence of
//! segment files takes them all, so that what waits at the same time is written with one call and
//! made durable with one `fdatasync`, whichever shards it belongs to.
//!
//! ```
//! # use std::sync::{Arc, mpsc};
//! # use bytes::Bytes;
//! # use flumen_broker::disk::SimulatedDisk;
//! # use flumen_broker::wal::{Wal, WalEntry, WalOptions};
//! # use flumen_protocol::ids::ShardId;
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

use std::{fmt, path::Path, sync::Arc};

use flumen_protocol::ids::ShardId;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{engine::Engine, space::Claim};
use crate::{disk::Disk, executor::Running};

mod engine;
mod error;
mod moving;
mod options;
mod presence;
mod queue;
mod reader;
mod record;
mod recovery;
mod scan;
mod segment;
mod shard;
mod shard_log;
#[cfg(feature = "simulation")]
mod simulation;
mod space;
mod writer;

pub use error::{OpenError, WalError};
pub use options::{
    ParseSyncPolicyError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN, SYNC_INTERVAL_MAX,
    SyncPolicy, WalOptions,
};
pub use record::decode_record_for_fuzzing;
pub use shard_log::{LogPosition, ShardLog, ShardLogState, WalEntry};

/// The largest payload of an entry that [`Wal::reserve_for_command`] favours.
pub const COMMAND_BYTES_MAX: u64 = 16 * 1024;

/// What is called when an operation is durable (as the sync policy says) or has failed.
pub(crate) type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

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
pub struct Wal(Arc<Handle>);

/// What the handles share. Dropping it ends the threads.
struct Handle {
    engine: Arc<Engine>,
    threads: Mutex<Vec<Running>>,
}

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
        let (engine, threads) = Engine::open(disk, options, observer)?;
        Ok(Self(Arc::new(Handle {
            engine,
            threads: Mutex::new(threads),
        })))
    }

    /// Whether there is a WAL in `dir`: whether opening it would find one, or make one.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, OpenError> {
        recovery::has_segments(disk, dir)
    }

    /// The log of one shard, which is empty if it was never written to.
    pub fn shard(&self, shard: ShardId) -> ShardLog {
        ShardLog::new(self.0.engine.shard(shard), Arc::clone(&self.0))
    }

    /// The shards of which the WAL knows anything, in order.
    pub fn shards(&self) -> Vec<ShardId> {
        let shards = self.0.engine.shards.read();
        let known = shards.values().filter(|shard| !shard.is_empty());
        known.map(|shard| shard.id).collect()
    }

    /// Sets room aside for an entry of `bytes` payload, before it is proposed. Keep the result
    /// until the entry was appended: an append whose bytes are reserved never fails, nor waits,
    /// for lack of space. Now and then it allocates a file, which takes about a millisecond.
    ///
    /// # Errors
    /// [`WalError::Full`] and [`WalError::NoSpace`], both worth another try later;
    /// [`WalError::TooLarge`], which is not.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, WalError> {
        self.0.set_aside(&[bytes], Claim::New)
    }

    /// The same for an entry of at most [`COMMAND_BYTES_MAX`] that may be what makes room, such as
    /// the end of a topic: it gets some when others get none.
    ///
    /// # Errors
    /// As [`Wal::reserve`].
    pub fn reserve_for_command(&self, bytes: u64) -> Result<Reservation, WalError> {
        let small = bytes <= COMMAND_BYTES_MAX;
        let claim = if small { Claim::Command } else { Claim::New };
        self.0.set_aside(&[bytes], claim)
    }

    /// The same for entries that the leader of a shard on another broker sends, with the bytes of
    /// each: beyond [`WalOptions::bytes_max`] if need be, since what was taken in there has to
    /// come here.
    ///
    /// # Errors
    /// [`WalError::NoSpace`], worth another try later, and [`WalError::TooLarge`].
    pub fn reserve_decided(&self, payloads: &[u64]) -> Result<Reservation, WalError> {
        self.0.set_aside(payloads, Claim::Decided)
    }

    /// What keeps it from making room, or what is gone of it, if anything; it tries again every
    /// second.
    pub fn trouble(&self) -> Option<WalError> {
        self.0.engine.space.trouble()
    }

    /// Whether it has reached its largest size, so that the last that was new was refused, and
    /// no checkpoint has made room since.
    pub fn is_full(&self) -> bool {
        self.0.engine.space.is_full()
    }

    /// Looks whether the files of the log are still there. If not, it goes on in another file, and
    /// nothing is reserved any more for what is new; true until checkpoints and purges have made
    /// needless what is gone. Blocks.
    ///
    /// # Errors
    /// [`WalError::Failed`] if it cannot go on in another file.
    pub fn look_for_files(&self) -> Result<bool, WalError> {
        self.0.engine.look_for_files()
    }

    /// The largest payload of an entry, in bytes.
    pub fn entry_bytes_max(&self) -> u64 {
        self.0.engine.options.entry_bytes_max()
    }

    /// Whether the loss of power may take back what was said to be written: under every policy but
    /// [`SyncPolicy::Always`].
    pub fn may_forget(&self) -> bool {
        self.0.engine.options.sync != SyncPolicy::Always
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        self.0.engine.usage()
    }

    /// Changes each time the WAL has grown to a size at which shards should checkpoint and purge:
    /// those that [`Wal::shards_to_checkpoint`] names.
    pub fn checkpoint_wanted(&self) -> watch::Receiver<u64> {
        self.0.engine.checkpoint_wanted.subscribe()
    }

    /// The shards whose entries keep the older half of the segments from being recycled.
    pub fn shards_to_checkpoint(&self) -> Vec<ShardId> {
        self.0.engine.shards_to_checkpoint()
    }

    /// Writes those entries of shards again that keep the older half of the segments from being
    /// recycled, so that these can be. For shards that take no checkpoints; does nothing while they
    /// have more than a quarter of what the WAL may take. Blocks.
    ///
    /// # Errors
    /// [`WalError::NoSpace`], worth another try later; else as a read and a write of them.
    pub fn move_on(&self, shards: &[ShardId]) -> Result<(), WalError> {
        self.0.engine.move_on(shards)
    }

    /// Becomes the error when the WAL has failed for good: the broker should then stop.
    pub fn failed(&self) -> watch::Receiver<Option<WalError>> {
        self.0.engine.failed.subscribe()
    }

    /// Makes all that was called for before durable, whatever the sync policy. Blocks.
    ///
    /// # Errors
    /// [`WalError::Failed`] or [`WalError::Closed`].
    pub fn sync(&self) -> Result<(), WalError> {
        self.0.engine.sync()
    }

    /// Writes and syncs what is left, and ends the threads. Later calls fail with
    /// [`WalError::Closed`]. Dropping the last handle does the same. Blocks.
    ///
    /// # Errors
    /// [`WalError::Failed`] if the last of it could not be made durable.
    pub fn shutdown(&self) -> Result<(), WalError> {
        self.0.shutdown()
    }
}

impl Handle {
    fn set_aside(&self, payloads: &[u64], claim: Claim) -> Result<Reservation, WalError> {
        let cost = self.engine.reserve(payloads, claim)?;
        Ok(Reservation {
            engine: Arc::clone(&self.engine),
            cost,
        })
    }

    fn shutdown(&self) -> Result<(), WalError> {
        self.engine.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        let mut threads = threads.into_iter();
        // The writer's is the first. A callback that drops the last handle runs on it.
        threads.next().into_iter().for_each(Running::join);
        #[cfg(feature = "simulation")]
        if crate::executor::simulation::is_on() {
            simulation::finish(&self.engine);
        }
        let result = self.engine.sync_written();
        self.engine.stop();
        threads.for_each(Running::join);
        result
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.threads.lock().is_empty() {
            // A failure was logged, and reached all who waited.
            drop(self.shutdown());
        }
    }
}

/// Room set aside by [`Wal::reserve`]; given back when dropped.
#[must_use = "dropping it gives the room back"]
pub struct Reservation {
    engine: Arc<Engine>,
    cost: u64,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reservation({} bytes)", self.cost)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.engine.space.give_back(self.cost);
    }
}

#[cfg(test)]
mod tests;
