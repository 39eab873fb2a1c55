//! The catalog: the metadata of the cluster, kept by a Raft group of its own.
//!
//! Reading is a pointer: [`Catalog::snapshot`] gives the state as it is, [`Catalog::watch`] tells
//! of changes; what is not there may be at the leader, which is asked before anybody is told so.
//! Writing goes through the log, and is answered once it is durable and applied. All rules are in
//! [`CatalogState::apply`].

mod command;
mod current;
mod error;
mod machine;
mod plugins;
mod state;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bytes::Bytes;
use flumen_protocol::{
    ids::{BrokerId, ShardId},
    message::{BrokerInfo, ShardStatus},
    plugin::{BindingConfig, PluginInfo, World},
    topic::{Name, TopicChanges, TopicConfig, TopicName},
};
use tokio::sync::watch;

#[cfg(test)]
pub(crate) use self::machine::add_messages;
pub use self::{
    command::{CatalogCommand, CatalogResponse},
    error::CatalogError,
    plugins::{PluginBytesError, PluginServer, digest},
    state::{
        CatalogState, ClusterId, JOIN_TOKENS_MAX, KnownJoinToken, PARTITIONS_MAX, PLUGINS_MAX,
        Plugin, TOPICS_MAX, Topic,
    },
};
use self::{
    current::Checks,
    machine::{CatalogMachine, Outcome},
    plugins::PluginFiles,
};
use crate::{
    clock::now_ms,
    disk::Disk,
    shard::raft::{Command, Group, RaftParts, Response, ShardError},
};

/// Whether the bytes are the checkpoint of a catalog.
pub(crate) fn decode_checkpoint_for_fuzzing(bytes: &[u8]) -> bool {
    machine::is_image(bytes)
}

/// The shard that holds the catalog.
pub const CATALOG_SHARD: ShardId = ShardId(0);

/// The file of the catalog's checkpoint, in the directory of the shards.
pub(crate) const CHECKPOINT_FILE: &str = "catalog.checkpoint";

/// A plugin to be deployed, or a new version of one.
#[derive(Clone, Debug)]
pub struct NewPlugin {
    /// Its name.
    pub name: Name,
    /// The version that its author gave it.
    pub version: String,
    /// What it implements.
    pub world: World,
    /// Its component.
    pub bytes: Bytes,
}

/// The catalog. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
}

struct Shared {
    group: Group,
    /// Set on the broker that may make the cluster.
    founding: Option<Founding>,
    plugins: Arc<PluginFiles>,
    state: watch::Receiver<Arc<CatalogState>>,
    checks: Checks,
}

struct Founding {
    broker: BrokerId,
    shard_count: u32,
}

/// What the catalog stands on, besides its Raft group.
pub(crate) struct CatalogParts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    /// How many data shards a cluster gets that is made here.
    pub(crate) shard_count: u32,
}

impl Catalog {
    /// Opens the catalog as of its last checkpoint.
    pub(crate) async fn open(parts: CatalogParts, raft: RaftParts) -> Result<Self, ShardError> {
        let CatalogParts {
            disk,
            dir,
            shard_count,
        } = parts;
        let (broker, network) = (raft.broker, Arc::clone(&raft.network));
        let open = move || {
            let plugins_dir = dir.join("plugins");
            let plugins = PluginFiles::open(Arc::clone(&disk), plugins_dir.clone());
            let plugins = Arc::new(plugins.map_err(|source| ShardError::Dir {
                dir: plugins_dir,
                source,
            })?);
            let path = dir.join(CHECKPOINT_FILE);
            let machine = CatalogMachine::open(broker, network, disk, path, Arc::clone(&plugins))?;
            Ok::<_, ShardError>((machine, plugins))
        };
        let (machine, plugins) = crate::executor::spawn_blocking(open)
            .await
            .map_err(|error| ShardError::start(CATALOG_SHARD, &error))??;
        let state = machine.watch();
        let founding = raft.founding;
        let group = Group::start(CATALOG_SHARD, Arc::new(machine), raft).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                group,
                founding: founding.then_some(Founding {
                    broker,
                    shard_count,
                }),
                plugins,
                state,
                checks: Checks::default(),
            }),
        })
    }

    /// Waits until all that was acknowledged before the start is there, and makes the cluster if
    /// it is new and this broker founds it.
    pub(crate) async fn ready(&self) -> Result<(), ShardError> {
        self.shared.group.ready().await?;
        if let Some(founding) = &self.shared.founding
            && self.snapshot().cluster_id.is_none()
        {
            let command = CatalogCommand::FoundCluster {
                cluster_id: ClusterId(rand::random()),
                founder: founding.broker,
                shard_count: founding.shard_count,
            };
            self.change(command, Bytes::new())
                .await
                .map_err(|error| ShardError::start(CATALOG_SHARD, &error))?;
        }
        Ok(())
    }

    /// What sends plugins to other brokers.
    pub(crate) fn plugin_server(&self) -> PluginServer {
        PluginServer::new(Arc::clone(&self.shared.plugins))
    }

    /// The state as it is now.
    pub fn snapshot(&self) -> Arc<CatalogState> {
        Arc::clone(&self.shared.state.borrow())
    }

    /// The state as it is now and will be.
    pub fn watch(&self) -> watch::Receiver<Arc<CatalogState>> {
        self.shared.state.clone()
    }

    /// Says where the replicas of shards should be.
    pub(crate) async fn place(
        &self,
        shards: BTreeMap<ShardId, Vec<BrokerId>>,
    ) -> Result<(), CatalogError> {
        let command = CatalogCommand::Place { shards };
        self.change(command, Bytes::new()).await.map(drop)
    }

    /// Says how many replicas shards should have.
    pub async fn set_replication_factor(&self, factor: u32) -> Result<(), CatalogError> {
        let command = CatalogCommand::SetReplicationFactor { factor };
        self.change(command, Bytes::new()).await.map(drop)
    }

    /// Takes replicas and leaders away from a broker, or gives it some again.
    pub async fn drain_broker(&self, broker: BrokerId, drain: bool) -> Result<(), CatalogError> {
        let command = CatalogCommand::DrainBroker { broker, drain };
        self.change(command, Bytes::new()).await.map(drop)
    }

    /// Says where a broker can be reached.
    pub async fn register_broker(&self, broker: BrokerInfo) -> Result<(), CatalogError> {
        self.change(CatalogCommand::RegisterBroker { broker }, Bytes::new())
            .await
            .map(|_| ())
    }

    /// Takes a broker out of the cluster for good. That it has no replicas any more is the
    /// caller's business.
    pub async fn remove_broker(&self, broker: BrokerId) -> Result<(), CatalogError> {
        let command = CatalogCommand::RemoveBroker { broker };
        self.change(command, Bytes::new()).await.map(|_| ())
    }

    /// Lets brokers join with a token, of which the catalog keeps no secret.
    pub async fn create_join_token(
        &self,
        id: u64,
        token: KnownJoinToken,
    ) -> Result<(), CatalogError> {
        let time_ms = now_ms();
        let command = CatalogCommand::CreateJoinToken { id, token, time_ms };
        self.change(command, Bytes::new()).await.map(|_| ())
    }

    /// Makes a topic.
    pub async fn create_topic(
        &self,
        name: TopicName,
        config: TopicConfig,
    ) -> Result<Topic, CatalogError> {
        let time_ms = now_ms();
        self.change_topic(CatalogCommand::CreateTopic {
            name,
            config,
            time_ms,
        })
        .await
    }

    /// Changes a topic's settings. Partitions can be added, never taken away.
    pub async fn alter_topic(
        &self,
        name: TopicName,
        changes: TopicChanges,
    ) -> Result<Topic, CatalogError> {
        self.change_topic(CatalogCommand::AlterTopic { name, changes })
            .await
    }

    /// Removes a topic, and gives back what it was.
    pub async fn delete_topic(&self, name: TopicName) -> Result<Topic, CatalogError> {
        self.change_topic(CatalogCommand::DeleteTopic { name })
            .await
    }

    /// Adds a plugin. The caller has made sure that the bytes are one.
    pub async fn deploy_plugin(&self, plugin: NewPlugin) -> Result<Plugin, CatalogError> {
        let (info, bytes) = plugin.describe().await?;
        self.change_plugin(CatalogCommand::DeployPlugin { info }, bytes)
            .await
    }

    /// Replaces a plugin by a new version, also for the bindings that exist.
    pub async fn upgrade_plugin(&self, plugin: NewPlugin) -> Result<Plugin, CatalogError> {
        let (info, bytes) = plugin.describe().await?;
        self.change_plugin(CatalogCommand::UpgradePlugin { info }, bytes)
            .await
    }

    /// Goes back to the version before the last upgrade; doing so again undoes it.
    pub async fn roll_back_plugin(&self, name: Name) -> Result<Plugin, CatalogError> {
        self.change_plugin(CatalogCommand::RollBackPlugin { name }, Bytes::new())
            .await
    }

    /// Removes a plugin that is bound to no topic, and gives back what it was.
    pub async fn remove_plugin(&self, name: Name) -> Result<Plugin, CatalogError> {
        self.change_plugin(CatalogCommand::RemovePlugin { name }, Bytes::new())
            .await
    }

    /// The bytes of a version of a plugin that is current or previous. Blocks on the disk.
    pub fn plugin_bytes(&self, plugin: &PluginInfo) -> Result<Bytes, PluginBytesError> {
        self.shared.plugins.read(&plugin.name, plugin.digest)
    }

    /// Attaches a plugin to a topic, after those that are bound already.
    pub async fn bind(
        &self,
        topic: TopicName,
        binding: BindingConfig,
    ) -> Result<Topic, CatalogError> {
        self.change_topic(CatalogCommand::Bind { topic, binding })
            .await
    }

    /// Detaches a plugin from a topic.
    pub async fn unbind(&self, topic: TopicName, plugin: Name) -> Result<Topic, CatalogError> {
        self.change_topic(CatalogCommand::Unbind { topic, plugin })
            .await
    }

    /// The state of the catalog's shard.
    pub fn status(&self) -> ShardStatus {
        let (leader, term) = self.shared.group.leader();
        ShardStatus {
            id: CATALOG_SHARD,
            leader,
            term,
            applied_index: self.shared.group.applied_index(),
            partitions: 0,
        }
    }

    pub(crate) fn group(&self) -> &Group {
        &self.shared.group
    }

    async fn change_topic(&self, command: CatalogCommand) -> Result<Topic, CatalogError> {
        match self.change(command, Bytes::new()).await? {
            CatalogResponse::Topic(topic) => Ok(topic),
            other => Err(unexpected(&other)),
        }
    }

    async fn change_plugin(
        &self,
        command: CatalogCommand,
        bytes: Bytes,
    ) -> Result<Plugin, CatalogError> {
        match self.change(command, bytes).await? {
            CatalogResponse::Plugin(plugin) => Ok(plugin),
            other => Err(unexpected(&other)),
        }
    }

    async fn change(&self, command: CatalogCommand, attachment: Bytes) -> Outcome {
        let internal = |error: postcard::Error| CatalogError::Internal(error.to_string());
        let command = Command::Custom {
            command: postcard::to_allocvec(&command).map_err(internal)?.into(),
            attachment,
        };
        match self.shared.group.propose(command).await? {
            Response::Custom(bytes) => postcard::from_bytes::<Outcome>(&bytes).map_err(internal)?,
            _ => Err(CatalogError::Internal("no answer".to_owned())),
        }
    }
}

fn unexpected(response: &CatalogResponse) -> CatalogError {
    CatalogError::Internal(format!("unexpected answer {response:?}"))
}

impl NewPlugin {
    async fn describe(self) -> Result<(PluginInfo, Bytes), CatalogError> {
        let Self {
            name,
            version,
            world,
            bytes,
        } = self;
        let size_bytes = bytes.len() as u64;
        let hashed = bytes.clone();
        // 16 MiB take milliseconds: not on an async worker thread.
        let digest = crate::executor::spawn_blocking(move || digest(&hashed))
            .await
            .map_err(|error| CatalogError::Internal(error.to_string()))?;
        let info = PluginInfo {
            name,
            version,
            world,
            digest,
            size_bytes,
            deployed_ms: now_ms(),
        };
        Ok((info, bytes))
    }
}
