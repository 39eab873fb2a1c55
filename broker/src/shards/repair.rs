//! Replicas with damaged files: closed, and opened again with the records that other brokers have.
//!
//! ```text
//! a start that misses a file, or a read that finds a damaged batch
//!   the shard is closed, and a mark says so, also to the next start
//!     what is whole is kept, the rest is fetched from the other replicas
//!       the shard is open again: a follower as any other
//! ```
//!
//! In between the broker has no replica for anybody: it neither leads nor votes with a hole. A
//! replica without others is all that there is, and stays as it is.

use std::{collections::BTreeSet, io, path::Path, sync::Arc};

use flumen_protocol::ids::{BrokerId, ShardId};

use super::{Shards, ShardsOptions, files, left::with_left, opening::open_data};
use crate::{
    catalog::CatalogState,
    disk::{Disk, read_file, remove_file_durably, write_file_atomically},
    log::OpenError,
    shard::{DataShard, ShardError, raft::DataShardParts},
};

impl Shards {
    /// Data shards that are not open, since their files are damaged.
    pub(crate) fn unrepaired(&self) -> BTreeSet<ShardId> {
        self.shared.unrepaired.lock().clone()
    }

    /// Open data shards of which a read has found something damaged.
    pub(crate) fn with_damage(&self) -> BTreeSet<ShardId> {
        let partitions = self.shared.logs.damaged().into_iter();
        let shards = partitions.map(|partition| self.shard_of(partition));
        shards.filter(|shard| self.data(*shard).is_some()).collect()
    }

    /// Closes a replica until it is repaired.
    pub(crate) async fn close_damaged(&self, id: ShardId) -> Result<(), ShardError> {
        let Some(shard) = self.data(id) else {
            return Ok(());
        };
        let this = self.clone();
        // What has begun is finished, even if nobody waits for it any more.
        let closed = tokio::spawn(async move {
            let shared = &this.shared;
            let _one = shared.opening.lock().await;
            this.mark(id).await?;
            shared.unrepaired.lock().insert(id);
            shared.data.write().remove(&id);
            shard.close().await
        });
        let closed = closed.await;
        closed.map_err(|error| ShardError::start(id, &error))?
    }

    /// Opens a damaged replica with the records that others have. Takes until it has them all.
    pub(crate) async fn repair(&self, id: ShardId) -> Result<(), ShardError> {
        let shared = &self.shared;
        self.mark(id).await?;
        tracing::warn!(shard = %id, "files are damaged: getting the records from other brokers");
        let path = files::checkpoint(&shared.options, id);
        let parts = with_left(&shared.options, id, shared.parts.clone()).await?;
        let others = || self.others_with(id);
        let repaired = DataShard::repair(id, path, parts, others).await?;
        let this = self.clone();
        let opened = tokio::spawn(async move {
            let shared = &this.shared;
            let is_over = shared.opening.lock().await;
            if *is_over {
                return Ok(());
            }
            let shard = repaired.start().await?;
            shard.group().keep_time(this.is_clustered());
            shared.data.write().insert(id, shard);
            shared.unrepaired.lock().remove(&id);
            this.unmark(id).await?;
            this.remove_leftovers().await;
            tracing::info!(shard = %id, "the records of damaged files are here again");
            Ok(())
        });
        let opened = opened.await;
        opened.map_err(|error| ShardError::start(id, &error))?
    }

    /// Brokers that may have the records of a shard. Its leader has them, also where nobody else is to
    /// have a replica any more, and waits for this one before it goes.
    fn others_with(&self, id: ShardId) -> Vec<BrokerId> {
        let me = self.shared.broker;
        let mut others = others_of(&self.shared.catalog.snapshot(), id, me);
        let leader = self.leader_of(id).filter(|leader| *leader != me);
        others.extend(leader.filter(|leader| !others.contains(leader)));
        others
    }

    /// Remembers, also for the next start, that files of a shard are not what they were.
    async fn mark(&self, id: ShardId) -> Result<(), ShardError> {
        self.on_mark(id, |disk, path| write_file_atomically(disk, path, b""))
            .await
    }

    /// Forgets it, durably: after a loss of power a whole replica would be repaired once more.
    async fn unmark(&self, id: ShardId) -> Result<(), ShardError> {
        self.on_mark(id, remove_file_durably).await
    }

    async fn on_mark(
        &self,
        id: ShardId,
        work: impl FnOnce(&dyn Disk, &Path) -> io::Result<()> + Send + 'static,
    ) -> Result<(), ShardError> {
        let (options, disk) = (&self.shared.options, Arc::clone(&self.shared.parts.disk));
        let path = files::damaged(options, id);
        files::on_disk(options, move || work(&*disk, &path)).await
    }
}

/// The other brokers that have a replica of a shard.
pub(crate) fn others_of(state: &CatalogState, shard: ShardId, broker: BrokerId) -> Vec<BrokerId> {
    let placed = state.placement.get(&shard).into_iter().flatten();
    placed.copied().filter(|other| *other != broker).collect()
}

/// Opens a shard at the start; `None` if it has to be repaired first, and can be.
pub(super) async fn open_unless_damaged(
    options: &ShardsOptions,
    id: ShardId,
    parts: &DataShardParts,
    has_others: bool,
) -> Result<Option<DataShard>, ShardError> {
    let (disk, path) = (Arc::clone(&parts.disk), files::damaged(options, id));
    let marked = files::on_disk(options, move || read_file(&*disk, &path, 1)).await?;
    // What is there may be half repaired, and looks whole.
    if marked.is_some() {
        return Ok(None);
    }
    match open_data(options, id, parts.clone()).await {
        Err(ShardError::Log(error @ (OpenError::Missing { .. } | OpenError::Short { .. })))
            if has_others =>
        {
            tracing::error!(shard = %id, %error, "the replica is repaired from others");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::{CrashKeep, SimulatedDisk},
        shards::tests::Broker,
    };

    #[tokio::test]
    async fn a_mark_and_its_end_outlast_a_loss_of_power() {
        let (mut disk, id) = (SimulatedDisk::new(), ShardId(1));
        for is_damaged in [true, false] {
            let broker = Broker::start(&Arc::new(disk.clone()), 1).await;
            let shards = broker.shards.clone();
            let done = if is_damaged {
                shards.mark(id).await
            } else {
                shards.unmark(id).await
            };
            done.unwrap();
            broker.kill().await;
            disk = disk.crash(CrashKeep::Nothing);
            let path = files::damaged(&shards.shared.options, id);
            let marked = read_file(&disk, &path, 1).unwrap();
            assert_eq!(marked.is_some(), is_damaged);
        }
    }
}
