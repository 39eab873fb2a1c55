//! Descriptions of plugins and of their bindings to topics, as the catalog keeps them and
//! the control streams carry them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::topic::{Name, TopicName};

/// What a plugin does with records; the WIT world that it implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum World {
    /// Keeps or drops records.
    Filter,
    /// Changes records, drops them, or sends them to other topics.
    Transform,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Filter => "filter",
            Self::Transform => "transform",
        })
    }
}

/// The SHA-256 of a plugin's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut digest = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err("a digest has 64 hexadecimal digits".to_owned());
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
        }
        Ok(Self(digest))
    }
}

/// Where in a record's way a plugin runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPoint {
    /// Before a batch is appended.
    #[default]
    Produce,
}

/// What happens to records that a plugin fails on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorPolicy {
    /// The producer's batch is refused with the plugin's own words.
    #[default]
    Reject,
    /// The record passes on unchanged.
    Skip,
    /// The record is dropped.
    Drop,
    /// The record goes to another topic, with the reason in its headers.
    DeadLetter(TopicName),
}

impl fmt::Display for ErrorPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject => f.pad("reject"),
            Self::Skip => f.pad("skip"),
            Self::Drop => f.pad("drop"),
            Self::DeadLetter(topic) => write!(f, "dead-letter={topic}"),
        }
    }
}

/// A plugin attached to a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingConfig {
    /// The plugin.
    pub plugin: Name,
    /// Where it runs. Default: produce.
    pub hook: HookPoint,
    /// Text for the plugin's `init`, JSON by convention. Default: empty.
    pub config: String,
    /// What happens to records that it fails on. Default: reject.
    pub on_error: ErrorPolicy,
    /// Wall-clock time that a call may take, in milliseconds. Default: 50.
    pub timeout_ms: u32,
    /// Memory of one instance, in bytes. Default: 16 MiB.
    pub memory_bytes_max: u64,
}

impl BindingConfig {
    /// The default time-out of a call, in milliseconds.
    pub const TIMEOUT_MS: u32 = 50;
    /// The default memory of an instance, in bytes.
    pub const MEMORY_BYTES_MAX: u64 = 16 * 1024 * 1024;

    /// A binding of `plugin` with every setting at its default.
    pub fn new(plugin: Name) -> Self {
        Self {
            plugin,
            hook: HookPoint::default(),
            config: String::new(),
            on_error: ErrorPolicy::default(),
            timeout_ms: Self::TIMEOUT_MS,
            memory_bytes_max: Self::MEMORY_BYTES_MAX,
        }
    }
}

/// A plugin as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// Its name.
    pub name: Name,
    /// The version that its author gave it.
    pub version: String,
    /// What it implements.
    pub world: World,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// Bytes of its component.
    pub size_bytes: u64,
    /// When it was deployed or last upgraded, in milliseconds since the epoch.
    pub deployed_ms: u64,
}
