//! The file that holds a shard's checkpoint.
//!
//! ```text
//! +------------+---------+---------+---------------+
//! | "FLUMENCK" | version | CRC-32C | postcard body |
//! +------------+---------+---------+---------------+
//! ```
//! It is written anew beside the old one, synced and renamed, so that there is always one that
//! is whole.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::disk::{Disk, read_file, write_file_atomically};

const MAGIC: &[u8; 8] = b"FLUMENCK";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 8 + 4 + 4;

/// Bytes of a checkpoint, at most; far above what 100,000 partitions take.
pub(super) const CHECKPOINT_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Why a checkpoint cannot be used. There is only one, and the Raft log before it is gone: the
/// shard cannot start without it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read the checkpoint {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The bytes are not those that were written.
    #[error(
        "the checkpoint {path} is damaged ({reason}); restore the file; in a cluster, \
         `flumen cluster remove` this broker, empty its data directory, and let it join as a new \
         one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// Written by a later version.
    #[error("the checkpoint {path} has format version {version}; this build reads {VERSION}")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// Makes `body` the checkpoint at `path`.
pub(crate) fn save(disk: &dyn Disk, path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = BytesMut::with_capacity(HEADER_LEN + body.len());
    file.put_slice(MAGIC);
    file.put_u32_le(VERSION);
    file.put_u32_le(crc_fast::crc32_iscsi(body));
    file.put_slice(body);
    let saved = write_file_atomically(disk, path, &file);
    saved.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The body of the checkpoint at `path`, if there is one.
pub(crate) fn load(disk: &dyn Disk, path: &Path) -> Result<Option<Bytes>, CheckpointError> {
    let mut file: Bytes = match read_file(disk, path, CHECKPOINT_BYTES_MAX) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => bytes.into(),
        Err(source) => {
            let path = path.to_owned();
            return Err(CheckpointError::Io { path, source });
        }
    };
    let damaged = |reason: &str| CheckpointError::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    if file.len() < HEADER_LEN || &file[..MAGIC.len()] != MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    file.advance(MAGIC.len());
    let version = file.get_u32_le();
    if version != VERSION {
        let path = path.to_owned();
        return Err(CheckpointError::UnknownVersion { path, version });
    }
    let stored = file.get_u32_le();
    if crc_fast::crc32_iscsi(&file) != stored {
        return Err(damaged("its checksum does not fit"));
    }
    Ok(Some(file))
}

/// The body of a checkpoint as a value.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(
    path: &Path,
    body: &[u8],
) -> Result<T, CheckpointError> {
    postcard::from_bytes(body).map_err(|error| CheckpointError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
