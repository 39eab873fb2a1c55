//! What a broker opens when it starts.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use flumen_protocol::ids::ShardId;
use futures_util::future::{join_all, try_join_all};

use super::{DataShards, ShardsOptions, files, left::with_left, repair};
use crate::{
    catalog::{CATALOG_SHARD, Catalog},
    disk::{Disk, remove_file_durably, write_file_atomically},
    executor,
    shard::{DataShard, ShardError, raft::DataShardParts},
    wal::Wal,
};

/// Opens the shards that were here before, or are here by the catalog, and gives those that have
/// damaged files, and replicas elsewhere. All that open are in `data`, also after an error.
pub(super) async fn open_known(
    options: &ShardsOptions,
    catalog: &Catalog,
    wal: &Wal,
    parts: &DataShardParts,
    data: &DataShards,
) -> Result<BTreeSet<ShardId>, ShardError> {
    let state = catalog.snapshot();
    let here = state.shards_of(parts.raft.broker);
    let before = wal.shards().into_iter();
    let before = before.filter(|id| *id != CATALOG_SHARD && wal.shard(*id).state().last.is_some());
    let known: BTreeSet<_> = here.chain(before).collect();
    let opened = known.into_iter().map(|id| {
        let elsewhere = repair::others_of(&state, id, parts.raft.broker);
        async move {
            let opened = repair::open_unless_damaged(options, id, parts, !elsewhere.is_empty());
            (id, opened.await)
        }
    });
    let mut unrepaired = Ok(BTreeSet::new());
    // One that fails ends none half-way: all that have begun to run have to be stopped.
    for (id, opened) in join_all(opened).await {
        match opened {
            Ok(Some(shard)) => drop(data.write().insert(id, shard)),
            Ok(None) => drop(unrepaired.as_mut().map(|unrepaired| unrepaired.insert(id))),
            Err(error) => unrepaired = unrepaired.and(Err(error)),
        }
    }
    unrepaired
}

/// Remembers that the first shards are made. Whatever the sync policy is, they are durable before:
/// a shard that a crash forgot and the mark remembers would never have a leader again.
pub(super) async fn mark_as_founded(
    data: &DataShards,
    wal: Wal,
    disk: &dyn Disk,
    mark: &Path,
) -> Result<(), ShardError> {
    let shards: Vec<_> = data.read().values().cloned().collect();
    try_join_all(shards.iter().map(|shard| shard.group().ready())).await?;
    let synced = executor::spawn_blocking(move || wal.sync()).await;
    let synced = synced.map_err(|error| ShardError::start(CATALOG_SHARD, &error))?;
    synced.map_err(|error| ShardError::start(CATALOG_SHARD, &error))?;
    let dir = mark.parent().unwrap_or(mark).to_owned();
    write_file_atomically(disk, mark, b"").map_err(|source| ShardError::Dir { dir, source })
}

pub(super) async fn open_data(
    options: &ShardsOptions,
    id: ShardId,
    parts: DataShardParts,
) -> Result<DataShard, ShardError> {
    let log = parts.raft.wal.shard(id).state();
    if log.last.is_none() && log.vote.is_some() {
        // It was here before and was given up; a crash may have come in between.
        remove_checkpoint(options, id, Arc::clone(&parts.disk)).await?;
    }
    let parts = with_left(options, id, parts).await?;
    DataShard::open(id, files::checkpoint(options, id), parts).await
}

/// Removes the checkpoint of a replica that is given up, durably: were it there again after a loss of
/// power, when the shard has come back, it would be taken for the new replica's.
pub(super) async fn remove_checkpoint(
    options: &ShardsOptions,
    id: ShardId,
    disk: Arc<dyn Disk>,
) -> Result<(), ShardError> {
    let path = files::checkpoint(options, id);
    files::on_disk(options, move || remove_file_durably(&*disk, &path)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{CrashKeep, SimulatedDisk, read_file};

    #[tokio::test]
    async fn a_checkpoint_of_a_replica_that_was_given_up_does_not_come_back() {
        let id = ShardId(3);
        let options = ShardsOptions::new("/shards");
        let path = files::checkpoint(&options, id);
        let mut disk = SimulatedDisk::new();
        disk.create_dir_all(&options.dir).unwrap();
        // The first time there is none, as when a crash came in between.
        for _ in 0..2 {
            let removed = remove_checkpoint(&options, id, Arc::new(disk.clone()));
            removed.await.unwrap();
            disk = disk.crash(CrashKeep::Nothing);
            assert_eq!(read_file(&disk, &path, 10).unwrap(), None);
            write_file_atomically(&disk, &path, b"of old").unwrap();
        }
        disk.remove_file(&path).unwrap();
        let removed = remove_checkpoint(&options, id, Arc::new(disk.clone()));
        removed.await.unwrap();
        let disk = disk.crash(CrashKeep::Nothing);
        assert_eq!(read_file(&disk, &path, 10).unwrap(), None);
    }
}
