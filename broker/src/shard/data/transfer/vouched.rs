//! What another replica vouches for: it has applied an entry that is in the log here, so all up to
//! that entry is committed.
//!
//! A replica hears from a leader what of its log is committed. But a shard may have no leader before
//! some records have travelled: one of the voters has damaged files and decides nothing until it has
//! what it misses, and the one that is to send it has started again, knows its last checkpoint only
//! and says that it is itself behind. They would wait for each other for ever. Now whoever asks for
//! records names the entry up to which it had applied its log. Where that very entry is in the log
//! here, so is all that was applied before it (log matching: Raft's dissertation, Ongaro 2014, section
//! 3.5). An entry that is not says nothing.

use std::io;

use parking_lot::Mutex;

use crate::shard::{log_storage::LogStorage, types::LogId};

/// The last entry of a replica's log that another one vouches for.
pub(super) struct Vouched {
    log: LogStorage,
    entry: Mutex<Option<LogId>>,
}

impl Vouched {
    /// Nothing yet.
    pub(super) fn new(log: LogStorage) -> Self {
        let entry = Mutex::default();
        Self { log, entry }
    }

    /// Notes an entry that another replica has applied, if it is in the log here.
    ///
    /// # Errors
    /// When the log cannot be read there.
    pub(super) async fn note(&self, applied: LogId) -> io::Result<()> {
        if self.log.has(applied).await? {
            let mut entry = self.entry.lock();
            *entry = entry.max(Some(applied));
        }
        Ok(())
    }

    /// The entry, if it lies behind what this replica has applied itself.
    pub(super) fn after(&self, applied: Option<u64>) -> Option<LogId> {
        let entry = *self.entry.lock();
        entry.filter(|entry| Some(entry.index) > applied)
    }

    /// The entry, which is forgotten: whoever still asks will vouch for it again.
    pub(super) fn take(&self) -> Option<LogId> {
        self.entry.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flumen_protocol::ids::ShardId;

    use super::*;
    use crate::{
        disk::SimulatedDisk,
        shard::{
            command::{self, log_id},
            failure::Failure,
            types::Payload,
        },
        wal::{Wal, WalEntry, WalOptions},
    };

    /// Of a log with entries of the first term up to 5.
    fn vouched() -> Vouched {
        let options = WalOptions {
            segment_bytes: 1 << 20,
            bytes_max: 8 << 20,
            ..WalOptions::new("/wal")
        };
        let wal = Wal::open(Arc::new(SimulatedDisk::new()), options, Arc::new(())).unwrap();
        let log = wal.shard(ShardId(1));
        let entries = (0..=5).map(|index| WalEntry {
            term: 1,
            index,
            payload: command::encode(&Payload::Blank).unwrap(),
        });
        log.append(entries.collect(), |appended| appended.unwrap());
        Vouched::new(LogStorage::open(log, Failure::new()).unwrap())
    }

    #[tokio::test]
    async fn the_last_entry_of_the_log_that_is_vouched_for_counts_once() {
        let vouched = vouched();
        assert_eq!(vouched.after(None), None);
        for index in [3, 4, 2] {
            vouched.note(log_id(1, index)).await.unwrap();
        }
        let last = Some(log_id(1, 4));
        assert_eq!(vouched.after(None), last);
        assert_eq!(vouched.after(Some(3)), last);
        assert_eq!(vouched.after(Some(4)), None);
        assert_eq!(vouched.take(), last);
        assert_eq!(vouched.after(None), None);
    }

    #[tokio::test]
    async fn entries_that_are_not_in_the_log_say_nothing() {
        let vouched = vouched();
        for entry in [
            log_id(2, 4),
            log_id(0, 4),
            log_id(1, 6),
            log_id(1, u64::MAX),
        ] {
            vouched.note(entry).await.unwrap();
            assert_eq!(vouched.after(None), None, "{entry}");
        }
        // Nor do they stand before one that is.
        vouched.note(log_id(1, 4)).await.unwrap();
        vouched.note(log_id(9, 9)).await.unwrap();
        assert_eq!(vouched.after(None), Some(log_id(1, 4)));
    }
}
