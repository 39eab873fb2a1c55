//! The log of one shard, as the shard sees it.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use flumen_protocol::ids::ShardId;
use serde::{Deserialize, Serialize};

use super::{
    Done, Handle, SyncPolicy, WalError, reader,
    record::record_bytes,
    shard::{Extent, Planned, Shard},
    writer::Operation,
};

/// Where an entry stands in the log of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
}

/// The log of one shard. Clones are handles to the same one.
#[derive(Clone)]
pub struct ShardLog {
    shard: Arc<Shard>,
    handle: Arc<Handle>,
}

impl ShardLog {
    pub(super) fn new(shard: Arc<Shard>, handle: Arc<Handle>) -> Self {
        Self { shard, handle }
    }

    /// Whose log it is.
    pub fn id(&self) -> ShardId {
        self.shard.id
    }

    /// What is in it, including all that was called for and is not yet written.
    pub fn state(&self) -> ShardLogState {
        self.shard.state()
    }

    /// Whether all that is appended is synced before that is done.
    pub fn syncs_always(&self) -> bool {
        self.handle.engine.options.sync == SyncPolicy::Always
    }

    /// Appends entries. Never waits for the disk to sync.
    ///
    /// `done` gets [`WalError::OutOfSequence`] if the entries do not follow the last one, and
    /// [`WalError::TooLarge`] if one has more than
    /// [`WalOptions::entry_bytes_max`](super::WalOptions::entry_bytes_max); the log is
    /// then as before.
    pub fn append(
        &self,
        entries: Vec<WalEntry>,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) {
        let bytes_max = self.handle.engine.options.entry_bytes_max();
        let mut bytes = 0;
        let mut too_large = None;
        for entry in &entries {
            let payload = entry.payload.iter().map(Bytes::len).sum::<usize>() as u64;
            bytes += record_bytes(payload);
            if payload > bytes_max {
                too_large = Some(payload);
            }
        }
        if let Some(bytes) = too_large {
            return done(Err(WalError::TooLarge { bytes, bytes_max }));
        }
        let numbers: Vec<_> = entries
            .iter()
            .map(|entry| (entry.term, entry.index))
            .collect();
        self.submit(
            Operation::Append(entries),
            bytes,
            Some(Box::new(done)),
            move |planned| {
                let mut next = planned.extent.next();
                for (_, found) in &numbers {
                    if let Some(expected) = next.filter(|next| next != found) {
                        return Err(WalError::OutOfSequence {
                            expected,
                            found: *found,
                        });
                    }
                    next = Some(found + 1);
                }
                for (term, index) in numbers {
                    planned.extent.append(term, index);
                }
                Ok(())
            },
        );
    }

    /// Saves a vote. Always synced before `done`, under every policy: a vote that is forgotten
    /// could be given twice.
    pub fn save_vote(&self, vote: Bytes, done: impl FnOnce(Result<(), WalError>) + Send + 'static) {
        let bytes = record_bytes(vote.len() as u64);
        let operation = Operation::Vote(vote.clone());
        self.submit(operation, bytes, Some(Box::new(done)), |planned| {
            planned.vote = Some(vote);
            Ok(())
        });
    }

    /// Removes all entries after `index`; all there are, if `None`.
    pub fn truncate_after(
        &self,
        index: Option<u64>,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) {
        let operation = Operation::Truncate(index);
        self.submit(
            operation,
            record_bytes(0),
            Some(Box::new(done)),
            |planned| {
                planned.extent.truncate(index);
                Ok(())
            },
        );
    }

    /// Removes all entries up to and including `up_to`, and remembers `log_id`. Past the last
    /// entry, it empties the log, which then goes on after `up_to` (a snapshot was installed).
    pub fn purge(&self, up_to: LogPosition, log_id: Bytes) {
        let bytes = record_bytes(log_id.len() as u64);
        let operation = Operation::Purge(up_to, log_id.clone());
        self.submit(operation, bytes, None, |planned| {
            if planned.extent.purge(up_to) {
                planned.purged_log_id = Some(log_id);
            }
            Ok(())
        });
    }

    /// Makes the log as new, for a replica that is given up here. The vote stays: should the
    /// shard come back, what was promised still holds.
    pub fn reset(&self, done: impl FnOnce(Result<(), WalError>) + Send + 'static) {
        let done: Option<Done> = Some(Box::new(done));
        self.submit(Operation::Reset, record_bytes(0), done, |planned| {
            planned.extent = Extent::default();
            planned.purged_log_id = None;
            Ok(())
        });
    }

    fn submit(
        &self,
        operation: Operation,
        bytes: u64,
        done: Option<Done>,
        plan: impl FnOnce(&mut Planned) -> Result<(), WalError>,
    ) {
        let engine = &self.handle.engine;
        engine.submit(&self.shard, operation, bytes, done, plan);
    }

    /// Reads entries of `range`, from its start, until their payloads pass `bytes_max` (but at
    /// least one), from the disk. Blocks, and waits for what was called for before to be written.
    /// What is past the last entry is not an error, just not there.
    ///
    /// # Errors
    /// [`WalError::Purged`] if the start of the range is gone, [`WalError::Damaged`] if the disk
    /// gives back something else than was written, [`WalError::Failed`] if it gives nothing.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<WalEntry>, WalError> {
        reader::read(&self.handle.engine, &self.shard, range, bytes_max)
    }
}
