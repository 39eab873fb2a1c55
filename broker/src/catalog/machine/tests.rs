use flumen_protocol::ids::ShardId;
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};

use super::*;
use crate::{
    disk::SimulatedDisk,
    peer::Alone,
    shard::raft::{Failure, LogStorage, RaftMachine, TypeConfig},
    wal::{Wal, WalOptions},
};

/// Storage for openraft's own suite: the broker's Raft log under the catalog.
struct Builder;

impl StoreBuilder<TypeConfig, LogStorage, RaftMachine> for Builder {
    async fn build(&self) -> Result<((), LogStorage, RaftMachine), StorageError<TypeConfig>> {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let options = WalOptions {
            segment_bytes: 1 << 20,
            bytes_max: 8 << 20,
            ..WalOptions::new("/wal")
        };
        let wal = Wal::open(Arc::clone(&disk), options, Arc::new(())).unwrap();
        let plugins = PluginFiles::open(Arc::clone(&disk), "/plugins".into()).unwrap();
        let machine = CatalogMachine::open(
            BrokerId(1),
            Arc::new(Alone),
            disk,
            "/checkpoint".into(),
            Arc::new(plugins),
        )
        .unwrap();
        let failure = Failure::new();
        let shard = ShardId(0);
        let storage = LogStorage::open(wal.shard(shard), failure.clone()).unwrap();
        let machine = RaftMachine::new(shard, Arc::new(machine), storage.clone(), failure);
        Ok(((), storage, machine))
    }
}

#[tokio::test]
async fn openraft_finds_its_storage_to_be_as_it_must() {
    Suite::test_all(Builder).await.unwrap();
}
