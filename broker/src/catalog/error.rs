//! Why the catalog refuses a change.

use flumen_protocol::{
    error::{ErrorCode, WireError},
    ids::BrokerId,
    limits::{BINDING_CONFIG_BYTES_MAX, BINDINGS_PER_TOPIC_MAX, PLUGIN_BYTES_MAX},
    plugin::World,
    size::Size,
    topic::{InvalidTopicConfig, Name, TopicName},
};
use serde::{Deserialize, Serialize};

use super::state::{JOIN_TOKENS_MAX, PARTITIONS_MAX, PLUGINS_MAX, REPLICAS_MAX, TOPICS_MAX};
use crate::shard::ProposeError;

/// Why a change of the catalog was not made. Nothing has changed then, unless it says that this
/// is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// No topic of that name.
    #[error("topic {0} does not exist; create it first, or check the name")]
    UnknownTopic(TopicName),
    /// The topic is there already.
    #[error("topic {0} exists already")]
    TopicExists(TopicName),
    /// A setting is out of its range.
    #[error("topic {topic} cannot have these settings: {reason}")]
    InvalidConfig {
        /// The topic.
        topic: TopicName,
        /// Which setting, and its range.
        reason: String,
    },
    /// Records of another topic go there.
    #[error(
        "topic {topic} takes the dead letters of plugin {plugin} on topic {bound_to}; unbind that \
         first"
    )]
    TopicInUse {
        /// The topic.
        topic: TopicName,
        /// The topic whose binding names it.
        bound_to: TopicName,
        /// The plugin of the binding.
        plugin: Name,
    },
    /// The cluster has as many topics as it may have.
    #[error("the cluster has {TOPICS_MAX} topics, its limit; delete some first")]
    TooManyTopics,
    /// The cluster has as many partitions as it may have.
    #[error("the cluster would have {0} partitions, over its limit of {PARTITIONS_MAX}")]
    TooManyPartitions(u64),
    /// No plugin of that name.
    #[error("plugin {0} does not exist; deploy it first, or check the name")]
    UnknownPlugin(Name),
    /// The plugin is there already.
    #[error("plugin {0} exists already; upgrade it, or choose another name")]
    PluginExists(Name),
    /// The plugin is bound.
    #[error("plugin {plugin} is bound to topic {topic}; unbind it first")]
    PluginInUse {
        /// The plugin.
        plugin: Name,
        /// A topic that it is bound to.
        topic: TopicName,
    },
    /// The new version does something else.
    #[error(
        "plugin {plugin} is a {was} and bound to topic {topic}; it cannot become a {now} while it is"
    )]
    WorldChanged {
        /// The plugin.
        plugin: Name,
        /// What it is.
        was: World,
        /// What the new version is.
        now: World,
        /// A topic that it is bound to.
        topic: TopicName,
    },
    /// The plugin has only ever had one version.
    #[error(
        "plugin {0} has no version to go back to: it was never upgraded; upgrade it with the bytes \
         that it should have"
    )]
    NoPreviousVersion(Name),
    /// The plugin is too large.
    #[error("a plugin of {} is over the limit of {}", Size(*.0), Size::of(PLUGIN_BYTES_MAX))]
    PluginTooLarge(u64),
    /// The cluster has as many plugins as it may have.
    #[error("the cluster has {PLUGINS_MAX} plugins, its limit; remove some first")]
    TooManyPlugins,
    /// The plugin is not bound there.
    #[error("plugin {plugin} is not bound to topic {topic}")]
    UnknownBinding {
        /// The topic.
        topic: TopicName,
        /// The plugin.
        plugin: Name,
    },
    /// The plugin is bound there already.
    #[error("plugin {plugin} is bound to topic {topic} already; unbind it first to change that")]
    BindingExists {
        /// The topic.
        topic: TopicName,
        /// The plugin.
        plugin: Name,
    },
    /// The topic has as many bindings as it may have.
    #[error("topic {0} has {BINDINGS_PER_TOPIC_MAX} bindings, its limit")]
    TooManyBindings(TopicName),
    /// A setting of the binding is out of its range.
    #[error("plugin {plugin} cannot be bound like this: {reason}")]
    InvalidBinding {
        /// The plugin.
        plugin: Name,
        /// Which setting, and its range.
        reason: String,
    },
    /// The broker was removed.
    #[error(
        "broker {0} was removed from the cluster for good; empty its data directory to let it \
         join as a new broker"
    )]
    BrokerRemoved(BrokerId),
    /// The cluster has as many join tokens as it may have.
    #[error(
        "the cluster has {JOIN_TOKENS_MAX} valid join tokens, its limit; use one of them, or wait until one expires"
    )]
    TooManyJoinTokens,
    /// No broker of that id.
    #[error("broker {0} is not in the cluster; `flumen cluster status` lists the brokers")]
    UnknownBroker(BrokerId),
    /// Replicas have to be somewhere.
    #[error("broker {0} is the last one that may have replicas; add another broker first")]
    LastBroker(BrokerId),
    /// There cannot be so many replicas.
    #[error(
        "{factor} replicas are not possible: there may be 1 to {REPLICAS_MAX}, and {brokers} \
         brokers may have some"
    )]
    InvalidReplicationFactor {
        /// What was asked for.
        factor: u32,
        /// Brokers that may have replicas.
        brokers: u32,
    },
    /// There is no room for the change.
    #[error("the catalog has no room for the change: {0}; try again later")]
    NoRoom(String),
    /// Another broker leads the catalog.
    #[error("this broker does not lead the catalog; ask the one that does")]
    NotLeader,
    /// The catalog's leader changed or was lost meanwhile.
    #[error(
        "the catalog's leader changed or was lost meanwhile; whether the change was made is not known"
    )]
    Unknown,
    /// This broker may not know all of the catalog.
    #[error(
        "this broker cannot make sure that it knows all that there is in the cluster ({0}); try \
         again, and look at `flumen cluster status` if it stays so"
    )]
    Behind(String),
    /// The catalog has stopped.
    #[error("the catalog has stopped; whether the change was made is not known")]
    Stopped,
    /// A fault of the broker.
    #[error("the catalog cannot read its own words: {0}")]
    Internal(String),
}

impl CatalogError {
    pub(super) fn invalid_config(topic: &TopicName, error: &InvalidTopicConfig) -> Self {
        Self::InvalidConfig {
            topic: topic.clone(),
            reason: error.to_string(),
        }
    }

    pub(super) fn config_too_long(plugin: &Name, len: usize) -> Self {
        Self::InvalidBinding {
            plugin: plugin.clone(),
            reason: format!(
                "its configuration has {}, over the limit of {}",
                Size::of(len),
                Size::of(BINDING_CONFIG_BYTES_MAX)
            ),
        }
    }

    /// The error's code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownTopic(_) => ErrorCode::UnknownTopic,
            Self::TopicExists(_) => ErrorCode::TopicExists,
            Self::InvalidConfig { .. } | Self::TooManyPartitions(_) => {
                ErrorCode::InvalidTopicConfig
            }
            Self::TopicInUse { .. } | Self::PluginExists(_) | Self::NoPreviousVersion(_) => {
                ErrorCode::Conflict
            }
            Self::UnknownPlugin(_) => ErrorCode::UnknownPlugin,
            Self::PluginInUse { .. } => ErrorCode::PluginInUse,
            Self::WorldChanged { .. } => ErrorCode::InvalidPlugin,
            Self::PluginTooLarge(_)
            | Self::TooManyTopics
            | Self::TooManyPlugins
            | Self::TooManyBindings(_)
            | Self::TooManyJoinTokens => ErrorCode::TooLarge,
            Self::UnknownBinding { .. } => ErrorCode::UnknownBinding,
            Self::BindingExists { .. } => ErrorCode::BindingExists,
            Self::BrokerRemoved(_) => ErrorCode::PermissionDenied,
            Self::InvalidBinding { .. } | Self::InvalidReplicationFactor { .. } => {
                ErrorCode::InvalidRequest
            }
            Self::UnknownBroker(_) => ErrorCode::UnknownBroker,
            Self::LastBroker(_) => ErrorCode::Conflict,
            Self::NoRoom(_) => ErrorCode::NoSpace,
            Self::NotLeader => ErrorCode::NotLeader,
            Self::Behind(_) => ErrorCode::Unavailable,
            // Not `Unavailable`, which says that nothing was done.
            Self::Stopped | Self::Unknown => ErrorCode::Timeout,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }
}

impl From<CatalogError> for WireError {
    fn from(error: CatalogError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<ProposeError> for CatalogError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader => Self::NotLeader,
            ProposeError::Unknown => Self::Unknown,
            ProposeError::Stopped => Self::Stopped,
            ProposeError::NoRoom { reason } => Self::NoRoom(reason),
        }
    }
}
