//! Deploying, binding, upgrading and rolling back plugins: the catalog joined with the engine.
//!
//! Whatever could fail is tried before the catalog hears of it: a component is compiled and
//! started, a binding is made with its configuration. Then the catalog commits, and then the
//! hooks change. So a command that succeeded is in force when it returns, and a batch that
//! is produced later never passes a topic unfiltered.

mod follow;
mod hooks;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use flumen_protocol::{
    error::{ErrorCode, WireError},
    ids::TopicId,
    message::{BindingStatus, PluginDescription},
    plugin::{BindingConfig, PluginInfo},
    topic::{Name, TopicName},
};
use tokio::sync::{Mutex, watch};

pub use self::hooks::{Hooks, Processed, SideBatch};
use crate::{
    catalog::{Catalog, CatalogError, CatalogState, NewPlugin, PluginBytesError, Topic},
    metrics::PluginMetrics,
    plugin::{BindError, Binding, DeployError, Plugin, PluginEngine},
};

/// The version of a plugin whose author gave none.
const VERSION_UNKNOWN: &str = "0.0.0";

/// Plugins and their bindings.
pub struct Plugins {
    catalog: Catalog,
    engine: PluginEngine,
    hooks: Hooks,
    /// One change at a time: what was tried must still be so when it is committed.
    changing: Mutex<()>,
    /// The version of the catalog that is in force here.
    in_step: watch::Sender<u64>,
}

impl Plugins {
    /// Joins a catalog with the engine that runs its plugins.
    pub fn new(catalog: Catalog, engine: PluginEngine, metrics: PluginMetrics) -> Self {
        Self {
            catalog,
            engine,
            hooks: Hooks::new(metrics),
            changing: Mutex::new(()),
            in_step: watch::Sender::new(0),
        }
    }

    /// What runs on the topics.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// Makes all bindings of the catalog ready. A topic whose plugins cannot run refuses what
    /// is produced to it.
    pub async fn load(&self) {
        let state = self.catalog.snapshot();
        for topic in state
            .topics
            .values()
            .filter(|topic| !topic.bindings.is_empty())
        {
            self.install(topic).await;
        }
    }

    /// Runs on a topic what the catalog says; if that cannot be, nothing passes.
    async fn install(&self, topic: &Topic) {
        match self.make_all(topic).await {
            Ok(bindings) => self.hooks.install(topic.id, topic.name.clone(), bindings),
            Err(error) => {
                tracing::error!(topic = %topic.name, %error, "the topic's plugins cannot run");
                self.hooks.block(topic.id, error.text);
            }
        }
    }

    /// Adds a plugin.
    pub async fn deploy(
        &self,
        name: Name,
        version: Option<String>,
        bytes: Bytes,
    ) -> Result<PluginDescription, WireError> {
        let (_, new) = self.examine(&name, version, bytes).await?;
        let _changing = self.changing.lock().await;
        self.catalog.deploy_plugin(new).await?;
        self.describe(&name)
    }

    /// Replaces a plugin's bytes. Every binding is made with the new ones before anything
    /// changes; if one cannot be, nothing changes. Without a version it keeps the one it has.
    pub async fn upgrade(
        &self,
        name: Name,
        version: Option<String>,
        bytes: Bytes,
    ) -> Result<PluginDescription, WireError> {
        let version = match version {
            Some(version) => version,
            None => {
                let present = |state: &CatalogState| {
                    state
                        .plugin(&name)
                        .map(|plugin| plugin.current.version.clone())
                };
                self.catalog.find(present).await?
            }
        };
        let (plugin, new) = self.examine(&name, Some(version), bytes).await?;
        let _changing = self.changing.lock().await;
        let replaced = self.replaced_everywhere(&name, &plugin).await?;
        self.catalog.upgrade_plugin(new).await?;
        self.install_all(replaced);
        self.describe(&name)
    }

    /// Goes back to the version before the last upgrade, with the same care as an upgrade; once
    /// more undoes that.
    pub async fn roll_back(&self, name: Name) -> Result<PluginDescription, WireError> {
        let _changing = self.changing.lock().await;
        let previous = self.catalog.snapshot().plugin(&name)?.previous.clone();
        let previous = previous.ok_or_else(|| CatalogError::NoPreviousVersion(name.clone()))?;
        let plugin = self.loaded_version(previous).await?;
        let replaced = self.replaced_everywhere(&name, &plugin).await?;
        self.catalog.roll_back_plugin(name.clone()).await?;
        self.install_all(replaced);
        self.describe(&name)
    }

    /// Removes a plugin that is bound nowhere.
    pub async fn remove(&self, name: Name) -> Result<(), WireError> {
        let _changing = self.changing.lock().await;
        let removed = self.catalog.remove_plugin(name).await?;
        let state = self.catalog.snapshot();
        let versions = [Some(removed.current), removed.previous];
        for info in versions.into_iter().flatten() {
            if !state.digests().any(|wanted| wanted == info.digest) {
                self.engine.forget(info.digest);
            }
        }
        Ok(())
    }

    /// Attaches a plugin to a topic, after those that are bound already.
    pub async fn bind(&self, topic: TopicName, config: BindingConfig) -> Result<(), WireError> {
        let _changing = self.changing.lock().await;
        let state = self.catalog.snapshot();
        let found = Arc::clone(state.topic(&topic)?);
        let plugin = self.loaded(&config.plugin).await?;
        let mut bindings = self.running(&found).await?;
        bindings.push(self.make(&plugin, &topic, config.clone()).await?);
        self.catalog.bind(topic.clone(), config).await?;
        self.hooks.install(found.id, topic, bindings);
        Ok(())
    }

    /// Detaches a plugin from a topic.
    pub async fn unbind(&self, topic: TopicName, plugin: Name) -> Result<(), WireError> {
        let _changing = self.changing.lock().await;
        let found = self.catalog.unbind(topic.clone(), plugin).await?;
        if found.bindings.is_empty() {
            self.hooks.remove(found.id);
            return Ok(());
        }
        let bindings = self.make_all(&found).await?;
        self.hooks.install(found.id, topic, bindings);
        Ok(())
    }

    /// Forgets what ran on a topic that was deleted.
    pub fn topic_deleted(&self, topic: TopicId) {
        self.hooks.remove(topic);
    }

    /// All plugins, by name.
    pub fn list(&self) -> Vec<PluginInfo> {
        {
            let state = self.catalog.snapshot();
            let plugins = state.plugins.values();
            plugins.map(|plugin| plugin.current.clone()).collect()
        }
    }

    /// A plugin and where it is bound.
    pub fn describe(&self, name: &Name) -> Result<PluginDescription, WireError> {
        let info = self.find(name)?;
        let state = self.catalog.snapshot();
        let statuses = state
            .topics
            .keys()
            .flat_map(|topic| self.bindings_of(topic));
        Ok(PluginDescription {
            info,
            bindings: statuses
                .filter(|status| status.binding.plugin == *name)
                .collect(),
        })
    }

    /// As [`Plugins::describe`], for who asks from outside: that there is no such plugin is said
    /// when it is so in the cluster, not when this broker has not heard of it.
    pub async fn described(&self, name: &Name) -> Result<PluginDescription, WireError> {
        let is_there = |state: &CatalogState| state.plugin(name).map(drop);
        self.catalog.find(is_there).await?;
        self.describe(name)
    }

    /// The bindings of a topic and how they fare.
    pub fn bindings_of(&self, name: &TopicName) -> Vec<BindingStatus> {
        let state = self.catalog.snapshot();
        let Some(topic) = state.topics.get(name) else {
            return Vec::new();
        };
        let running: BTreeMap<Name, Binding> = self
            .hooks
            .bindings(topic.id)
            .into_iter()
            .map(|binding| (binding.config().plugin.clone(), binding))
            .collect();
        let blocked = self.hooks.blocked(topic.id);
        let status = |config: &BindingConfig| {
            let report = running.get(&config.plugin).map(Binding::report);
            let report = report.unwrap_or_default();
            let plugin = state.plugins.get(&config.plugin);
            let version = plugin.map(|plugin| plugin.current.version.clone());
            BindingStatus {
                topic: name.clone(),
                binding: config.clone(),
                version: version.unwrap_or_default(),
                calls: report.calls,
                failures: report.failures,
                failed_records: report.failed_records,
                suspended: report.suspended_for.is_some() || blocked.is_some(),
                last_failure: report.last_failure.or_else(|| blocked.clone()),
            }
        };
        topic.bindings.iter().map(status).collect()
    }

    fn find(&self, name: &Name) -> Result<PluginInfo, WireError> {
        let state = self.catalog.snapshot();
        Ok(state.plugin(name)?.current.clone())
    }

    async fn examine(
        &self,
        name: &Name,
        version: Option<String>,
        bytes: Bytes,
    ) -> Result<(Plugin, NewPlugin), WireError> {
        let plugin = self.engine.examine(bytes.clone()).await?;
        let new = NewPlugin {
            name: name.clone(),
            version: version.unwrap_or_else(|| VERSION_UNKNOWN.to_owned()),
            world: plugin.world(),
            bytes,
        };
        Ok((plugin, new))
    }

    async fn loaded(&self, name: &Name) -> Result<Plugin, WireError> {
        self.loaded_version(self.find(name)?).await
    }

    /// A version of a plugin that is current or previous.
    async fn loaded_version(&self, info: PluginInfo) -> Result<Plugin, WireError> {
        let catalog = self.catalog.clone();
        let read = crate::executor::spawn_blocking(move || catalog.plugin_bytes(&info)).await;
        let bytes =
            read.map_err(|error| WireError::new(ErrorCode::Internal, error.to_string()))??;
        Ok(self.engine.load(bytes).await?)
    }

    async fn make(
        &self,
        plugin: &Plugin,
        topic: &TopicName,
        config: BindingConfig,
    ) -> Result<Binding, WireError> {
        Ok(self.engine.bind(plugin, topic, config).await?)
    }

    async fn make_all(&self, topic: &Topic) -> Result<Vec<Binding>, WireError> {
        let mut bindings = Vec::with_capacity(topic.bindings.len());
        for config in &topic.bindings {
            let plugin = self.loaded(&config.plugin).await?;
            bindings.push(self.make(&plugin, &topic.name, config.clone()).await?);
        }
        Ok(bindings)
    }

    /// The bindings of each topic that a plugin is bound to, with those of that plugin made anew of
    /// `plugin`.
    async fn replaced_everywhere(
        &self,
        name: &Name,
        plugin: &Plugin,
    ) -> Result<Vec<Replaced>, WireError> {
        let state = self.catalog.snapshot();
        let mut replaced = Vec::new();
        for topic in state.topics.values() {
            if topic.bindings.iter().any(|config| config.plugin == *name) {
                replaced.push(Replaced {
                    topic: topic.id,
                    name: topic.name.clone(),
                    bindings: self.replaced(topic, name, plugin).await?,
                });
            }
        }
        Ok(replaced)
    }

    fn install_all(&self, replaced: Vec<Replaced>) {
        for topic in replaced {
            self.hooks.install(topic.topic, topic.name, topic.bindings);
        }
    }

    /// The bindings of a topic with those of one plugin made anew of `plugin`. The bytes that it
    /// had so far are not asked for: they may be what is wrong.
    async fn replaced(
        &self,
        topic: &Topic,
        name: &Name,
        plugin: &Plugin,
    ) -> Result<Vec<Binding>, WireError> {
        let blocked = self.hooks.blocked(topic.id).is_some();
        let running = if blocked {
            Vec::new()
        } else {
            self.hooks.bindings(topic.id)
        };
        let mut bindings = Vec::new();
        for config in &topic.bindings {
            let mut running = running.iter();
            let same = running.find(|binding| binding.config().plugin == config.plugin);
            bindings.push(match same {
                _ if config.plugin == *name => {
                    self.make(plugin, &topic.name, config.clone()).await?
                }
                Some(binding) => binding.clone(),
                None => {
                    let other = self.loaded(&config.plugin).await?;
                    self.make(&other, &topic.name, config.clone()).await?
                }
            });
        }
        Ok(bindings)
    }

    /// The bindings that run on a topic, or new ones if they could not be made so far.
    async fn running(&self, topic: &Topic) -> Result<Vec<Binding>, WireError> {
        if self.hooks.blocked(topic.id).is_some() {
            return self.make_all(topic).await;
        }
        Ok(self.hooks.bindings(topic.id))
    }
}

/// What a topic gets instead of the bindings that run on it.
struct Replaced {
    topic: TopicId,
    name: TopicName,
    bindings: Vec<Binding>,
}

impl From<PluginBytesError> for WireError {
    fn from(error: PluginBytesError) -> Self {
        Self::new(ErrorCode::StorageFailed, error.to_string())
    }
}

impl From<DeployError> for WireError {
    fn from(error: DeployError) -> Self {
        let code = match error {
            DeployError::TooLarge { .. } => ErrorCode::TooLarge,
            DeployError::Internal(_) => ErrorCode::Internal,
            DeployError::Busy => ErrorCode::Overloaded,
            _ => ErrorCode::InvalidPlugin,
        };
        Self::new(code, error.to_string())
    }
}

impl From<BindError> for WireError {
    fn from(error: BindError) -> Self {
        let code = match error {
            BindError::Timeout(_) | BindError::Memory(_) => ErrorCode::InvalidRequest,
            _ => ErrorCode::InvalidPlugin,
        };
        Self::new(code, error.to_string())
    }
}
