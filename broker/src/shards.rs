//! All shards of a broker, the catalog among them: opened together, checkpointed in turn, and
//! stopped together.

mod checkpoint_files;
mod checkpointer;
mod degraded;
mod files;
mod groups;
mod leaders;
mod left;
mod lost_files;
mod opening;
mod propose;
mod repair;
mod upkeep;
mod vouched;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flumen_protocol::{
    ids::{BrokerId, PartitionId, ShardId},
    message::ShardMetadata,
};
use futures_util::future::try_join_all;
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use self::{
    checkpoint_files::CheckpointFiles,
    checkpointer::Checkpointer,
    groups::Groups,
    lost_files::LostFiles,
    opening::{mark_as_founded, open_data, open_known, remove_checkpoint},
    upkeep::Upkeep,
};
pub(crate) use self::{leaders::Leaders, repair::others_of};
use crate::{
    catalog::{CATALOG_SHARD, Catalog, CatalogParts},
    disk::{Disk, read_file},
    log::LogStore,
    metrics::TransferMetrics,
    peer::{Alone, PeerNetwork},
    shard::{
        DataShard, ShardError,
        raft::{Admission, DataShardParts, Failure, Pace, RaftParts, RecordServer, Replicas},
    },
    wal::Wal,
};

/// The shards of a broker.
#[derive(Clone, Debug)]
pub struct ShardsOptions {
    /// Where checkpoints are kept.
    pub dir: PathBuf,
    /// This broker's id among the voters of its shards.
    pub broker_id: u64,
    /// Data shards; set once, when the cluster is made. Default: 16.
    pub shard_count: u32,
    /// Bytes of batches that are proposed and not applied yet, over all shards. Appends wait
    /// beyond it. Default: 128 MiB.
    pub in_flight_bytes_max: u32,
    /// How often shards that have changed take a checkpoint when nothing else makes them.
    /// Default: 30 s.
    pub checkpoint_interval: Duration,
    /// How often retention and compaction look at the partition logs. Default: 30 s.
    pub retention_interval: Duration,
    /// Counts the checkpoints that are taken.
    pub checkpoints: Counter,
}

impl ShardsOptions {
    /// The defaults, with checkpoints in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            broker_id: 1,
            shard_count: 16,
            in_flight_bytes_max: 128 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(30),
            retention_interval: Duration::from_secs(30),
            checkpoints: Counter::default(),
        }
    }
}

/// What shards stand on.
pub struct ShardsParts {
    /// Where everything lies.
    pub disk: Arc<dyn Disk>,
    /// The write-ahead log of the broker.
    pub wal: Wal,
    /// The partition logs of the broker.
    pub logs: LogStore,
    /// The other brokers.
    pub(crate) cluster: Cluster,
}

/// How a broker is part of its cluster.
pub(crate) struct Cluster {
    /// The way to the other brokers.
    pub(crate) network: Arc<dyn PeerNetwork>,
    /// What the other brokers reach of this one.
    pub(crate) services: Services,
    /// How fast replicas that are behind are sent what they miss.
    pub(crate) pace: Pace,
    /// Whether this broker makes the cluster, if there is none in its data directory.
    pub(crate) founding: bool,
}

/// What other brokers reach of this one's shards. Made before the shards, so that they can be
/// called from the first moment on.
#[derive(Clone, Default)]
pub(crate) struct Services {
    pub(crate) replicas: Replicas,
    pub(crate) records: RecordServer,
}

impl Services {
    /// As the default, with what is transferred counted, and records sent at a pace.
    pub(crate) fn counted(transfers: TransferMetrics, pace: Pace) -> Self {
        Self {
            replicas: Replicas::counted(transfers.clone()),
            records: RecordServer::new(transfers, pace),
        }
    }
}

impl ShardsParts {
    /// For a broker that is alone.
    pub fn alone(disk: Arc<dyn Disk>, wal: Wal, logs: LogStore) -> Self {
        Self {
            disk,
            wal,
            logs,
            cluster: Cluster {
                network: Arc::new(Alone),
                services: Services::default(),
                pace: Pace::default(),
                founding: true,
            },
        }
    }
}

/// All shards of a broker. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    shared: Arc<Shared>,
}

struct Shared {
    broker: BrokerId,
    options: ShardsOptions,
    catalog: Catalog,
    /// The data shards that have a replica here.
    data: DataShards,
    /// What data shards are opened with.
    parts: DataShardParts,
    logs: LogStore,
    leaders: Leaders,
    checkpointer: Checkpointer,
    upkeep: Upkeep,
    /// Data shards that are not open, since their files are damaged.
    unrepaired: Mutex<BTreeSet<ShardId>>,
    /// Held by the one that opens or closes a replica. Whether none is opened any more.
    opening: tokio::sync::Mutex<bool>,
    clustered: AtomicBool,
    /// Why others do not reach this broker, as far as they have said.
    unreachable: Mutex<Option<String>>,
}

/// The data shards of a broker, as they come and go.
type DataShards = Arc<RwLock<BTreeMap<ShardId, DataShard>>>;

impl Shards {
    /// Opens all shards as of their last checkpoints, and starts to apply what came after. A new
    /// cluster's shards are made.
    pub async fn open(options: ShardsOptions, parts: ShardsParts) -> Result<Self, ShardError> {
        let ShardsParts {
            disk,
            wal,
            logs,
            cluster,
        } = parts;
        let dir = options.dir.clone();
        disk.create_dir_all(&dir)
            .map_err(|source| ShardError::Dir {
                dir: dir.clone(),
                source,
            })?;
        let broker = BrokerId(options.broker_id);
        let mark = files::founded(&options);
        let founded = read_file(&*disk, &mark, 1);
        let founded = founded.map_err(|source| ShardError::Dir {
            dir: dir.clone(),
            source,
        })?;
        let founding = cluster.founding && founded.is_none();
        // A founder has it, or will before its first checkpoint.
        let mark_made = cluster.founding.then(|| mark.clone());
        let checkpoint_wanted = Arc::new(Notify::new());
        let admission = Admission::new(
            wal.clone(),
            logs.clone(),
            options.in_flight_bytes_max,
            Arc::clone(&checkpoint_wanted),
        );
        let raft = RaftParts {
            broker,
            wal: wal.clone(),
            admission: None,
            network: cluster.network,
            pace: cluster.pace,
            replicas: cluster.services.replicas,
            failure: Failure::new(),
            founding,
            left_by: None,
            vouched: None,
        };
        let catalog = Catalog::open(
            CatalogParts {
                disk: Arc::clone(&disk),
                dir: options.dir.clone(),
                shard_count: options.shard_count,
            },
            raft.clone(),
        )
        .await?;
        let data = DataShards::default();
        let groups = Groups {
            catalog: catalog.clone(),
            data: Arc::clone(&data),
            checkpoints: options.checkpoints.clone(),
        };
        if let Err(error) = catalog.ready().await {
            groups.stop().await;
            return Err(error);
        }
        let checkpointer = Checkpointer::start(
            &options,
            groups.clone(),
            (wal.clone(), logs.clone()),
            checkpoint_wanted,
            LostFiles {
                groups: groups.clone(),
                wal: wal.clone(),
                checkpoints: CheckpointFiles::new(Arc::clone(&disk), options.clone(), mark_made),
            },
        );
        let upkeep = Upkeep::start(options.retention_interval, groups.clone());
        let mut parts = DataShardParts {
            raft,
            disk,
            logs: logs.clone(),
            admission,
            records: cluster.services.records,
        };
        let opened = async {
            let unrepaired = open_known(&options, &catalog, &wal, &parts, &data).await?;
            if founding {
                mark_as_founded(&data, wal, &*parts.disk, &mark).await?;
            }
            Ok::<_, ShardError>(unrepaired)
        };
        let unrepaired = match opened.await {
            Ok(unrepaired) => unrepaired,
            Err(error) => {
                upkeep.stop().await;
                checkpointer.stop().await;
                groups.stop().await;
                return Err(error);
            }
        };
        // Whatever is opened from now on is a replica of something that exists.
        parts.raft.founding = false;
        Ok(Self {
            shared: Arc::new(Shared {
                broker,
                options,
                catalog,
                data,
                parts,
                logs,
                leaders: Leaders::default(),
                checkpointer,
                upkeep,
                unrepaired: Mutex::new(unrepaired),
                opening: tokio::sync::Mutex::new(false),
                clustered: AtomicBool::new(false),
                unreachable: Mutex::default(),
            }),
        })
    }

    /// Opens this broker's replica of a data shard. A new one is empty until a leader takes it in.
    pub(crate) async fn open_replica(&self, id: ShardId) -> Result<(), ShardError> {
        let this = self.clone();
        // What has begun is finished, even if nobody waits for it any more.
        let opened = tokio::spawn(async move {
            let shared = &this.shared;
            let is_over = shared.opening.lock().await;
            if *is_over || this.has_replica(id) {
                return Ok(());
            }
            let shard = open_data(&shared.options, id, shared.parts.clone()).await?;
            shard.group().keep_time(this.is_clustered());
            shared.data.write().insert(id, shard);
            Ok(())
        });
        opened
            .await
            .map_err(|error| ShardError::start(id, &error))?
    }

    /// Whether this broker has a replica of a data shard: open, or closed until it is repaired.
    pub(crate) fn has_replica(&self, id: ShardId) -> bool {
        self.data(id).is_some() || self.shared.unrepaired.lock().contains(&id)
    }

    /// Gives up this broker's replica of a data shard, with its records, if the leader confirms
    /// that it is elsewhere now. Otherwise it stays as it is.
    pub(crate) async fn give_replica_up(
        &self,
        id: ShardId,
        leader: BrokerId,
    ) -> Result<(), ShardError> {
        let Some(shard) = self.data(id) else {
            return Ok(());
        };
        let Some(left) = shard.group().leave(leader).await else {
            return Ok(());
        };
        let this = self.clone();
        // A removal that has begun is finished, even if nobody waits for it any more.
        let removed = tokio::spawn(async move {
            let shared = &this.shared;
            let (_one, left) = (shared.opening.lock().await, left);
            this.remember_left(id, left.by).await?;
            shared.data.write().remove(&id);
            shard.discard().await?;
            let disk = Arc::clone(&shared.parts.disk);
            remove_checkpoint(&shared.options, id, disk).await
        });
        removed
            .await
            .map_err(|error| ShardError::start(id, &error))?
    }

    /// Whether there are other brokers: then leaders have to show that they are alive.
    pub(crate) fn set_clustered(&self, clustered: bool) {
        if self.shared.clustered.swap(clustered, Ordering::SeqCst) == clustered {
            return;
        }
        for shard in self.all_data() {
            shard.group().keep_time(clustered);
        }
        self.shared.catalog.group().keep_time(clustered);
    }

    fn is_clustered(&self) -> bool {
        self.shared.clustered.load(Ordering::SeqCst)
    }

    /// Waits until all that was acknowledged before the start can be read again, and new work is
    /// taken. Shards that other brokers have replicas of are not waited for.
    pub async fn ready(&self) -> Result<(), ShardError> {
        let data = self.all_data();
        try_join_all(data.iter().map(|shard| shard.group().ready())).await?;
        let _one = self.shared.opening.lock().await;
        self.remove_leftovers().await;
        Ok(())
    }

    /// Removes the files of deleted partitions, once all others are open; whoever opens or closes
    /// replicas calls this.
    async fn remove_leftovers(&self) {
        if !self.unrepaired().is_empty() {
            return;
        }
        let logs = self.shared.logs.clone();
        let cleaned = crate::executor::spawn_blocking(move || logs.remove_unopened()).await;
        if let Err(error) = cleaned {
            tracing::error!("cannot clean up after deleted partitions: {error}");
        }
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// This broker.
    pub fn broker(&self) -> BrokerId {
        self.shared.broker
    }

    /// The shard that a partition lives in: fixed, so that every broker finds it alike. The
    /// partitions of a topic are spread evenly.
    pub fn shard_of(&self, partition: PartitionId) -> ShardId {
        // A catalog that is not there yet has no partitions either.
        let count = u64::from(self.shared.catalog.snapshot().shard_count.max(1));
        ShardId(1 + (partition.topic.0.wrapping_add(partition.index.into()) % count) as u32)
    }

    /// A data shard; `None` if it has no replica here.
    pub fn data(&self, shard: ShardId) -> Option<DataShard> {
        self.shared.data.read().get(&shard).cloned()
    }

    /// The shard that a partition lives in; `None` if it has no replica here.
    pub fn data_of(&self, partition: PartitionId) -> Option<DataShard> {
        self.data(self.shard_of(partition))
    }

    /// All data shards that have a replica here.
    pub fn all_data(&self) -> Vec<DataShard> {
        self.shared.data.read().values().cloned().collect()
    }

    /// The broker that leads a shard, as far as this one knows.
    pub fn leader_of(&self, shard: ShardId) -> Option<BrokerId> {
        self.leadership(shard).0
    }

    /// The leader of the latest term of a shard that this broker knows of, and that term.
    pub(crate) fn leadership(&self, shard: ShardId) -> (Option<BrokerId>, u64) {
        let seen = match self.data(shard) {
            Some(data) => data.group().leader(),
            None if shard == CATALOG_SHARD => self.shared.catalog.group().leader(),
            None => (None, 0),
        };
        self.shared.leaders.latest(shard, seen)
    }

    /// Where the data shards are, as far as this broker knows.
    pub fn located(&self) -> Vec<ShardMetadata> {
        let state = self.shared.catalog.snapshot();
        let placed = state.placement.iter();
        placed
            .map(|(shard, replicas)| {
                let (leader, term) = self.leadership(*shard);
                ShardMetadata {
                    id: *shard,
                    term,
                    leader,
                    replicas: replicas.clone(),
                }
            })
            .collect()
    }

    /// What other brokers told of leaders.
    pub(crate) fn leaders(&self) -> &Leaders {
        &self.shared.leaders
    }

    /// Why the shards can go on no longer, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared.parts.raft.failure.get()
    }

    /// Makes the shards fail for a reason that is not theirs.
    pub(crate) fn fail(&self, why: impl Into<String>) {
        self.shared.parts.raft.failure.report(why);
    }

    /// Waits for a failure after which the shards cannot go on; the broker should then stop.
    pub async fn failed(&self) -> String {
        self.shared.parts.raft.failure.wait().await
    }

    /// Takes a checkpoint of every shard that has changed.
    pub async fn checkpoint(&self) -> std::io::Result<()> {
        self.shared.checkpointer.checkpoint_all().await
    }

    /// Takes checkpoints and stops all shards. Appends that are still on their way fail; callers
    /// drain them before.
    pub async fn shutdown(&self) {
        self.stop_tasks().await;
        if self.failure().is_none()
            && let Err(error) = self.checkpoint().await
        {
            tracing::warn!("no checkpoint at shutdown, the next start takes longer: {error}");
        }
        self.stop_groups().await;
    }

    async fn stop_tasks(&self) {
        self.shared.upkeep.stop().await;
        self.shared.checkpointer.stop().await;
    }

    async fn stop_groups(&self) {
        // Whoever opens or removes a replica gets it done before.
        let mut is_over = self.shared.opening.lock().await;
        *is_over = true;
        self.shared.checkpointer.groups().stop().await;
    }

    /// Stops without a checkpoint.
    #[cfg(test)]
    pub(crate) async fn kill(&self) {
        self.stop_tasks().await;
        self.stop_groups().await;
    }
}
