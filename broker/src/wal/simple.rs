//! A plain implementation: one file, one lock, every operation written and synced by its caller.
//! It holds what the face promises but the speed and the bound on the size.

use std::{collections::BTreeMap, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Done, LogPosition, OpenError, ShardLogState, SyncPolicy, Usage, WalEntry, WalError, WalOptions,
};
use crate::{
    disk::{Disk, File},
    ids::ShardId,
};

#[derive(Serialize, Deserialize)]
enum Op {
    Append(u32, Vec<(u64, u64, Bytes)>),
    Vote(u32, Bytes),
    Committed(u32, Bytes),
    Truncate(u32, Option<u64>),
    Purge(u32, u64, u64, Bytes),
}

#[derive(Default)]
struct Shard {
    purged: Option<(LogPosition, Bytes)>,
    entries: BTreeMap<u64, (u64, Bytes)>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
}

struct State {
    file: Arc<dyn File>,
    end: u64,
    shards: BTreeMap<u32, Shard>,
    closed: bool,
}

pub(super) struct Inner {
    path: PathBuf,
    options: WalOptions,
    state: Mutex<State>,
    pub(super) failed: watch::Sender<Option<WalError>>,
    pub(super) checkpoint_wanted: watch::Sender<u64>,
}

impl Shard {
    fn last(&self) -> Option<LogPosition> {
        let last = self.entries.last_key_value();
        last.map(|(index, (term, _))| LogPosition {
            term: *term,
            index: *index,
        })
        .or(self.purged.as_ref().map(|(position, _)| *position))
    }
}

impl State {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Append(shard, entries) => {
                let shard = self.shards.entry(shard).or_default();
                shard.entries.extend(
                    entries
                        .into_iter()
                        .map(|(index, term, payload)| (index, (term, payload))),
                );
            }
            Op::Vote(shard, vote) => self.shards.entry(shard).or_default().vote = Some(vote),
            Op::Committed(shard, committed) => {
                self.shards.entry(shard).or_default().committed = Some(committed);
            }
            Op::Truncate(shard, index) => {
                let shard = self.shards.entry(shard).or_default();
                shard
                    .entries
                    .retain(|at, _| index.is_some_and(|index| *at <= index));
            }
            Op::Purge(shard, term, index, log_id) => {
                let shard = self.shards.entry(shard).or_default();
                shard.entries.retain(|at, _| *at > index);
                shard.purged = Some((LogPosition { term, index }, log_id));
            }
        }
    }
}

impl Inner {
    #[expect(clippy::needless_pass_by_value)]
    pub(super) fn open(disk: Arc<dyn Disk>, options: WalOptions) -> Result<Self, OpenError> {
        options.validate()?;
        let path = options.dir.join("log");
        let io = |source| OpenError::Io {
            attempt: "open",
            path: path.clone(),
            source,
        };
        disk.create_dir_all(&options.dir).map_err(io)?;
        let file = disk
            .open(&path)
            .or_else(|_| disk.create(&path))
            .map_err(io)?;
        disk.sync_dir(&options.dir).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_onto(&mut bytes, file.len().map_err(io)? as usize, 0)
            .map_err(io)?;
        let mut state = State {
            file,
            end: 0,
            shards: BTreeMap::new(),
            closed: false,
        };
        while let Some((op, end)) = decode(&bytes, state.end as usize) {
            state.apply(op);
            state.end = end as u64;
        }
        state.file.set_len(state.end).map_err(io)?;
        Ok(Self {
            path,
            options,
            state: Mutex::new(state),
            failed: watch::Sender::new(None),
            checkpoint_wanted: watch::Sender::new(0),
        })
    }

    pub(super) fn check(&self) -> Result<(), WalError> {
        self.failed.borrow().clone().map_or(Ok(()), Err)
    }

    fn run(&self, state: &mut State, op: Op) -> Result<(), WalError> {
        self.check()?;
        if state.closed {
            return Err(WalError::Closed);
        }
        let body = postcard::to_stdvec(&op).map_err(|error| WalError::Failed {
            reason: error.to_string().into(),
        })?;
        let mut frame = (body.len() as u32).to_le_bytes().to_vec();
        frame.extend(crc_fast::crc32_iscsi(&body).to_le_bytes());
        frame.extend(body);
        let result = state.file.write_all_at(&frame, state.end).and_then(|()| {
            if self.options.sync == SyncPolicy::Always {
                state.file.sync_data()
            } else {
                Ok(())
            }
        });
        if let Err(error) = result {
            let error = WalError::failed("write", &self.path, &error);
            self.failed.send_replace(Some(error.clone()));
            return Err(error);
        }
        state.end += frame.len() as u64;
        state.apply(op);
        Ok(())
    }

    pub(super) fn shards(&self) -> Vec<ShardId> {
        self.state
            .lock()
            .shards
            .keys()
            .copied()
            .map(ShardId)
            .collect()
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            bytes: self.state.lock().end,
            bytes_max: self.options.bytes_max,
        }
    }

    pub(super) fn sync(&self) -> Result<(), WalError> {
        self.check()?;
        let state = self.state.lock();
        state
            .file
            .sync_data()
            .map_err(|error| WalError::failed("sync", &self.path, &error))
    }

    pub(super) fn shutdown(&self) -> Result<(), WalError> {
        self.sync()?;
        self.state.lock().closed = true;
        Ok(())
    }

    pub(super) fn state(&self, shard: ShardId) -> ShardLogState {
        let mut state = self.state.lock();
        let shard = state.shards.entry(shard.0).or_default();
        ShardLogState {
            purged: shard.purged.as_ref().map(|(position, _)| *position),
            purged_log_id: shard.purged.as_ref().map(|(_, log_id)| log_id.clone()),
            first: shard.entries.keys().next().copied(),
            last: shard.last(),
            vote: shard.vote.clone(),
            committed: shard.committed.clone(),
        }
    }

    pub(super) fn append(&self, shard: ShardId, entries: Vec<WalEntry>, done: Done) {
        let mut state = self.state.lock();
        let mut expected = state
            .shards
            .entry(shard.0)
            .or_default()
            .last()
            .map(|last| last.index + 1);
        for entry in &entries {
            if let Some(expected) = expected
                && expected != entry.index
            {
                drop(state);
                return done(Err(WalError::OutOfSequence {
                    expected,
                    found: entry.index,
                }));
            }
            expected = Some(entry.index + 1);
        }
        let entries = entries
            .into_iter()
            .map(|entry| (entry.index, entry.term, entry.payload.concat().into()))
            .collect();
        let result = self.run(&mut state, Op::Append(shard.0, entries));
        drop(state);
        done(result);
    }

    pub(super) fn save_vote(&self, shard: ShardId, vote: Bytes, done: Done) {
        let result = self.run(&mut self.state.lock(), Op::Vote(shard.0, vote));
        done(result);
    }

    pub(super) fn save_committed(&self, shard: ShardId, committed: Bytes) {
        drop(self.run(&mut self.state.lock(), Op::Committed(shard.0, committed)));
    }

    pub(super) fn truncate_after(&self, shard: ShardId, index: Option<u64>, done: Done) {
        let result = self.run(&mut self.state.lock(), Op::Truncate(shard.0, index));
        done(result);
    }

    pub(super) fn purge(&self, shard: ShardId, up_to: LogPosition, log_id: Bytes) {
        drop(self.run(
            &mut self.state.lock(),
            Op::Purge(shard.0, up_to.term, up_to.index, log_id),
        ));
    }

    pub(super) fn read(
        &self,
        shard: ShardId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<WalEntry>, WalError> {
        let mut state = self.state.lock();
        let shard = state.shards.entry(shard.0).or_default();
        if let Some((purged, _)) = &shard.purged
            && range.start <= purged.index
        {
            return Err(WalError::Purged {
                first: purged.index + 1,
            });
        }
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (index, (term, payload)) in shard.entries.range(range) {
            bytes += payload.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(WalEntry {
                term: *term,
                index: *index,
                payload: vec![payload.clone()],
            });
        }
        Ok(entries)
    }
}

fn decode(bytes: &[u8], start: usize) -> Option<(Op, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let end = start + 8 + word(start)? as usize;
    let body = bytes.get(start + 8..end)?;
    if crc_fast::crc32_iscsi(body) != word(start + 4)? {
        return None;
    }
    Some((postcard::from_bytes(body).ok()?, end))
}
