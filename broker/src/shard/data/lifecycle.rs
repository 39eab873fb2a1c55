//! How a shard is opened, repaired, started again, closed, and discarded.

use std::{path::PathBuf, sync::Arc};

use flumen_protocol::ids::{BrokerId, ShardId};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    DataShard, Shared,
    machine::{DataMachine, Ground},
    state::Directory,
    transfer::{RecordServer, RecordSource},
};
use crate::{
    disk::Disk,
    log::LogStore,
    shard::{
        ShardError,
        admission::Admission,
        group::{Group, LEASE},
        proposer::Proposer,
        raft_parts::RaftParts,
    },
};

/// What a data shard stands on.
#[derive(Clone)]
pub(crate) struct DataShardParts {
    pub(crate) raft: RaftParts,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) logs: LogStore,
    pub(crate) admission: Admission,
    /// Where other brokers find the records of this one's shards.
    pub(crate) records: RecordServer,
}

/// A shard whose files were damaged, with all that its checkpoint promises, before it is opened.
pub(crate) struct Repaired {
    id: ShardId,
    machine: Arc<DataMachine>,
    directory: Directory,
    parts: DataShardParts,
}

impl Repaired {
    /// Opens the shard, and removes what was set aside.
    pub(crate) async fn start(self) -> Result<DataShard, ShardError> {
        let (id, machine) = (self.id, Arc::clone(&self.machine));
        let shard = DataShard::start(id, self.machine, self.directory, self.parts).await?;
        let clean_up = crate::executor::spawn_blocking(move || machine.remove_set_aside());
        clean_up
            .await
            .map_err(|error| ShardError::start(id, &error))?;
        Ok(shard)
    }
}

impl DataShardParts {
    /// What the machine of a shard stands on.
    fn ground(&self, shard: ShardId, checkpoint: PathBuf, directory: &Directory) -> Ground {
        Ground {
            broker: self.raft.broker,
            disk: Arc::clone(&self.disk),
            path: checkpoint,
            source: RecordSource {
                network: Arc::clone(&self.raft.network),
                shard,
                logs: self.logs.clone(),
                received_bytes: self.records.transfers().received_bytes.clone(),
            },
            directory: Arc::clone(directory),
        }
    }
}

impl DataShard {
    /// Opens a shard as of its last checkpoint.
    pub(crate) async fn open(
        id: ShardId,
        checkpoint: PathBuf,
        parts: DataShardParts,
    ) -> Result<Self, ShardError> {
        let directory = Directory::default();
        let ground = parts.ground(id, checkpoint, &directory);
        let opened = crate::executor::spawn_blocking(move || DataMachine::open(ground)).await;
        let machine = opened.map_err(|error| ShardError::start(id, &error))??;
        Self::start(id, Arc::new(machine), directory, parts).await
    }

    /// Gets a shard with files that are damaged ready to be opened. What is whole is kept, and
    /// the rest comes from `others`, which are asked until it is all there.
    pub(crate) async fn repair(
        id: ShardId,
        checkpoint: PathBuf,
        parts: DataShardParts,
        others: impl Fn() -> Vec<BrokerId>,
    ) -> Result<Repaired, ShardError> {
        let failed = |error: &dyn std::fmt::Display| ShardError::start(id, &error);
        let directory = Directory::default();
        let ground = parts.ground(id, checkpoint, &directory);
        let cancelled = CancellationToken::new();
        // A broker that stops does not wait until all files are read.
        let _cancel = cancelled.clone().drop_guard();
        let salvage = move || DataMachine::salvage(ground, &cancelled);
        let opened = crate::executor::spawn_blocking(salvage).await;
        let (machine, promised) = opened.map_err(|error| failed(&error))??;
        let machine = Arc::new(machine);
        if let Some(promised) = promised {
            let filled = Arc::clone(&machine).fill(promised, others).await;
            filled.map_err(|error| failed(&error))?;
        }
        Ok(Repaired {
            id,
            machine,
            directory,
            parts,
        })
    }

    async fn start(
        id: ShardId,
        machine: Arc<DataMachine>,
        directory: Directory,
        parts: DataShardParts,
    ) -> Result<Self, ShardError> {
        let raft = RaftParts {
            admission: Some(parts.admission.clone()),
            ..parts.raft
        };
        let group = Group::start(id, Arc::clone(&machine) as _, raft.clone()).await?;
        let shared = Shared {
            id,
            proposer: Proposer::new(group.raft().clone(), &raft.wal),
            admission: parts.admission,
            served: (parts.records).add(
                id,
                Arc::clone(&directory),
                Arc::clone(&machine),
                group.log().clone(),
            ),
            group,
            machine,
            directory,
            failure: raft.failure,
            wal: raft.wal,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Whether another replica has applied entries that are in the log here and not applied.
    pub(crate) fn is_vouched_for(&self) -> bool {
        self.shared.served.vouched().is_some()
    }

    /// Whether they are applied only if the other one is believed: no leader is found that tells
    /// that they are committed. Takes as long as finding one may.
    pub(crate) async fn relies_on_vouched(&self) -> bool {
        let Some(vouched) = self.shared.served.vouched() else {
            return false;
        };
        !self.shared.group.is_told_of(vouched.index).await
    }

    /// Starts the group of the shard again, with what another replica vouches for applied. The logs
    /// stay open, for readers, too. Whatever comes of it, this one is stopped.
    pub(crate) async fn start_again(&self, mut parts: DataShardParts) -> Result<Self, ShardError> {
        let shared = &self.shared;
        let failed = |error: &dyn std::fmt::Display| ShardError::start(shared.id, &error);
        parts.raft.vouched = shared.served.take_vouched();
        shared.group.stop().await;
        tokio::time::sleep(LEASE).await;
        let wal = shared.wal.clone();
        // The new one takes for durable what is in the log.
        let synced = crate::executor::spawn_blocking(move || wal.sync()).await;
        let synced = synced.map_err(|error| failed(&error))?;
        synced.map_err(|error| failed(&error))?;
        let (machine, directory) = (Arc::clone(&shared.machine), Arc::clone(&shared.directory));
        Self::start(shared.id, machine, directory, parts).await
    }

    /// Stops the shard and removes all that this broker has of it, but for its vote.
    pub(crate) async fn discard(&self) -> Result<(), ShardError> {
        let shared = &self.shared;
        shared.served.end();
        shared.group.stop().await;
        let (tx, rx) = oneshot::channel();
        shared.wal.shard(shared.id).reset(move |result| {
            // Whoever waits is there until the answer comes.
            let _ = tx.send(result);
        });
        match rx.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(ShardError::start(shared.id, &error)),
            Err(error) => return Err(ShardError::start(shared.id, &error)),
        }
        let (machine, wal) = (Arc::clone(&shared.machine), shared.wal.clone());
        // The files go once it is sure that a start will not look for them.
        let discard = move || wal.sync().map(|()| machine.discard());
        crate::executor::spawn_blocking(discard)
            .await
            .map_err(|error| ShardError::start(shared.id, &error))?
            .map_err(|error| ShardError::start(shared.id, &error))
    }

    /// Stops the shard and leaves all files as they are, to be opened again.
    pub(crate) async fn close(&self) -> Result<(), ShardError> {
        let shared = &self.shared;
        let failed = |error: &dyn std::fmt::Display| ShardError::start(shared.id, &error);
        // Little of the write-ahead log is to be kept for a shard that is not there to let it go.
        let released = match shared.group.checkpoint().await {
            Ok(()) => shared.group.release_log().await,
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::debug!(shard = %shared.id, %error, "closed without a last checkpoint");
        }
        shared.served.end();
        shared.group.stop().await;
        let (machine, wal) = (Arc::clone(&shared.machine), shared.wal.clone());
        // Who opens it takes for durable what is in the log.
        let close = move || -> std::io::Result<()> {
            wal.sync().map_err(std::io::Error::other)?;
            machine.close()
        };
        let closed = crate::executor::spawn_blocking(close).await;
        let closed = closed.map_err(|error| failed(&error))?;
        closed.map_err(|error| failed(&error))
    }
}
