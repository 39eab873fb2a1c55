//! The catalog under Raft.

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use flumen_protocol::{ids::BrokerId, plugin::Digest};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    CatalogError,
    command::{CatalogCommand, CatalogResponse},
    plugins::{self, PluginFiles},
    state::CatalogState,
};
use crate::{
    disk::{Disk, disk_work, disk_work_once_there_is_room},
    peer::PeerNetwork,
    shard::{
        checkpoint_file,
        raft::{Applied, Checkpoint, Command, Entry, Machine, Payload, Response, ShardError},
    },
};

#[cfg(test)]
mod tests;

/// What a command is answered, in the Raft group's own words.
pub(super) type Outcome = Result<CatalogResponse, CatalogError>;

pub(super) struct CatalogMachine {
    broker: BrokerId,
    network: Arc<dyn PeerNetwork>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    plugins: Arc<PluginFiles>,
    image: Mutex<Image>,
    /// Plugins of a catalog that is about to be taken over. Locked after `image`.
    awaited: Mutex<Vec<Digest>>,
    published: watch::Sender<Arc<CatalogState>>,
    last_checkpoint: Mutex<Option<Checkpoint>>,
    /// One checkpoint at a time.
    checkpointing: Mutex<()>,
}

/// A checkpoint of the catalog: all of it.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Image {
    applied: Applied,
    state: Arc<CatalogState>,
}

/// Whether the bytes are what a checkpoint of the catalog holds.
pub(super) fn is_image(bytes: &[u8]) -> bool {
    postcard::from_bytes::<Image>(bytes).is_ok()
}

impl CatalogMachine {
    pub(super) fn open(
        broker: BrokerId,
        network: Arc<dyn PeerNetwork>,
        disk: Arc<dyn Disk>,
        path: PathBuf,
        plugins: Arc<PluginFiles>,
    ) -> Result<Self, ShardError> {
        let saved = checkpoint_file::load(&*disk, &path)?;
        let image: Image = match &saved {
            Some(body) => checkpoint_file::decode(&path, body)?,
            None => Image::default(),
        };
        let last_checkpoint = saved.map(|bytes| Checkpoint {
            applied: image.applied.clone(),
            bytes,
        });
        Ok(Self {
            broker,
            network,
            disk,
            path,
            plugins,
            published: watch::Sender::new(Arc::clone(&image.state)),
            image: Mutex::new(image),
            awaited: Mutex::default(),
            last_checkpoint: Mutex::new(last_checkpoint),
            checkpointing: Mutex::new(()),
        })
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<CatalogState>> {
        self.published.subscribe()
    }

    fn apply_command(&self, image: &mut Image, command: &[u8], attachment: &Bytes) -> Outcome {
        let command: CatalogCommand = postcard::from_bytes(command)
            .map_err(|error| CatalogError::Internal(error.to_string()))?;
        let brought = match &command {
            CatalogCommand::DeployPlugin { info } | CatalogCommand::UpgradePlugin { info } => {
                Some(info.digest)
            }
            _ => None,
        };
        let mut state = CatalogState::clone(&image.state);
        let response = state.apply(command)?;
        if let Some(digest) = brought {
            self.plugins.insert(digest, attachment.clone());
        }
        image.state = Arc::new(state);
        self.published.send_replace(Arc::clone(&image.state));
        Ok(response)
    }

    /// Those of the plugins whose bytes are not here. What is here stays until the catalog that wants
    /// them is taken over, though the one before it may have dropped them: bytes take a while to come,
    /// and a checkpoint may be taken meanwhile. Blocks on the disk.
    fn await_plugins(&self, wanted: Vec<Digest>) -> Vec<Digest> {
        // With the lock, no checkpoint is just about to remove what is found here.
        let _image = self.image.lock();
        self.awaited.lock().clone_from(&wanted);
        let missing = wanted.into_iter();
        missing
            .filter(|digest| !self.plugins.has(*digest))
            .collect()
    }

    fn save(&self, image: &Image) -> io::Result<Checkpoint> {
        let wanted: Vec<_> = image.state.digests().collect();
        self.plugins.write(&wanted)?;
        let bytes: Bytes = postcard::to_allocvec(image)
            .map_err(io::Error::other)?
            .into();
        checkpoint_file::save(&*self.disk, &self.path, &bytes)?;
        let checkpoint = Checkpoint {
            applied: image.applied.clone(),
            bytes,
        };
        *self.last_checkpoint.lock() = Some(checkpoint.clone());
        // Commands are applied under this lock, so that none brings bytes in between.
        let now = self.image.lock();
        let mut in_use: Vec<_> = now.state.digests().collect();
        in_use.extend(&*self.awaited.lock());
        self.plugins.clean(&wanted, &in_use);
        Ok(checkpoint)
    }
}

impl Machine for CatalogMachine {
    fn applied(&self) -> Applied {
        self.image.lock().applied.clone()
    }

    fn apply(&self, entry: &Entry) -> io::Result<Response> {
        let mut image = self.image.lock();
        image.applied.note(entry);
        let Payload::Normal(command) = &entry.payload else {
            return Ok(Response::None);
        };
        let outcome = match &**command {
            Command::Custom {
                command,
                attachment,
            } => self.apply_command(&mut image, command, attachment),
            other => Err(CatalogError::Internal(format!("{other} is none of its"))),
        };
        let bytes = postcard::to_allocvec(&outcome).map_err(io::Error::other)?;
        Ok(Response::Custom(bytes))
    }

    fn checkpoint(&self) -> io::Result<Checkpoint> {
        let _one = self.checkpointing.lock();
        let image = self.image.lock().clone();
        self.save(&image)
    }

    fn last_checkpoint(&self) -> Option<Checkpoint> {
        self.last_checkpoint.lock().clone()
    }

    fn install(
        self: Arc<Self>,
        checkpoint: Checkpoint,
        replicas: Vec<BrokerId>,
    ) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            let image: Image = postcard::from_bytes(&checkpoint.bytes).map_err(io::Error::other)?;
            let mut others = replicas;
            others.retain(|broker| *broker != self.broker);
            let this = Arc::clone(&self);
            let wanted: Vec<_> = image.state.digests().collect();
            let missing = disk_work(move || Ok(this.await_plugins(wanted)));
            let mut brought = Vec::new();
            for digest in missing.await? {
                let bytes = plugins::fetch(&*self.network, &others, digest).await;
                brought.extend(bytes.map(|bytes| (digest, bytes)));
            }
            let taken = move || {
                let _one = self.checkpointing.lock();
                // Not earlier: a checkpoint of what was here before lets go of what it does not name.
                for (digest, bytes) in &brought {
                    self.plugins.insert(*digest, bytes.clone());
                }
                *self.image.lock() = image.clone();
                self.awaited.lock().clear();
                self.published.send_replace(Arc::clone(&image.state));
                self.save(&image).map(drop)
            };
            disk_work_once_there_is_room("the catalog that came from another replica", taken).await
        })
    }
}

/// The messages of this room, for the test that pins them.
#[cfg(test)]
pub(crate) fn add_messages(schema: &mut flumen_schema::Schema) {
    schema.add::<CatalogCommand>();
    schema.add::<Outcome>();
    schema.add::<Image>();
    schema.add::<flumen_protocol::plugin::Digest>();
}
