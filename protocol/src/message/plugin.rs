//! Plugins and how they fare.

use serde::{Deserialize, Serialize};

use crate::{
    plugin::{BindingConfig, PluginInfo},
    topic::TopicName,
};

/// A binding and how it fares on the broker that was asked, since the broker started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingStatus {
    /// The topic.
    pub topic: TopicName,
    /// The binding.
    pub binding: BindingConfig,
    /// The version of the plugin that runs.
    pub version: String,
    /// Calls so far.
    pub calls: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Records that the plugin could not take.
    pub failed_records: u64,
    /// The text of the last failure.
    pub last_failure: Option<String>,
    /// Whether it is suspended because it kept failing.
    pub suspended: bool,
}

/// A plugin with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginDescription {
    /// The plugin.
    pub info: PluginInfo,
    /// Where it is bound.
    pub bindings: Vec<BindingStatus>,
}
