//! What a broker remembers of replicas that it gave up, in case that it is taken in again.
//!
//! Such a replica begins with nothing, and gets the log from its first entry on. On the way it
//! knows members that counted it in long ago, the founder even as the only one, but no longer what
//! it confirmed to them. So it remembers the entry that left it out, which is committed: until it
//! has that one again, it votes for nobody and does not stand for election.

use std::{io, path::Path, sync::Arc};

use flumen_protocol::ids::ShardId;

use super::{Shards, ShardsOptions, files};
use crate::{
    disk::{Disk, read_file, write_file_atomically},
    shard::{ShardError, raft::DataShardParts},
};

/// The file has the index of an entry.
const FILE_BYTES: usize = size_of::<u64>();

impl Shards {
    /// Remembers the entry that left a replica out, before anything of the replica goes.
    pub(super) async fn remember_left(&self, id: ShardId, index: u64) -> Result<(), ShardError> {
        let (options, disk) = (&self.shared.options, Arc::clone(&self.shared.parts.disk));
        let path = files::left(options, id);
        let write = move || write_file_atomically(&*disk, &path, &index.to_le_bytes());
        files::on_disk(options, write).await
    }
}

/// What a replica stands on, with what is remembered of the one that was here before.
pub(super) async fn with_left(
    options: &ShardsOptions,
    id: ShardId,
    mut parts: DataShardParts,
) -> Result<DataShardParts, ShardError> {
    let (disk, path) = (Arc::clone(&parts.disk), files::left(options, id));
    parts.raft.left_by = files::on_disk(options, move || read(&*disk, &path)).await?;
    Ok(parts)
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Option<u64>> {
    let Some(bytes) = read_file(disk, path, FILE_BYTES)? else {
        return Ok(None);
    };
    let index = bytes.try_into().map_err(|_| {
        let reason = format!(
            "{} is damaged; replace the broker: remove it from the cluster, and let it join with \
             an empty data directory",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, reason)
    })?;
    Ok(Some(u64::from_le_bytes(index)))
}
