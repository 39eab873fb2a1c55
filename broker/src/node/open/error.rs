//! Why a broker did not start.

use std::{io, net::SocketAddr, path::PathBuf};

use flumen_protocol::error::WireError;

use crate::{
    admin::AdminError, config::ConfigError, identity::IdentityError, join::JoinError,
    plugin::EngineError, shard::ShardError,
};

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker is not let into the cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The data directory cannot be taken.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The write-ahead log does not open.
    #[error(transparent)]
    Wal(#[from] crate::wal::OpenError),
    /// The partition logs do not open.
    #[error("cannot use {dir} for partition logs: {source}", dir = dir.display())]
    Log {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There was a write-ahead log, and it is gone.
    #[error(
        "the write-ahead log in {} is gone, and acknowledged records with it: mount or restore \
         the directory; to go on with what is left, remove {}",
        dir.display(), mark.display()
    )]
    WalMissing {
        /// Where it should be.
        dir: PathBuf,
        /// The file that says that there was one.
        mark: PathBuf,
    },
    /// A shard does not start.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The plugin engine does not start.
    #[error(transparent)]
    Plugins(#[from] EngineError),
    /// What a crash left undone cannot be finished.
    #[error("cannot bring the partitions to what the catalog says: {0}")]
    Reconcile(WireError),
    /// It failed while it started.
    #[error("{0}")]
    Failed(String),
    /// The address for clients cannot be used.
    #[error("cannot listen on {address} (UDP): {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The admin address cannot be used.
    #[error(transparent)]
    Admin(#[from] AdminError),
}
