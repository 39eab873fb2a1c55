//! One Raft group: openraft over a log and a machine, started, watched and stopped.

mod ask;
pub(super) mod catch_up;
mod come_again;
pub(super) mod leave;
#[cfg(test)]
mod lone;
mod members;
pub(super) mod propose;
mod view;
mod watch;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use flumen_protocol::ids::{BrokerId, ShardId};
use openraft::{BasicNode, Config, Raft, ReadPolicy, SnapshotPolicy, async_runtime::WatchReceiver};
use tokio::time::timeout;

pub use self::propose::ProposeError;
pub(super) use self::view::majority_silence;
pub(crate) use self::{
    catch_up::BehindError,
    propose::{forward, until_led},
    view::GroupView,
};
use super::{
    ShardError,
    admission::Admission,
    log_storage::LogStorage,
    machine::{Machine, RaftMachine, Work},
    network::Factory,
    raft_parts::RaftParts,
    types::{LogId, TypeConfig},
};
use crate::mutation::{Mutation, is_planted};

/// How often a leader tells its followers that it is there: three times within its lease. Every
/// group also looks at its clock three times as often, which is what an idle broker does most.
pub(super) const HEARTBEAT_MS: u64 = 100;

/// A follower that has answered anything this lately is not told.
const HEARTBEAT_SPARED_MS: u64 = 20;

/// A follower stands for election when it has heard nothing of a leader for
/// [`ELECTION_TIMEOUT_MS_MAX`], the leader's lease, and then for a random time from this one ...
const ELECTION_TIMEOUT_MS_MIN: u64 = 150;

/// ... to this one.
const ELECTION_TIMEOUT_MS_MAX: u64 = 300;

/// How long another replica has for an answer at least. With less, the answers of brokers further
/// away would never count: leaders would not know that they lead, and replicas not get what they
/// lack. One that comes late does no harm, as it counts from when it was asked for.
pub(super) const ANSWER_MIN: Duration = Duration::from_millis(ELECTION_TIMEOUT_MS_MIN);

/// For how long what a replica confirms may let a leader answer without asking again. One that starts
/// knows nothing of what it has confirmed before.
pub(super) const LEASE: Duration = Duration::from_millis(ELECTION_TIMEOUT_MS_MAX);

/// Entries that one request to a follower carries at most; their bytes are bounded by what one
/// read of the log gives.
const REQUEST_ENTRIES_MAX: u64 = 1024;

/// How long it takes at most, on a machine that is not busy, until openraft knows of a snapshot.
const SNAPSHOT_KNOWN_AFTER: Duration = Duration::from_millis(100);

/// How often openraft is told of a snapshot before the log is left to the next one.
const SNAPSHOT_TRIES_MAX: u32 = 20;

/// How long a shard may take to apply what its log holds when it starts.
const RECOVERY_MAX: Duration = Duration::from_mins(5);

/// How long openraft's core may take to stop before what it may wait for is ended first.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

/// A shard's Raft group on this broker.
pub(crate) struct Group {
    shard: ShardId,
    raft: Raft<TypeConfig, RaftMachine>,
    log: LogStorage,
    machine: Arc<dyn Machine>,
    /// What openraft does with the machine.
    work: Work,
    parts: RaftParts,
    /// Whether nobody else had a vote when it was started.
    starts_alone: bool,
    /// Whether it is being stopped: then its end is no failure.
    stopping: Arc<AtomicBool>,
    /// Held by the one that takes a checkpoint; up to where the checkpoint before went.
    checkpointing: tokio::sync::Mutex<Option<u64>>,
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
    /// Starts the group. A single voter makes itself the leader at once.
    pub(crate) async fn start(
        shard: ShardId,
        machine: Arc<dyn Machine>,
        parts: RaftParts,
    ) -> Result<Self, ShardError> {
        let failed = |error: &dyn std::fmt::Display| ShardError::start(shard, &error);
        let failure = parts.failure.clone();
        let storage = LogStorage::open(parts.wal.shard(shard), failure.clone())
            .map_err(|error| failed(&error))?;
        check_nothing_is_missing(shard, &storage, machine.applied().log_id)?;
        let is_new = storage.is_pristine();
        let config = config(shard, parts.wal.may_forget()).map_err(|error| failed(&error))?;
        let log = storage.clone();
        let mut raft_machine = RaftMachine::new(shard, Arc::clone(&machine), log.clone(), failure);
        let work = raft_machine.work();
        if let Some(vouched) = parts.vouched {
            let applied = raft_machine.apply_vouched(vouched).await;
            applied.map_err(|error| failed(&error))?;
        }
        let factory = Factory {
            broker: parts.broker.0,
            shard,
            network: Arc::clone(&parts.network),
            pace: parts.pace.clone(),
            snapshots_sent: parts.replicas.transfers().snapshots_sent.clone(),
        };
        let raft = Raft::new(parts.broker.0, config, factory, storage, raft_machine)
            .await
            .map_err(|error| failed(&error))?;
        let me = parts.broker.0;
        let voters = raft.with_raft_state(move |state| {
            let voters: Vec<_> = state.membership_state.effective().voter_ids().collect();
            voters
        });
        let voters = voters.await.map_err(|error| failed(&error))?;
        let is_behind = come_again::is_behind(&raft, parts.left_by);
        let is_sole_voter = voters == [me] && !is_behind;
        let founds = is_new && parts.founding;
        let group = Self {
            starts_alone: founds || is_sole_voter,
            shard,
            raft,
            log,
            machine,
            work,
            parts,
            stopping: Arc::default(),
            checkpointing: tokio::sync::Mutex::new(None),
        };
        group.watch_core();
        if is_behind {
            group.hold_back();
        }
        if founds {
            let founder = BTreeMap::from([(group.parts.broker.0, BasicNode::default())]);
            let founded = group.raft.initialize(founder).await;
            founded.map_err(|error| failed(&error))?;
        } else if is_sole_voter {
            let elected = group.raft.trigger().elect(false).await;
            elected.map_err(|error| failed(&error))?;
        }
        if voters.iter().any(|voter| *voter != me) {
            // From the catalog it may be known only once its own group has a leader.
            group.keep_time(true);
        }
        group.parts.replicas.insert(shard, &group);
        Ok(group)
    }

    /// Waits until all that was acknowledged before the start is applied again. Where other
    /// brokers have a say in what that is, nothing is waited for.
    pub(crate) async fn ready(&self) -> Result<(), ShardError> {
        if !self.starts_alone {
            return Ok(());
        }
        tokio::select! {
            recovered = self.raft.wait_for_recovery(Some(RECOVERY_MAX)) => match recovered {
                Ok(_) => Ok(()),
                Err(error) => Err(ShardError::start(self.shard, &error)),
            },
            failure = self.parts.failure.wait() => Err(ShardError::Failed(failure)),
        }
    }

    /// Turns the clock on: heartbeats and elections. A broker that is alone leads its shards
    /// without one, and sleeps when there is nothing to do.
    pub(crate) fn keep_time(&self, on: bool) {
        self.raft.runtime_config().tick(on);
    }

    /// What lets in the entries of leaders elsewhere.
    pub(super) fn admission(&self) -> Option<Admission> {
        self.parts.admission.clone()
    }

    /// Its log.
    pub(super) fn log(&self) -> &LogStorage {
        &self.log
    }

    pub(crate) fn raft(&self) -> &Raft<TypeConfig, RaftMachine> {
        &self.raft
    }

    /// Makes sure that this broker leads the group at this moment and has applied all that was
    /// acknowledged: what is read then is up to date.
    pub(crate) async fn confirm_leadership(&self) -> Result<(), ProposeError> {
        let confirmed = self.raft.ensure_linearizable(ReadPolicy::LeaseRead).await;
        confirmed.map(drop).map_err(|error| {
            tracing::debug!(shard = %self.shard, "not the leader for sure: {error}");
            ProposeError::NotLeader
        })
    }

    /// Takes a checkpoint and lets the log before it go. Where there are followers, the log since
    /// the checkpoint before stays for those that are a little behind, until the next one or
    /// [`Group::release_log`]. A failure leaves everything as it was.
    pub(crate) async fn checkpoint(&self) -> io::Result<()> {
        let mut previous = self.checkpointing.lock().await;
        let machine = Arc::clone(&self.machine);
        crate::executor::spawn_blocking(move || machine.checkpoint())
            .await
            .map_err(io::Error::other)??;
        let Some(taken) = self.checkpointed() else {
            return Ok(());
        };
        let up_to = if self.has_followers() {
            previous.replace(taken)
        } else {
            Some(taken)
        };
        self.purge(up_to).await
    }

    /// Lets all of the log go that the last checkpoint covers: its room is needed.
    pub(crate) async fn release_log(&self) -> io::Result<()> {
        let mut previous = self.checkpointing.lock().await;
        *previous = self.checkpointed();
        self.purge(*previous).await
    }

    fn checkpointed(&self) -> Option<u64> {
        let checkpoint = self.machine.last_checkpoint()?;
        checkpoint.applied.index()
    }

    async fn purge(&self, up_to: Option<u64>) -> io::Result<()> {
        let Some(up_to) = up_to else { return Ok(()) };
        // openraft purges what it knows to be in a snapshot only, and is deaf to the news while
        // it still takes note of the one before.
        for _ in 0..SNAPSHOT_TRIES_MAX {
            let snapshot = self.raft.trigger().snapshot().await;
            snapshot.map_err(io::Error::other)?;
            let wait = self.raft.wait(Some(SNAPSHOT_KNOWN_AFTER));
            let known = wait.metrics(
                |metrics| metrics.snapshot.is_some_and(|at| at.index >= up_to),
                "the snapshot is known",
            );
            if known.await.is_ok() {
                let purged = self.raft.trigger().purge_log(up_to).await;
                return purged.map_err(io::Error::other);
            }
        }
        tracing::debug!(shard = %self.shard, "the log is purged with the next checkpoint");
        Ok(())
    }

    fn has_followers(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.nodes().nth(1).is_some()
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Whether there is a checkpoint of it.
    pub(crate) fn has_checkpoint(&self) -> bool {
        self.machine.last_checkpoint().is_some()
    }

    /// Whether there is something that the last checkpoint does not hold.
    pub(crate) fn has_changed(&self) -> bool {
        self.machine.has_changed()
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.machine.applied().index().unwrap_or(0)
    }

    /// Whether this broker leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// The leader, if one is known, and its term.
    pub(crate) fn leader(&self) -> (Option<BrokerId>, u64) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.current_leader.map(BrokerId), metrics.current_term)
    }

    /// Stops the group. Entries on their way are cut off; their outcome is not known. Nothing is
    /// done with the machine any more when this returns.
    pub(crate) async fn stop(&self) {
        self.parts.replicas.remove(self.shard);
        self.expect_end();
        let mut shutdown = std::pin::pin!(self.raft.shutdown());
        let stopped = match timeout(SHUTDOWN_PATIENCE, &mut shutdown).await {
            Ok(stopped) => stopped,
            // The core hands on what is to be applied, and waits for a worker that is busy.
            Err(_) => {
                self.work.end().await;
                shutdown.await
            }
        };
        if let Err(error) = stopped {
            tracing::warn!("{} did not stop cleanly: {error}", self.shard);
        }
        self.work.end().await;
    }
}

fn config(shard: ShardId, may_forget: bool) -> Result<Arc<Config>, openraft::ConfigError> {
    let config = Config {
        cluster_name: shard.to_string(),
        heartbeat_interval: HEARTBEAT_MS,
        heartbeat_min_interval: Some(HEARTBEAT_SPARED_MS),
        election_timeout_min: ELECTION_TIMEOUT_MS_MIN,
        election_timeout_max: ELECTION_TIMEOUT_MS_MAX,
        max_payload_entries: REQUEST_ENTRIES_MAX,
        // Turned on when there are other brokers: see `Group::keep_time`.
        enable_tick: false,
        enable_pre_vote: Some(true),
        // A leader that comes back must be elected again.
        enable_leader_restore: Some(false),
        // The shard decides when to take a checkpoint, and what of the log goes with it.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A follower is sent the log for as long as it is there, however long it is.
        replication_lag_threshold: u64::MAX,
        // A follower that lost power may lack what it said it has, where logs are not synced at
        // once: it gets that again. And a planted bug is not to be noticed here, before any client
        // does.
        allow_log_reversion: Some(may_forget || is_planted(Mutation::AckBeforeMajority)),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}
