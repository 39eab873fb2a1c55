//! One Raft group: openraft over a log and a machine, started, watched and stopped.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use flumen_protocol::ids::ShardId;
use openraft::{BasicNode, Config, Raft, SnapshotPolicy, async_runtime::WatchReceiver};
use tokio::sync::oneshot;

use super::{
    ShardError,
    command::Command,
    failure::Failure,
    log_storage::LogStorage,
    machine::{Machine, RaftMachine},
    network::{Factory, PeerNetwork},
    types::{Callback, LogId, Response, TypeConfig},
};
use crate::wal::Wal;

/// How often a leader tells its followers that it is there. Not used with a single voter, which
/// needs no clock at all.
const HEARTBEAT_MS: u64 = 250;

/// A follower that hears nothing for this long stands for election, at the earliest.
const ELECTION_TIMEOUT_MS_MIN: u64 = 1000;

/// ... and at the latest.
const ELECTION_TIMEOUT_MS_MAX: u64 = 2000;

/// How long a shard may take to apply what its log holds when it starts.
const RECOVERY_MAX: Duration = Duration::from_mins(5);

/// A shard's Raft group on this broker.
pub(crate) struct Group {
    shard: ShardId,
    raft: Raft<TypeConfig, RaftMachine>,
    machine: Arc<dyn Machine>,
    failure: Failure,
    checkpointing: tokio::sync::Mutex<()>,
}

/// A proposal came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Another broker leads the shard.
    #[error("this broker does not lead the shard; ask the one that does")]
    NotLeader,
    /// The shard has stopped; whether the proposal was taken is not known.
    #[error("the shard has stopped; whether the request was carried out is not known")]
    Stopped,
    /// There is no room for it.
    #[error("no room for the request: {reason}; try again later")]
    NoRoom {
        /// What the write-ahead log said.
        reason: String,
    },
}

/// What a Raft group stands on.
pub(crate) struct GroupParts {
    pub(crate) broker: u64,
    pub(crate) shard: ShardId,
    pub(crate) wal: Wal,
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) network: Arc<dyn PeerNetwork>,
    pub(crate) failure: Failure,
}

/// Checks that log and checkpoint belong together: the log goes on where the checkpoint ends.
/// Otherwise somebody has removed one of them, and what it held would be missing in silence.
fn check_nothing_is_missing(
    shard: ShardId,
    storage: &LogStorage,
    applied: Option<LogId>,
) -> Result<(), ShardError> {
    let missing = match (applied, storage.purged()) {
        (Some(_), _) if storage.is_pristine() => {
            "it has a checkpoint, but the write-ahead log knows nothing of it; restore the \
             directory of the write-ahead log (wal)"
                .to_owned()
        }
        (applied, Some(purged)) if applied.is_none_or(|at| at.index < purged.index) => format!(
            "the write-ahead log begins behind entry {}, but the checkpoint up to there is \
             missing; restore its file (in shards) from a copy",
            purged.index
        ),
        _ => return Ok(()),
    };
    Err(ShardError::start(shard, &missing))
}

impl Group {
    /// Starts the group. With a single voter it makes itself the leader at once.
    pub(crate) async fn start(parts: GroupParts) -> Result<Self, ShardError> {
        let GroupParts {
            broker,
            shard,
            wal,
            machine,
            network,
            failure,
        } = parts;
        let storage = LogStorage::open(wal.shard(shard), failure.clone())
            .map_err(|error| ShardError::start(shard, &error))?;
        check_nothing_is_missing(shard, &storage, machine.applied().log_id)?;
        let is_new = storage.is_pristine();
        let config = config(shard).map_err(|error| ShardError::start(shard, &error))?;
        let raft_machine = RaftMachine::new(Arc::clone(&machine), storage.clone(), failure.clone());
        let factory = Factory { shard, network };
        let raft = Raft::new(broker, config, factory, storage, raft_machine)
            .await
            .map_err(|error| ShardError::start(shard, &error))?;
        if is_new {
            raft.initialize(BTreeMap::from([(broker, BasicNode::default())]))
                .await
                .map_err(|error| ShardError::start(shard, &error))?;
        } else {
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| ShardError::start(shard, &error))?;
        }
        Ok(Self {
            shard,
            raft,
            machine,
            failure,
            checkpointing: tokio::sync::Mutex::new(()),
        })
    }

    /// Waits until all that was acknowledged before the start is applied again.
    pub(crate) async fn ready(&self) -> Result<(), ShardError> {
        tokio::select! {
            recovered = self.raft.wait_for_recovery(Some(RECOVERY_MAX)) => match recovered {
                Ok(_) => Ok(()),
                Err(error) => Err(ShardError::start(self.shard, &error)),
            },
            failure = self.failure.wait() => Err(ShardError::Failed(failure)),
        }
    }

    pub(crate) fn raft(&self) -> &Raft<TypeConfig, RaftMachine> {
        &self.raft
    }

    /// Proposes one command and waits until it is applied.
    pub(crate) async fn propose(&self, command: Command) -> Result<Response, ProposeError> {
        let (tx, rx) = oneshot::channel();
        let callback = Callback::new(move |result| {
            // The caller may have gone; the command stands.
            let _ = tx.send(result);
        });
        self.raft
            .client_write_ff(Arc::new(command), Some(callback))
            .await
            .map_err(|_| ProposeError::Stopped)?;
        match rx.await {
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(_)) => Err(ProposeError::NotLeader),
            Err(_) => Err(ProposeError::Stopped),
        }
    }

    /// Takes a checkpoint and lets the log before it go. A failure leaves everything as it was.
    pub(crate) async fn checkpoint(&self) -> io::Result<()> {
        let _one = self.checkpointing.lock().await;
        let machine = Arc::clone(&self.machine);
        crate::executor::spawn_blocking(move || machine.checkpoint())
            .await
            .map_err(io::Error::other)??;
        self.raft
            .trigger()
            .snapshot()
            .await
            .map_err(io::Error::other)
    }

    /// Whether there is something that the last checkpoint does not hold.
    pub(crate) fn has_changed(&self) -> bool {
        self.machine.has_changed()
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.machine.applied().index().unwrap_or(0)
    }

    /// The leader, if one is known, and its term.
    pub(crate) fn leader(&self) -> (Option<u64>, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_leader, metrics.current_term)
    }

    /// Stops the group. Entries on their way are cut off; their outcome is not known.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!("{} did not stop cleanly: {error}", self.shard);
        }
    }
}

fn config(shard: ShardId) -> Result<Arc<Config>, openraft::ConfigError> {
    let config = Config {
        cluster_name: shard.to_string(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_TIMEOUT_MS_MIN,
        election_timeout_max: ELECTION_TIMEOUT_MS_MAX,
        // A single voter leads without a clock: a broker with many shards and nothing to do
        // sleeps. With peers it is turned on.
        enable_tick: false,
        enable_pre_vote: Some(true),
        // A leader that comes back must be elected again.
        enable_leader_restore: Some(false),
        // The shard decides when to take a checkpoint, and keeps nothing that is in it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    };
    config.validate().map(Arc::new)
}
