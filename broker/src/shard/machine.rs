//! The state machine of a shard, as openraft drives it and as a kind of shard implements it.

#[cfg(test)]
mod tests;
mod work;

use std::{io, sync::Arc};

use bytes::Bytes;
use flumen_protocol::ids::{BrokerId, ShardId};
use futures_util::{Stream, StreamExt, future::BoxFuture};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    entry::RaftEntry,
    storage::{EntryResponder, RaftLogReader, RaftStateMachine},
};
use serde::{Deserialize, Serialize};

pub(super) use self::work::Work;
use super::{
    failure::Failure,
    log_storage::LogStorage,
    types::{
        Entry, LogId, Response, Snapshot, SnapshotData, SnapshotMeta, StoredMembership, TypeConfig,
    },
};

/// Up to where a machine has applied its log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) log_id: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Applied {
    /// Notes that an entry is applied.
    pub(crate) fn note(&mut self, entry: &Entry) {
        self.log_id = Some(entry.log_id);
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
        }
    }

    pub(crate) fn index(&self) -> Option<u64> {
        self.log_id.map(|log_id| log_id.index)
    }

    /// The brokers that have a replica as of this entry, voters first.
    pub(crate) fn replicas(&self) -> Vec<BrokerId> {
        let membership = self.membership.membership();
        let learners = membership.learner_ids();
        membership
            .voter_ids()
            .chain(learners)
            .map(BrokerId)
            .collect()
    }
}

/// A durable image of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) applied: Applied,
    pub(crate) bytes: Bytes,
}

/// What a kind of shard does with the entries of its log.
///
/// A machine is persistent: it opens where its last checkpoint was taken, and openraft applies
/// the entries after it again. The same entries give the same state on every replica, so
/// [`Machine::apply`] looks neither at a clock nor at the disk.
pub(crate) trait Machine: Send + Sync + 'static {
    /// Up to where it has applied.
    fn applied(&self) -> Applied;

    /// Applies the next entry. Never blocks on the disk. An error is final: it ends the shard.
    fn apply(&self, entry: &Entry) -> io::Result<Response>;

    /// Makes the present state durable. Blocks on the disk; entries are applied meanwhile.
    fn checkpoint(&self) -> io::Result<Checkpoint>;

    /// Whether there is something that the last checkpoint does not hold.
    fn has_changed(&self) -> bool {
        let saved = self.last_checkpoint();
        saved.map(|checkpoint| checkpoint.applied) != Some(self.applied())
    }

    /// The last checkpoint that was taken, if any.
    fn last_checkpoint(&self) -> Option<Checkpoint>;

    /// Replaces the state by another replica's checkpoint, and makes it durable. What the
    /// checkpoint only names is fetched from `replicas`, whoever answers, however long that takes.
    /// Dropped, it does nothing more that outlasts the end of the machine.
    fn install(
        self: Arc<Self>,
        checkpoint: Checkpoint,
        replicas: Vec<BrokerId>,
    ) -> BoxFuture<'static, io::Result<()>>;
}

/// A [`Machine`] under openraft.
#[derive(Clone)]
pub(crate) struct RaftMachine {
    shard: ShardId,
    machine: Arc<dyn Machine>,
    storage: LogStorage,
    failure: Failure,
    work: Work,
}

impl RaftMachine {
    pub(crate) fn new(
        shard: ShardId,
        machine: Arc<dyn Machine>,
        storage: LogStorage,
        failure: Failure,
    ) -> Self {
        Self {
            shard,
            machine,
            storage,
            failure,
            work: Work::default(),
        }
    }

    /// What is done with the machine, to be ended with the group.
    pub(super) fn work(&self) -> Work {
        self.work.clone()
    }

    /// Applies the log up to an entry that another replica vouches for; does nothing if the log does
    /// not have the entry. Before openraft does anything with the machine: were it told when it
    /// starts, it would have many entries in memory at a time, however large they are.
    pub(super) async fn apply_vouched(&mut self, vouched: LogId) -> io::Result<()> {
        if !self.storage.has(vouched).await? {
            return Ok(());
        }
        let from = self.machine.applied().index().map_or(0, |index| index + 1);
        let mut log = self.storage.clone();
        let entries = log.entries_stream(from..=vouched.index).await;
        let entries = entries.map(|entry| Ok((entry?, None)));
        self.apply(std::pin::pin!(entries)).await
    }

    async fn apply_all<S>(&self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let attempt = format!("shard {}: applying its log", self.shard);
        let _told = self.failure.unless_it_panics(attempt);
        let mut last = None;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next.inspect_err(|error| {
                self.failure.report(format!(
                    "shard {}: reading its log back: {error}",
                    self.shard
                ));
            })?;
            let response = self.machine.apply(&entry).inspect_err(|error| {
                self.failure.report(format!(
                    "shard {}: applying entry {}: {error}",
                    self.shard, entry.log_id
                ));
            })?;
            last = Some(entry.index());
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        if let Some(index) = last {
            self.storage.applied(index);
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for RaftMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.machine.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        self.work.finish(self.apply_all(entries)).await
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        Some(Builder {
            machine: Arc::clone(&self.machine),
            anew: force,
        })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            machine: Arc::clone(&self.machine),
            anew: true,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> io::Result<()> {
        let attempt = format!(
            "shard {}: taking over a checkpoint of another replica",
            self.shard
        );
        let _told = self.failure.unless_it_panics(attempt.clone());
        let checkpoint = Checkpoint {
            applied: Applied {
                log_id: meta.last_log_id,
                membership: meta.last_membership.clone(),
            },
            bytes: data.bytes,
        };
        // The sender has what the checkpoint names, whoever else was a replica at its time.
        let mut replicas: Vec<_> = data.sender.into_iter().collect();
        replicas.extend(checkpoint.applied.replicas());
        let install = Arc::clone(&self.machine).install(checkpoint, replicas);
        let installed = self.work.go_on_with(install).await;
        installed.inspect_err(|error| {
            if !self.work.is_over() {
                self.failure.report(format!("{attempt}: {error}"));
            }
        })?;
        if let Some(log_id) = meta.last_log_id {
            self.storage.applied(log_id.index);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.machine.last_checkpoint().map(snapshot))
    }
}

/// Hands openraft a checkpoint. The shard takes checkpoints itself, before it tells openraft to
/// build a snapshot, so that a full disk is no error that would stop the Raft group.
pub(crate) struct Builder {
    machine: Arc<dyn Machine>,
    anew: bool,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        if !self.anew
            && let Some(checkpoint) = self.machine.last_checkpoint()
        {
            return Ok(snapshot(checkpoint));
        }
        let machine = Arc::clone(&self.machine);
        let checkpoint = crate::executor::spawn_blocking(move || machine.checkpoint())
            .await
            .map_err(io::Error::other)??;
        Ok(snapshot(checkpoint))
    }
}

fn snapshot(checkpoint: Checkpoint) -> Snapshot {
    Snapshot {
        meta: SnapshotMeta {
            last_log_id: checkpoint.applied.log_id,
            last_membership: checkpoint.applied.membership,
        },
        snapshot: SnapshotData {
            bytes: checkpoint.bytes,
            sender: None,
        },
    }
}
