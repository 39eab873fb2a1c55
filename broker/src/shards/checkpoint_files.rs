//! Whether the files in the shards' directory are still there while the broker runs.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use flumen_protocol::ids::ShardId;

use super::{ShardsOptions, files};
use crate::disk::{Disk, write_file_atomically};

/// The files in the shards' directory.
#[derive(Clone)]
pub(super) struct CheckpointFiles {
    disk: Arc<dyn Disk>,
    options: ShardsOptions,
    /// The mark of a broker that has made its shards, if it has.
    mark: Option<PathBuf>,
}

impl CheckpointFiles {
    pub(super) fn new(disk: Arc<dyn Disk>, options: ShardsOptions, mark: Option<PathBuf>) -> Self {
        Self {
            disk,
            options,
            mark,
        }
    }

    /// Those of the shards, which have checkpoints, whose files are gone. What they need to be
    /// written anew is seen to. Blocks.
    pub(super) fn gone(&self, mut shards: BTreeSet<ShardId>) -> io::Result<BTreeSet<ShardId>> {
        let mut failed = Ok(());
        shards.retain(|shard| match self.lacks(*shard) {
            Ok(lacks) => lacks,
            Err(error) => {
                failed = Err(error);
                false
            }
        });
        failed.map(|()| shards)
    }

    fn lacks(&self, shard: ShardId) -> io::Result<bool> {
        let path = files::checkpoint(&self.options, shard);
        if !self.is_gone(&path)? {
            return Ok(false);
        }
        tracing::error!(path = %path.display(), "the checkpoint is gone; it is taken anew");
        self.disk.create_dir_all(&self.options.dir)?;
        if let Some(mark) = &self.mark
            && self.is_gone(mark)?
        {
            write_file_atomically(&*self.disk, mark, b"")?;
        }
        Ok(true)
    }

    fn is_gone(&self, path: &Path) -> io::Result<bool> {
        match self.disk.open(path) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", path.display()),
            )),
        }
    }
}
