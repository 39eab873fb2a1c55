//! The files in the shards' directory: what each is for, where, and how tasks get to them.

use std::{io, path::PathBuf};

use flumen_protocol::ids::ShardId;

use super::ShardsOptions;
use crate::{
    catalog::{CATALOG_SHARD, CHECKPOINT_FILE},
    disk::disk_work,
    shard::ShardError,
};

/// Says that this broker's first shards are made. A new shard without it belongs to a new cluster;
/// with it, the shard's replicas are elsewhere, and it must not be made once more.
pub(super) fn founded(options: &ShardsOptions) -> PathBuf {
    options.dir.join("founded")
}

/// The last checkpoint of a shard.
pub(super) fn checkpoint(options: &ShardsOptions, id: ShardId) -> PathBuf {
    if id == CATALOG_SHARD {
        return options.dir.join(CHECKPOINT_FILE);
    }
    options.dir.join(format!("shard-{id}.checkpoint"))
}

/// Says that files of a shard are damaged, or half repaired.
pub(super) fn damaged(options: &ShardsOptions, id: ShardId) -> PathBuf {
    options.dir.join(format!("shard-{id}.damaged"))
}

/// The entry that left this broker's replica of a shard out.
pub(super) fn left(options: &ShardsOptions, id: ShardId) -> PathBuf {
    options.dir.join(format!("shard-{id}.left"))
}

/// Does something with these files, which blocks on the disk.
pub(super) async fn on_disk<T: Send + 'static>(
    options: &ShardsOptions,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ShardError> {
    disk_work(work).await.map_err(|source| ShardError::Dir {
        dir: options.dir.clone(),
        source,
    })
}
