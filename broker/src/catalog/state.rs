//! The metadata of the cluster as a value, and the rules by which it changes. Nothing here waits,
//! looks at a clock or touches a disk.

mod joining;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use flumen_protocol::{
    ids::{BrokerId, ShardId, TopicId},
    limits::{BINDING_CONFIG_BYTES_MAX, BINDINGS_PER_TOPIC_MAX, PLUGIN_BYTES_MAX},
    message::BrokerInfo,
    plugin::{BindingConfig, Digest, ErrorPolicy, PluginInfo},
    topic::{Name, TopicChanges, TopicConfig, TopicName},
};
use serde::{Deserialize, Serialize};

pub use self::joining::{JOIN_TOKENS_MAX, KnownJoinToken};
use super::{
    CatalogError,
    command::{CatalogCommand, CatalogResponse},
};

mod placement;

#[cfg(test)]
mod tests;

pub(super) use self::placement::REPLICAS_MAX;

/// Topics of a cluster.
pub const TOPICS_MAX: usize = 100_000;

/// Partitions of all topics together.
pub const PARTITIONS_MAX: u64 = 1_000_000;

/// Plugins of a cluster.
pub const PLUGINS_MAX: usize = 1000;

/// The identity of a cluster: random, given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its identity; a topic of the same name that is made later has another.
    pub id: TopicId,
    /// Its settings.
    pub config: TopicConfig,
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// The plugins bound to it, in the order in which they run.
    pub bindings: Vec<BindingConfig>,
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// The version in use.
    pub current: PluginInfo,
    /// The version before the last upgrade.
    pub previous: Option<PluginInfo>,
}

/// The metadata of the cluster at one moment. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CatalogState {
    /// The cluster's identity; `None` until its first broker has started.
    pub cluster_id: Option<ClusterId>,
    /// The brokers.
    pub brokers: BTreeMap<BrokerId, BrokerInfo>,
    /// Brokers that should have no replicas.
    pub draining: BTreeSet<BrokerId>,
    /// How many data shards there are; 0 until the cluster is made.
    pub shard_count: u32,
    /// How many replicas shards should have; `None` for one, as long as there are too few brokers
    /// for more to be of use.
    pub replication_factor: Option<u32>,
    /// The brokers that have, or should have, the replicas of each data shard. The first one
    /// should lead.
    pub placement: BTreeMap<ShardId, Vec<BrokerId>>,
    /// The topics.
    pub topics: BTreeMap<TopicName, Arc<Topic>>,
    /// The plugins.
    pub plugins: BTreeMap<Name, Arc<Plugin>>,
    /// Rises with every change.
    pub version: u64,
    last_topic_id: u64,
    /// Tokens with which brokers may join, by their ids; expired ones among them.
    pub join_tokens: BTreeMap<u64, KnownJoinToken>,
    /// Brokers that were removed, for good.
    pub removed_brokers: BTreeSet<BrokerId>,
}

impl CatalogState {
    /// A topic by its name.
    pub fn topic(&self, name: &TopicName) -> Result<&Arc<Topic>, CatalogError> {
        self.topics
            .get(name)
            .ok_or_else(|| CatalogError::UnknownTopic(name.clone()))
    }

    /// A plugin by its name.
    pub fn plugin(&self, name: &Name) -> Result<&Arc<Plugin>, CatalogError> {
        self.plugins
            .get(name)
            .ok_or_else(|| CatalogError::UnknownPlugin(name.clone()))
    }

    /// The topics that a plugin is bound to, with the binding.
    pub fn bindings_of<'a>(
        &'a self,
        plugin: &'a Name,
    ) -> impl Iterator<Item = (&'a Topic, &'a BindingConfig)> {
        self.bindings()
            .filter(move |(_, binding)| binding.plugin == *plugin)
    }

    /// Digests of the plugin bytes that are still wanted.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.plugins.values().flat_map(|plugin| {
            let previous = plugin.previous.as_ref().map(|info| info.digest);
            std::iter::once(plugin.current.digest).chain(previous)
        })
    }

    /// Makes a change, if all rules allow it; otherwise nothing changes.
    pub fn apply(&mut self, command: CatalogCommand) -> Result<CatalogResponse, CatalogError> {
        let response = match command {
            CatalogCommand::FoundCluster {
                cluster_id,
                founder,
                shard_count,
            } => self.found(cluster_id, founder, shard_count),
            CatalogCommand::Place { shards } => self.place(shards),
            CatalogCommand::SetReplicationFactor { factor } => {
                self.set_replication_factor(factor)?
            }
            CatalogCommand::DrainBroker { broker, drain } => self.drain(broker, drain)?,
            CatalogCommand::RegisterBroker { broker } => self.register_broker(broker)?,
            CatalogCommand::RemoveBroker { broker } => self.remove_broker(broker),
            CatalogCommand::CreateJoinToken { id, token, time_ms } => {
                self.create_join_token(id, token, time_ms)?
            }
            CatalogCommand::CreateTopic {
                name,
                config,
                time_ms,
            } => self.create_topic(name, config, time_ms)?,
            CatalogCommand::AlterTopic { name, changes } => self.alter_topic(&name, &changes)?,
            CatalogCommand::DeleteTopic { name } => self.delete_topic(&name)?,
            CatalogCommand::DeployPlugin { info } => self.deploy_plugin(info)?,
            CatalogCommand::UpgradePlugin { info } => self.upgrade_plugin(info)?,
            CatalogCommand::RollBackPlugin { name } => self.roll_back_plugin(&name)?,
            CatalogCommand::RemovePlugin { name } => self.remove_plugin(&name)?,
            CatalogCommand::Bind { topic, binding } => self.bind(&topic, binding)?,
            CatalogCommand::Unbind { topic, plugin } => self.unbind(&topic, &plugin)?,
        };
        self.replicate_if_there_are_enough();
        self.version += 1;
        Ok(response)
    }

    fn bindings(&self) -> impl Iterator<Item = (&Topic, &BindingConfig)> {
        self.topics.values().flat_map(|topic| {
            let bindings = topic.bindings.iter();
            bindings.map(move |binding| (&**topic, binding))
        })
    }

    fn partitions(&self) -> u64 {
        let counts = self.topics.values();
        counts.map(|topic| u64::from(topic.config.partitions)).sum()
    }

    fn check_config(
        &self,
        name: &TopicName,
        config: &TopicConfig,
        partitions_before: u32,
    ) -> Result<(), CatalogError> {
        config
            .validate()
            .map_err(|error| CatalogError::invalid_config(name, &error))?;
        let partitions =
            self.partitions() + u64::from(config.partitions) - u64::from(partitions_before);
        if partitions > PARTITIONS_MAX {
            return Err(CatalogError::TooManyPartitions(partitions));
        }
        Ok(())
    }

    fn create_topic(
        &mut self,
        name: TopicName,
        config: TopicConfig,
        time_ms: u64,
    ) -> Result<CatalogResponse, CatalogError> {
        if self.topics.contains_key(&name) {
            return Err(CatalogError::TopicExists(name));
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(CatalogError::TooManyTopics);
        }
        self.check_config(&name, &config, 0)?;
        self.last_topic_id += 1;
        let topic = Topic {
            name: name.clone(),
            id: TopicId(self.last_topic_id),
            config,
            created_ms: time_ms,
            bindings: Vec::new(),
        };
        self.topics.insert(name, Arc::new(topic.clone()));
        Ok(CatalogResponse::Topic(topic))
    }

    fn alter_topic(
        &mut self,
        name: &TopicName,
        changes: &TopicChanges,
    ) -> Result<CatalogResponse, CatalogError> {
        let topic = self.topic(name)?;
        let before = topic.config.partitions;
        let config = changes.apply(&topic.config);
        if config.partitions < before {
            return Err(CatalogError::InvalidConfig {
                topic: name.clone(),
                reason: format!(
                    "partitions can only be added: it has {before} and cannot shrink to {}",
                    config.partitions
                ),
            });
        }
        self.check_config(name, &config, before)?;
        self.change_topic(name, |topic| topic.config = config)
    }

    fn delete_topic(&mut self, name: &TopicName) -> Result<CatalogResponse, CatalogError> {
        let topic = self.topic(name)?;
        let user = self.bindings().find(|(bound_to, binding)| {
            bound_to.id != topic.id
                && matches!(&binding.on_error, ErrorPolicy::DeadLetter(to) if to == name)
        });
        if let Some((bound_to, binding)) = user {
            return Err(CatalogError::TopicInUse {
                topic: name.clone(),
                bound_to: bound_to.name.clone(),
                plugin: binding.plugin.clone(),
            });
        }
        let deleted = Topic::clone(topic);
        self.topics.remove(name);
        Ok(CatalogResponse::Topic(deleted))
    }

    fn deploy_plugin(&mut self, info: PluginInfo) -> Result<CatalogResponse, CatalogError> {
        if self.plugins.contains_key(&info.name) {
            return Err(CatalogError::PluginExists(info.name));
        }
        if self.plugins.len() >= PLUGINS_MAX {
            return Err(CatalogError::TooManyPlugins);
        }
        check_size(&info)?;
        let name = info.name.clone();
        let plugin = Plugin {
            current: info,
            previous: None,
        };
        self.plugins.insert(name, Arc::new(plugin.clone()));
        Ok(CatalogResponse::Plugin(plugin))
    }

    fn upgrade_plugin(&mut self, info: PluginInfo) -> Result<CatalogResponse, CatalogError> {
        let current = &self.plugin(&info.name)?.current;
        check_size(&info)?;
        self.check_world(current, &info)?;
        let plugin = Plugin {
            previous: Some(current.clone()),
            current: info,
        };
        Ok(self.replace_plugin(plugin))
    }

    fn roll_back_plugin(&mut self, name: &Name) -> Result<CatalogResponse, CatalogError> {
        let Plugin { current, previous } = &**self.plugin(name)?;
        let previous = previous
            .as_ref()
            .ok_or_else(|| CatalogError::NoPreviousVersion(name.clone()))?;
        self.check_world(current, previous)?;
        let plugin = Plugin {
            current: previous.clone(),
            previous: Some(current.clone()),
        };
        Ok(self.replace_plugin(plugin))
    }

    /// A plugin that is in use goes on doing the same kind of thing.
    fn check_world(&self, was: &PluginInfo, now: &PluginInfo) -> Result<(), CatalogError> {
        match self.bindings_of(&was.name).next() {
            Some((topic, _)) if was.world != now.world => Err(CatalogError::WorldChanged {
                plugin: was.name.clone(),
                was: was.world,
                now: now.world,
                topic: topic.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn replace_plugin(&mut self, plugin: Plugin) -> CatalogResponse {
        let name = plugin.current.name.clone();
        self.plugins.insert(name, Arc::new(plugin.clone()));
        CatalogResponse::Plugin(plugin)
    }

    fn remove_plugin(&mut self, name: &Name) -> Result<CatalogResponse, CatalogError> {
        let plugin = Plugin::clone(self.plugin(name)?);
        if let Some((topic, _)) = self.bindings_of(name).next() {
            return Err(CatalogError::PluginInUse {
                plugin: name.clone(),
                topic: topic.name.clone(),
            });
        }
        self.plugins.remove(name);
        Ok(CatalogResponse::Plugin(plugin))
    }

    fn bind(
        &mut self,
        name: &TopicName,
        binding: BindingConfig,
    ) -> Result<CatalogResponse, CatalogError> {
        let topic = self.topic(name)?;
        let plugin = &self.plugin(&binding.plugin)?.current.name;
        if topic.bindings.iter().any(|bound| bound.plugin == *plugin) {
            return Err(CatalogError::BindingExists {
                topic: name.clone(),
                plugin: plugin.clone(),
            });
        }
        if topic.bindings.len() >= BINDINGS_PER_TOPIC_MAX {
            return Err(CatalogError::TooManyBindings(name.clone()));
        }
        self.check_binding(name, &binding)?;
        self.change_topic(name, |topic| topic.bindings.push(binding))
    }

    fn check_binding(
        &self,
        topic: &TopicName,
        binding: &BindingConfig,
    ) -> Result<(), CatalogError> {
        let invalid = |reason: &str| CatalogError::InvalidBinding {
            plugin: binding.plugin.clone(),
            reason: reason.to_owned(),
        };
        if binding.config.len() > BINDING_CONFIG_BYTES_MAX {
            return Err(CatalogError::config_too_long(
                &binding.plugin,
                binding.config.len(),
            ));
        }
        if binding.timeout_ms == 0 {
            return Err(invalid("its time-out must be at least 1 ms"));
        }
        if binding.memory_bytes_max == 0 {
            return Err(invalid("it needs some memory"));
        }
        if let ErrorPolicy::DeadLetter(target) = &binding.on_error {
            if target == topic {
                return Err(invalid("its dead letters cannot go to the same topic"));
            }
            self.topic(target)?;
        }
        Ok(())
    }

    fn unbind(&mut self, name: &TopicName, plugin: &Name) -> Result<CatalogResponse, CatalogError> {
        let topic = self.topic(name)?;
        let bound = topic
            .bindings
            .iter()
            .position(|binding| binding.plugin == *plugin)
            .ok_or_else(|| CatalogError::UnknownBinding {
                topic: name.clone(),
                plugin: plugin.clone(),
            })?;
        self.change_topic(name, |topic| {
            topic.bindings.remove(bound);
        })
    }

    fn change_topic(
        &mut self,
        name: &TopicName,
        change: impl FnOnce(&mut Topic),
    ) -> Result<CatalogResponse, CatalogError> {
        let mut topic = Topic::clone(self.topic(name)?);
        change(&mut topic);
        self.topics.insert(name.clone(), Arc::new(topic.clone()));
        Ok(CatalogResponse::Topic(topic))
    }
}

fn check_size(info: &PluginInfo) -> Result<(), CatalogError> {
    if info.size_bytes > PLUGIN_BYTES_MAX as u64 {
        return Err(CatalogError::PluginTooLarge(info.size_bytes));
    }
    Ok(())
}
