//! The bytes of plugins, as files that are named by their digest.
//!
//! Bytes come with a command of the Raft log. They stay in memory, and protected by the log,
//! until the next checkpoint has written them; so applying a command touches no disk.

mod transfer;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use flumen_protocol::{limits::PLUGIN_BYTES_MAX, plugin::Digest, topic::Name};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

pub use self::transfer::PluginServer;
pub(super) use self::transfer::fetch;
use crate::disk::{Disk, read_file, write_file_atomically};

/// The ending of a file with a plugin's bytes.
const EXTENSION: &str = "wasm";

pub(super) struct PluginFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    unwritten: Mutex<BTreeMap<Digest, Bytes>>,
}

/// Why a plugin's bytes are not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginBytesError {
    /// The file is missing or cannot be read.
    #[error("cannot read the bytes of plugin {name} from {path}: {source}")]
    Io {
        /// The plugin.
        name: Name,
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The file does not hold what was deployed.
    #[error(
        "{path} does not hold what was deployed as plugin {name}; upgrade the plugin with the bytes that it should have"
    )]
    Damaged {
        /// The plugin.
        name: Name,
        /// The file.
        path: PathBuf,
    },
}

/// The SHA-256 of a plugin's bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

impl PluginFiles {
    pub(super) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        disk.create_dir_all(&dir)?;
        Ok(Self {
            disk,
            dir,
            unwritten: Mutex::default(),
        })
    }

    /// Takes bytes that a command brought.
    pub(super) fn insert(&self, digest: Digest, bytes: Bytes) {
        self.unwritten.lock().insert(digest, bytes);
    }

    /// Whether the bytes are here. Blocks on the disk.
    pub(super) fn has(&self, wanted: Digest) -> bool {
        self.unwritten.lock().contains_key(&wanted) || self.disk.open(&self.path(wanted)).is_ok()
    }

    /// The bytes of a plugin, whatever its name. Blocks on the disk.
    fn read_by_digest(&self, wanted: Digest) -> io::Result<Bytes> {
        if let Some(bytes) = self.unwritten.lock().get(&wanted) {
            return Ok(bytes.clone());
        }
        let bytes = read_file(&*self.disk, &self.path(wanted), PLUGIN_BYTES_MAX)?;
        Ok(bytes.ok_or(io::ErrorKind::NotFound)?.into())
    }

    /// The bytes of a plugin. Blocks on the disk.
    pub(super) fn read(&self, name: &Name, wanted: Digest) -> Result<Bytes, PluginBytesError> {
        let path = self.path(wanted);
        let bytes = self.read_by_digest(wanted);
        let bytes = bytes.map_err(|source| PluginBytesError::Io {
            name: name.clone(),
            path: path.clone(),
            source,
        })?;
        if digest(&bytes) != wanted {
            let name = name.clone();
            return Err(PluginBytesError::Damaged { name, path });
        }
        Ok(bytes)
    }

    /// Makes all bytes durable that are `wanted`. Blocks on the disk.
    pub(super) fn write(&self, wanted: &[Digest]) -> io::Result<()> {
        let unwritten = self.unwritten.lock().clone();
        for (digest, bytes) in unwritten {
            if wanted.contains(&digest) {
                write_file_atomically(&*self.disk, &self.path(digest), &bytes)?;
            }
        }
        Ok(())
    }

    /// After a checkpoint that names the `wanted` ones: lets go of their bytes in memory, and of
    /// the files of others. `in_use` names what was deployed since, too. Blocks on the disk.
    pub(super) fn clean(&self, wanted: &[Digest], in_use: &[Digest]) {
        self.unwritten
            .lock()
            .retain(|digest, _| !wanted.contains(digest) && in_use.contains(digest));
        let files = self.disk.list(&self.dir).unwrap_or_default();
        for file in files {
            let stem = file.name().and_then(|name| name.strip_suffix(EXTENSION));
            let digest = stem
                .and_then(|stem| stem.strip_suffix('.'))
                .and_then(|hex| Digest::try_from(hex.to_owned()).ok());
            if let Some(digest) = digest
                && !wanted.contains(&digest)
                && !in_use.contains(&digest)
                && let Err(error) = self.disk.remove_file(&file.path)
            {
                let path = file.path.display();
                tracing::warn!("cannot remove {path}, which no plugin needs: {error}");
            }
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}.{EXTENSION}"))
    }
}
