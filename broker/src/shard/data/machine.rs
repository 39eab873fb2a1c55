//! A data shard under Raft: applies entries to the state, takes checkpoints, and looks after the
//! partition logs from time to time.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use flumen_protocol::ids::{BrokerId, PartitionId};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;

use super::{
    manifest::Manifest,
    state::{AppendedTotal, Cut, DataState, Directory},
    transfer::{RecordSource, Wanted},
};
use crate::{
    disk::{Disk, disk_work, disk_work_once_there_is_room, is_full},
    log::{CompactError, LogCheckpoint, LogOptions, LogStore, PartitionLog},
    shard::{
        ShardError, checkpoint_file,
        machine::{Applied, Checkpoint, Machine},
        types::{Entry, Payload, Response},
    },
};

pub(super) struct DataMachine {
    broker: BrokerId,
    source: RecordSource,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    logs: LogStore,
    state: Mutex<DataState>,
    last_checkpoint: Mutex<Option<Checkpoint>>,
    /// One checkpoint at a time, and none once the logs are ended.
    checkpointing: Mutex<Logs>,
}

/// The logs of a machine, besides what its state knows of them.
#[derive(Default)]
struct Logs {
    /// Whether they are ended: nothing is opened, gone over to or made durable any more.
    are_ended: bool,
    /// Those that were opened for records of another replica. The state does not know of them
    /// before all of these are here.
    ahead: Vec<PartitionId>,
}

impl Logs {
    fn check(&self) -> io::Result<()> {
        if self.are_ended {
            return Err(io::Error::other("the shard is closed"));
        }
        Ok(())
    }

    /// Ends them. Returns those that are known here only.
    fn end(&mut self) -> Vec<PartitionId> {
        self.are_ended = true;
        std::mem::take(&mut self.ahead)
    }
}

/// What the machine of a shard stands on.
pub(super) struct Ground {
    pub(super) broker: BrokerId,
    pub(super) disk: Arc<dyn Disk>,
    /// Where its checkpoint is.
    pub(super) path: PathBuf,
    /// Where records come from that are missing here.
    pub(super) source: RecordSource,
    pub(super) directory: Directory,
}

impl DataMachine {
    /// Opens the shard as of its last checkpoint.
    pub(super) fn open(ground: Ground) -> Result<Self, ShardError> {
        let (manifest, checkpoint) = load(&*ground.disk, &ground.path)?.unzip();
        Self::with(ground, manifest.unwrap_or_default(), checkpoint)
    }

    fn with(
        ground: Ground,
        manifest: Manifest,
        last_checkpoint: Option<Checkpoint>,
    ) -> Result<Self, ShardError> {
        let logs = ground.source.logs.clone();
        let state = DataState::open(manifest, logs.clone(), ground.directory)?;
        Ok(Self {
            broker: ground.broker,
            disk: ground.disk,
            path: ground.path,
            source: ground.source,
            logs,
            state: Mutex::new(state),
            last_checkpoint: Mutex::new(last_checkpoint),
            checkpointing: Mutex::default(),
        })
    }

    /// Opens the shard with nothing in it, beside logs of which what is whole is kept. Gives the
    /// checkpoint that tells what should be there, for [`Machine::install`]; `None` if nothing
    /// should. Reads all that there is, and blocks.
    pub(super) fn salvage(
        ground: Ground,
        cancelled: &CancellationToken,
    ) -> Result<(Self, Option<Checkpoint>), ShardError> {
        let logs = &ground.source.logs;
        let saved = load(&*ground.disk, &ground.path)?;
        let topics = saved.iter().flat_map(|(manifest, _)| &manifest.topics);
        let partitions = topics.flat_map(|topic| {
            let saved = topic.partitions.iter();
            saved.map(move |saved| (topic.partition(saved), topic, saved))
        });
        let partitions: Vec<_> = partitions.collect();
        // Somebody may have opened some of them, and come no further.
        let ids: Vec<_> = partitions.iter().map(|(id, ..)| *id).collect();
        let closed = logs.close(&ids);
        closed.map_err(|error| ShardError::start(ground.source.shard, &error))?;
        for (id, topic, saved) in partitions {
            let options = LogOptions::from(&topic.config);
            logs.salvage(id, options, &saved.checkpoint, cancelled)?;
        }
        let promised = saved.map(|(_, checkpoint)| checkpoint);
        let machine = Self::with(ground, Manifest::default(), None)?;
        Ok((machine, promised))
    }

    /// Ends the logs and leaves their files as they are. Blocks on the disk.
    pub(super) fn close(&self) -> io::Result<()> {
        let mut logs = self.checkpointing.lock();
        let mut closed = logs.end();
        closed.extend(self.state.lock().close());
        self.logs.close(&closed)
    }

    /// Removes what was set aside as damaged. Blocks on the disk.
    pub(super) fn remove_set_aside(&self) {
        let logs = self.state.lock().logs();
        let ids: Vec<_> = logs.iter().map(PartitionLog::id).collect();
        self.logs.remove_set_aside(&ids);
    }

    pub(super) fn appended(&self) -> AppendedTotal {
        self.state.lock().appended_total()
    }

    /// Removes what retention and compaction say, unless it is cancelled. Blocks on the disk.
    pub(super) fn look_after_logs(&self, now_ms: u64, cancelled: &CancellationToken) {
        let logs = self.state.lock().logs();
        for log in logs {
            if cancelled.is_cancelled() {
                return;
            }
            if let Err(error) = look_after(&log, now_ms, cancelled) {
                tracing::warn!(
                    "cannot remove old records of partition {}: {error}",
                    log.id()
                );
            }
            // Whatever stopped it, some files may have been removed or replaced before; the old ones
            // go with the next checkpoint only.
            self.state.lock().mark_dirty_if_changed(log.id());
        }
    }

    /// Removes all records. Blocks on the disk.
    pub(super) fn discard(&self) {
        let mut logs = self.checkpointing.lock();
        let mut discarded = logs.end();
        discarded.extend(self.state.lock().discard());
        for log in discarded {
            self.logs.remove(log);
        }
    }

    /// What the logs of this replica lack of what another replica's manifest says. Opens those
    /// that are new here.
    fn missing(&self, manifest: &Manifest) -> io::Result<Vec<Wanted>> {
        let mut wanted = Vec::new();
        for topic in &manifest.topics {
            for saved in &topic.partitions {
                let id = topic.partition(saved);
                let options = LogOptions::from(&topic.config);
                let mut logs = self.checkpointing.lock();
                logs.check()?;
                let log = self
                    .logs
                    .open_partition(id, options, &LogCheckpoint::default())
                    .map_err(io::Error::other)?;
                logs.ahead.push(id);
                drop(logs);
                let from = log.reader().end_offset();
                let to = saved.end_offset;
                wanted.push(Wanted { log, from, to });
            }
        }
        Ok(wanted)
    }

    /// Goes over to another replica's manifest, whose records are all here.
    fn replace(&self, manifest: Manifest) -> io::Result<()> {
        let mut logs = self.checkpointing.lock();
        logs.check()?;
        let taken = self.state.lock().replace(manifest);
        logs.ahead.clear();
        taken.map_err(io::Error::other)
    }

    /// Goes over to what a checkpoint says. The records that are not here come from `others`,
    /// which are asked until all are there.
    pub(super) async fn fill(
        self: Arc<Self>,
        checkpoint: Checkpoint,
        others: impl Fn() -> Vec<BrokerId>,
    ) -> io::Result<()> {
        let manifest: Manifest =
            postcard::from_bytes(&checkpoint.bytes).map_err(io::Error::other)?;
        let applied = manifest.applied.log_id;
        let this = Arc::clone(&self);
        let (manifest, wanted) = disk_work(move || {
            let wanted = this.missing(&manifest)?;
            Ok((manifest, wanted))
        })
        .await?;
        self.source.fetch(others, applied, wanted).await;
        let this = Arc::clone(&self);
        disk_work(move || this.replace(manifest)).await?;
        let attempt = format!(
            "shard {}: what came from another replica",
            self.source.shard
        );
        let checkpoint = move || match Machine::checkpoint(&*self) {
            // The replica was closed or given up meanwhile: nobody waits for what came.
            Err(_) if self.checkpointing.lock().are_ended => Ok(()),
            taken => taken.map(drop),
        };
        disk_work_once_there_is_room(&attempt, checkpoint).await
    }

    /// Removes the files of deleted partitions before a checkpoint says that they are deleted.
    fn make_room(&self, deleted: &[PartitionId]) {
        for id in deleted {
            if let Err(error) = self.logs.remove_ahead(*id) {
                tracing::warn!(partition = %id, %error, "a deleted partition still takes room");
            }
        }
    }

    fn make_durable(&self, cut: &mut Cut) -> io::Result<Checkpoint> {
        let saved = self.logs.checkpoint(&cut.dirty)?;
        let checkpoints: FxHashMap<PartitionId, LogCheckpoint> = cut
            .dirty
            .iter()
            .map(|(log, _)| log.id())
            .zip(saved)
            .collect();
        for topic in &mut cut.manifest.topics {
            for partition in &mut topic.partitions {
                let id = PartitionId {
                    topic: topic.id,
                    index: partition.index,
                };
                if let Some(checkpoint) = checkpoints.get(&id) {
                    partition.checkpoint.clone_from(checkpoint);
                }
            }
        }
        let bytes: Bytes = postcard::to_allocvec(&cut.manifest)
            .map_err(io::Error::other)?
            .into();
        checkpoint_file::save(&*self.disk, &self.path, &bytes)?;
        for (log, _) in &cut.dirty {
            if let Some(checkpoint) = checkpoints.get(&log.id()) {
                log.checkpoint_saved(checkpoint);
            }
        }
        self.state.lock().saved(checkpoints);
        Ok(Checkpoint {
            applied: cut.manifest.applied.clone(),
            bytes,
        })
    }
}

/// The last checkpoint, decoded and as it was saved.
fn load(disk: &dyn Disk, path: &Path) -> Result<Option<(Manifest, Checkpoint)>, ShardError> {
    let Some(bytes) = checkpoint_file::load(disk, path)? else {
        return Ok(None);
    };
    let manifest: Manifest = checkpoint_file::decode(path, &bytes)?;
    let applied = manifest.applied.clone();
    Ok(Some((manifest, Checkpoint { applied, bytes })))
}

fn look_after(
    log: &PartitionLog,
    now_ms: u64,
    cancelled: &CancellationToken,
) -> Result<(), Box<dyn std::error::Error>> {
    log.enforce_retention(now_ms)?;
    match log.compact(now_ms, cancelled) {
        Ok(_) | Err(CompactError::Cancelled) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Machine for DataMachine {
    fn applied(&self) -> Applied {
        self.state.lock().applied.clone()
    }

    fn apply(&self, entry: &Entry) -> io::Result<Response> {
        let mut state = self.state.lock();
        state.applied.note(entry);
        match &entry.payload {
            Payload::Normal(command) => state.apply(command).map_err(io::Error::other),
            Payload::Blank | Payload::Membership(_) => Ok(Response::None),
        }
    }

    fn checkpoint(&self) -> io::Result<Checkpoint> {
        let logs = self.checkpointing.lock();
        logs.check()?;
        let mut cut = self.state.lock().cut();
        match self.make_durable(&mut cut) {
            Ok(checkpoint) => {
                for id in cut.deleted {
                    self.logs.remove(id);
                }
                *self.last_checkpoint.lock() = Some(checkpoint.clone());
                Ok(checkpoint)
            }
            Err(error) => {
                if is_full(&error) {
                    self.make_room(&cut.deleted);
                }
                self.state.lock().aborted(cut);
                Err(error)
            }
        }
    }

    fn has_changed(&self) -> bool {
        let saved = self.last_checkpoint.lock();
        let state = self.state.lock();
        let saved = saved.as_ref().map(|checkpoint| &checkpoint.applied);
        state.has_changed() || saved != Some(&state.applied)
    }

    fn last_checkpoint(&self) -> Option<Checkpoint> {
        self.last_checkpoint.lock().clone()
    }

    fn install(
        self: Arc<Self>,
        checkpoint: Checkpoint,
        mut replicas: Vec<BrokerId>,
    ) -> BoxFuture<'static, io::Result<()>> {
        replicas.retain(|id| *id != self.broker);
        Box::pin(self.fill(checkpoint, move || replicas.clone()))
    }
}
