//! A shard's Raft log, kept in the broker's write-ahead log.
//!
//! Recent entries stay in memory, decoded: openraft reads every entry back to apply it, and
//! that must not touch the disk. Older ones are read from the WAL on a blocking thread.

mod cache;

use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, future::Either, stream};
use openraft::{
    OptionalSend,
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::cache::EntryCache;
use super::{
    command,
    failure::Failure,
    types::{Entry, LogId, Payload, TypeConfig, Vote},
};
use crate::{
    mutation::{Mutation, is_planted},
    wal::{LogPosition, ShardLog, WalEntry, WalError},
};

/// Bytes of entries that one request to a follower carries, grown to one entry.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes that one read from the WAL fetches at most, grown to one entry.
const READ_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The log of one Raft group. Cheap to clone: all clones are the same log.
#[derive(Clone)]
pub(crate) struct LogStorage {
    shared: Arc<Shared>,
}

struct Shared {
    wal: ShardLog,
    failure: Failure,
    state: Mutex<State>,
}

struct State {
    cache: EntryCache,
    /// The first index in the log; meaningless while the log is empty.
    first: u64,
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl LogStorage {
    /// Takes over what the WAL recovered.
    pub(crate) fn open(wal: ShardLog, failure: Failure) -> Result<Self, postcard::Error> {
        let recovered = wal.state();
        let log_id = |position: LogPosition| command::log_id(position.term, position.index);
        let purged = recovered.purged.map(log_id);
        let vote = recovered
            .vote
            .map(|bytes| postcard::from_bytes(&bytes))
            .transpose()?;
        let state = State {
            cache: EntryCache::default(),
            first: recovered.first.unwrap_or_default(),
            purged,
            last: recovered.last.map(log_id).or(purged),
            vote,
            committed: None,
        };
        let shared = Shared {
            wal,
            failure,
            state: Mutex::new(state),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Whether nothing was ever written: neither entries nor a vote.
    pub(crate) fn is_pristine(&self) -> bool {
        let state = self.shared.state.lock();
        state.last.is_none() && state.vote.is_none()
    }

    /// Up to where entries were removed.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.state.lock().purged
    }

    /// Whether the log has this very entry, and so all that the log had that it comes from before it.
    pub(crate) async fn has(&self, log_id: LogId) -> io::Result<bool> {
        let range = self.clamp(log_id.index..log_id.index.saturating_add(1));
        let entries = self.read_some(range).await?;
        Ok(entries.first().is_some_and(|entry| entry.log_id == log_id))
    }

    /// Entries up to `index` are applied and need not be kept in memory for that any more.
    pub(crate) fn applied(&self, index: u64) {
        self.shared.state.lock().cache.applied(index);
    }

    /// What the log contains of `range`.
    fn clamp(&self, range: impl RangeBounds<u64>) -> Range<u64> {
        let state = self.shared.state.lock();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let purged_end = state.purged.map_or(0, |id| id.index + 1);
        let last_end = state.last.map_or(0, |id| id.index + 1);
        let start = start.max(state.first).max(purged_end);
        start..end.min(last_end).max(start)
    }

    /// The entries from the start of `range` that one read yields; all of them if they are in
    /// memory. Never empty unless the range is.
    async fn read_some(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let cached = {
            let state = self.shared.state.lock();
            let cached = state.cache.range();
            if cached.contains(&range.start) && range.end <= cached.end {
                return Ok(state.cache.get(range).cloned().collect());
            }
            cached
        };
        let end = if range.start < cached.start {
            range.end.min(cached.start)
        } else {
            range.end
        };
        let wanted = range.start..end;
        let wal = self.shared.wal.clone();
        let read = crate::executor::spawn_blocking(move || read_wal(&wal, wanted));
        read.await.map_err(io::Error::other)?
    }

    fn fatal(&self, attempt: &str, error: impl std::fmt::Display) -> io::Error {
        let text = format!("{attempt}: {error}");
        self.shared.failure.report(text.clone());
        io::Error::other(text)
    }

    /// Appends entries that are synced whatever the policy: who forgets that others vote, too, may
    /// take itself for a majority. A vote, which is always synced, follows them; it is the same.
    fn append_synced(
        &self,
        records: Vec<WalEntry>,
        vote: &Vote,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) -> io::Result<()> {
        let vote = postcard::to_allocvec(vote).map_err(io::Error::other)?;
        let appended = Arc::new(Mutex::new(Ok(())));
        let outcome = Arc::clone(&appended);
        self.shared
            .wal
            .append(records, move |result| *appended.lock() = result);
        self.shared.wal.save_vote(vote.into(), move |saved| {
            let appended = std::mem::replace(&mut *outcome.lock(), Ok(()));
            done(appended.and(saved));
        });
        Ok(())
    }

    /// Waits until the WAL has done what `start` asks of it.
    async fn wait_for(
        &self,
        attempt: &str,
        start: impl FnOnce(&ShardLog, Box<dyn FnOnce(Result<(), WalError>) + Send>),
    ) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        start(
            &self.shared.wal,
            Box::new(move |result| {
                // The waiter is gone when the shard is stopped; nobody is left to be told.
                let _ = tx.send(result);
            }),
        );
        match rx.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.fatal(attempt, error)),
            Err(_) => Err(self.fatal(attempt, "the write-ahead log has stopped")),
        }
    }
}

fn read_wal(wal: &ShardLog, range: Range<u64>) -> io::Result<Vec<Entry>> {
    let start = range.start;
    let entries = wal.read(range, READ_BYTES_MAX).map_err(io::Error::other)?;
    if entries.first().map(|entry| entry.index) != Some(start) {
        let found = entries.first().map(|entry| entry.index);
        return Err(io::Error::other(format!(
            "write-ahead log was read from entry {start} but gave {found:?}"
        )));
    }
    entries
        .into_iter()
        .map(|entry| {
            let bytes = join(entry.payload);
            command::decode(entry.term, entry.index, bytes).map_err(io::Error::other)
        })
        .collect()
}

/// Entries come back from the WAL in one part; more than one is unusual.
fn join(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 {
        parts.swap_remove(0)
    } else {
        parts.concat().into()
    }
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let Range { mut start, end } = self.clamp(range);
        let mut entries = Vec::new();
        while start < end {
            let more = self.read_some(start..end).await?;
            start += more.len() as u64;
            if entries.is_empty() {
                entries = more;
            } else {
                entries.extend(more);
            }
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let mut entries = self.read_some(self.clamp(start..end)).await?;
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|entry| {
            bytes += command::entry_len(entry);
            bytes <= REQUEST_BYTES_MAX
        });
        // At least one, however large it is.
        let count = fitting.count().max(1);
        entries.truncate(count);
        Ok(entries)
    }

    async fn entries_stream<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend {
        let range = self.clamp(range);
        let first = match self.read_some(range.clone()).await {
            Ok(entries) => entries,
            Err(error) => return Either::Left(stream::iter(vec![Err(error)])),
        };
        if first.len() as u64 == range.end - range.start {
            let entries: Vec<_> = first.into_iter().map(Ok).collect();
            return Either::Left(stream::iter(entries));
        }
        // More than one read brings: never the whole log in memory.
        let rest = range.start + first.len() as u64..range.end;
        let chunks = stream::unfold(
            (self.clone(), first.into_iter(), rest),
            |(storage, mut chunk, rest)| async move {
                if let Some(entry) = chunk.next() {
                    return Some((Ok(entry), (storage, chunk, rest)));
                }
                if rest.is_empty() {
                    return None;
                }
                match storage.read_some(rest.clone()).await {
                    Ok(entries) => {
                        let rest = rest.start + entries.len() as u64..rest.end;
                        let mut chunk = entries.into_iter();
                        let entry = chunk.next()?;
                        Some((Ok(entry), (storage, chunk, rest)))
                    }
                    Err(error) => {
                        let end = rest.end;
                        Some((Err(error), (storage, chunk, end..end)))
                    }
                }
            },
        );
        Either::Right(chunks)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.shared.state.lock();
        Ok(LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if is_planted(Mutation::VoteNotPersisted) {
            self.shared.state.lock().vote = Some(*vote);
            return Ok(());
        }
        let bytes = postcard::to_allocvec(vote).map_err(io::Error::other)?;
        self.wait_for("saving a vote", |wal, done| {
            wal.save_vote(bytes.into(), done);
        })
        .await?;
        self.shared.state.lock().vote = Some(*vote);
        Ok(())
    }

    /// Kept in memory only. A shard that starts again applies what its leader commits, and is
    /// not ready before it has applied all that its own log held.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.state.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.state.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::with_capacity(1);
        let mut changes_members = false;
        let vote;
        {
            let mut state = self.shared.state.lock();
            vote = state.vote;
            for entry in entries {
                changes_members |= matches!(entry.payload, Payload::Membership(_));
                let payload = command::encode(&entry.payload).map_err(io::Error::other)?;
                let bytes = payload.iter().map(Bytes::len).sum();
                records.push(WalEntry {
                    term: entry.log_id.leader_id.term,
                    index: entry.index(),
                    payload,
                });
                if state.last.is_none() {
                    state.first = entry.index();
                }
                state.last = Some(entry.log_id);
                state.cache.push(entry, bytes);
            }
        }
        let failure = self.shared.failure.clone();
        let done = move |result: Result<(), WalError>| {
            flushed.io_completed(result.map_err(|error| {
                failure.report(format!("appending to the write-ahead log: {error}"));
                io::Error::other(error)
            }));
        };
        match vote {
            Some(vote) if changes_members && !self.shared.wal.syncs_always() => {
                self.append_synced(records, &vote, done)?;
            }
            _ => self.shared.wal.append(records, done),
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        {
            let mut state = self.shared.state.lock();
            state
                .cache
                .truncate_from(last.map_or(0, |log_id| log_id.index + 1));
            state.last = state.last.min(last).max(state.purged);
        }
        self.wait_for("truncating the Raft log", |wal, done| {
            wal.truncate_after(last.map(|log_id| log_id.index), done);
        })
        .await
    }

    async fn purge(&mut self, up_to: LogId) -> Result<(), io::Error> {
        {
            let mut state = self.shared.state.lock();
            state.cache.purge_to(up_to.index + 1);
            state.purged = state.purged.max(Some(up_to));
            state.last = state.last.max(Some(up_to));
        }
        let position = LogPosition {
            term: up_to.leader_id.term,
            index: up_to.index,
        };
        self.shared.wal.purge(position, Bytes::new());
        Ok(())
    }
}
