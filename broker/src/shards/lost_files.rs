//! Looks whether the files of the write-ahead log and the checkpoints are still there.

use std::io;

use super::{checkpoint_files::CheckpointFiles, groups::Groups};
use crate::wal::Wal;

/// What is looked after.
pub(super) struct LostFiles {
    pub(super) groups: Groups,
    pub(super) wal: Wal,
    pub(super) checkpoints: CheckpointFiles,
}

impl LostFiles {
    /// Makes up for files that somebody has removed, as far as that can be done: what they held is
    /// still in memory, or in other files.
    pub(super) async fn look(&self) -> io::Result<()> {
        let wal = self.wal.clone();
        let looked = crate::executor::spawn_blocking(move || wal.look_for_files()).await;
        let wal_lacks_some = looked
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let with_checkpoint = self.groups.all().filter(|group| group.has_checkpoint());
        let with_checkpoint = with_checkpoint.map(|group| group.shard()).collect();
        let files = self.checkpoints.clone();
        let looked = crate::executor::spawn_blocking(move || files.gone(with_checkpoint)).await;
        let gone = looked.map_err(io::Error::other)??;
        for group in self.groups.all() {
            let is_gone = gone.contains(&group.shard());
            if is_gone || wal_lacks_some && group.has_changed() {
                self.groups.checkpoint(&group).await?;
            }
            if wal_lacks_some {
                self.groups.release_log(&group).await?;
            }
        }
        Ok(())
    }
}
