//! All shards of a broker, the catalog among them: opened together, checkpointed in turn, and
//! stopped together.

mod checkpointer;

#[cfg(test)]
pub(crate) mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use flumen_protocol::ids::{PartitionId, ShardId};
use futures_util::future::try_join_all;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use self::checkpointer::Checkpointer;
use crate::{
    catalog::{CATALOG_SHARD, Catalog, CatalogParts},
    disk::Disk,
    log::LogStore,
    shard::{
        DataShard, ShardError,
        raft::{Admission, DataShardParts, Failure, GroupParts, NoPeers, PeerNetwork},
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

/// All shards of a broker. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    shared: Arc<Shared>,
}

struct Shared {
    catalog: Catalog,
    data: Vec<DataShard>,
    logs: LogStore,
    failure: Failure,
    checkpointer: Checkpointer,
}

impl Shards {
    /// Opens all shards as of their last checkpoints, and starts to apply what came after.
    pub async fn open(
        options: ShardsOptions,
        disk: Arc<dyn Disk>,
        wal: Wal,
        logs: LogStore,
    ) -> Result<Self, ShardError> {
        let dir = options.dir.clone();
        disk.create_dir_all(&dir)
            .map_err(|source| ShardError::Dir { dir, source })?;
        let failure = Failure::new();
        let checkpoint_wanted = Arc::new(Notify::new());
        let admission = Admission::new(
            wal.clone(),
            logs.clone(),
            options.in_flight_bytes_max,
            Arc::clone(&checkpoint_wanted),
        );
        let network: Arc<dyn PeerNetwork> = Arc::new(NoPeers);
        let open = (1..=options.shard_count).map(|id| {
            DataShard::open(DataShardParts {
                broker: options.broker_id,
                id: ShardId(id),
                checkpoint: options.dir.join(format!("shard-{id}.checkpoint")),
                disk: Arc::clone(&disk),
                wal: wal.clone(),
                logs: logs.clone(),
                admission: admission.clone(),
                network: Arc::clone(&network),
                failure: failure.clone(),
            })
        });
        let catalog = Catalog::open(
            CatalogParts {
                disk: Arc::clone(&disk),
                dir: options.dir.clone(),
                wal: wal.clone(),
            },
            |machine| GroupParts {
                broker: options.broker_id,
                shard: CATALOG_SHARD,
                wal: wal.clone(),
                machine,
                network: Arc::clone(&network),
                failure: failure.clone(),
            },
        );
        let (catalog, data) = tokio::try_join!(catalog, try_join_all(open))?;
        let checkpointer = Checkpointer::start(
            &options,
            catalog.clone(),
            data.clone(),
            wal.clone(),
            checkpoint_wanted,
        );
        Ok(Self {
            shared: Arc::new(Shared {
                catalog,
                data,
                logs,
                failure,
                checkpointer,
            }),
        })
    }

    /// Waits until all that was acknowledged before the start can be read again, and new work is
    /// taken.
    pub async fn ready(&self) -> Result<(), ShardError> {
        let data = self.shared.data.iter().map(|shard| shard.group().ready());
        tokio::try_join!(self.shared.catalog.ready(), try_join_all(data))?;
        // All partitions are open now; what else there is belongs to deleted ones.
        let logs = self.shared.logs.clone();
        let cleaned = crate::executor::spawn_blocking(move || logs.remove_unopened()).await;
        if let Err(error) = cleaned {
            tracing::error!("cannot clean up after deleted partitions: {error}");
        }
        Ok(())
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// The shard that a partition lives in: fixed, so that every broker finds it alike. The
    /// partitions of a topic are spread evenly.
    pub fn shard_of(&self, partition: PartitionId) -> ShardId {
        let count = self.shared.data.len() as u64;
        ShardId(1 + (partition.topic.0.wrapping_add(partition.index.into()) % count) as u32)
    }

    /// A data shard; `None` if there is none of that id.
    pub fn data(&self, shard: ShardId) -> Option<&DataShard> {
        let at = shard.0.checked_sub(1)?;
        self.shared.data.get(at as usize)
    }

    /// The shard that a partition lives in.
    pub fn data_of(&self, partition: PartitionId) -> &DataShard {
        let at = self.shard_of(partition).0 - 1;
        &self.shared.data[at as usize]
    }

    /// All data shards.
    pub fn all_data(&self) -> &[DataShard] {
        &self.shared.data
    }

    /// Why the shards can go on no longer, if so.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.get()
    }

    /// Waits for a failure after which the shards cannot go on; the broker should then stop.
    pub async fn failed(&self) -> String {
        self.shared.failure.wait().await
    }

    /// Takes a checkpoint of every shard that has changed.
    pub async fn checkpoint(&self) -> std::io::Result<()> {
        self.shared.checkpointer.checkpoint_all().await
    }

    /// Takes checkpoints and stops all shards. Appends that are still on their way fail; callers
    /// drain them before.
    pub async fn shutdown(&self) {
        self.shared.checkpointer.stop().await;
        if self.failure().is_none()
            && let Err(error) = self.checkpoint().await
        {
            tracing::warn!("no checkpoint at shutdown, the next start takes longer: {error}");
        }
        self.stop_groups().await;
    }

    async fn stop_groups(&self) {
        let data = self.shared.data.iter().map(DataShard::group);
        for group in data.chain([self.shared.catalog.group()]) {
            group.stop().await;
        }
    }

    /// Stops without a checkpoint.
    #[cfg(test)]
    pub(crate) async fn kill(&self) {
        self.shared.checkpointer.stop().await;
        self.stop_groups().await;
    }
}
