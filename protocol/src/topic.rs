//! Names and settings of topics.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    batch::Codec,
    limits::{NAME_CHARS_MAX, PARTITIONS_PER_TOPIC_MAX},
    size::Size,
};

/// The name of a topic or of a plugin: 1 to [`NAME_CHARS_MAX`] of the characters
/// `a-z A-Z 0-9 . _ -`, and neither `.` nor `..`, so that it can stand in a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A text that cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} cannot be a name: use 1 to {NAME_CHARS_MAX} characters of a-z, A-Z, 0-9, '.', '_' and '-'"
)]
pub struct InvalidName {
    given: String,
}

impl Name {
    /// Checks a text and takes it as a name.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let length_fits = (1..=NAME_CHARS_MAX).contains(&name.len());
        if length_fits && name.chars().all(allowed) && name != "." && name != ".." {
            Ok(Self(name))
        } else {
            let given = name.chars().take(NAME_CHARS_MAX).collect();
            Err(InvalidName { given })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// The name of a topic.
pub type TopicName = Name;

/// What happens to old records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleanup {
    /// Whole segments go when they exceed the topic's retention.
    #[default]
    Delete,
    /// The last record of each key stays; a record without a value deletes its key. Superseded
    /// records go from time to time, and those that are still in a broker's memory are delivered
    /// for longer: a consumer gets the last record of each key for sure, and may get earlier ones
    /// before it, in order. So take what comes later as what holds.
    Compact,
}

/// The settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// How many partitions the topic has. Default: 1.
    pub partitions: u32,
    /// How long a segment is kept after its last record, in milliseconds. Default: 7 days;
    /// `None` keeps it for ever.
    pub retention_age_ms: Option<u64>,
    /// How many bytes a partition keeps. Default: `None`, no limit.
    pub retention_bytes: Option<u64>,
    /// What happens to old records. Default: delete.
    pub cleanup: Cleanup,
    /// How long a compacted topic keeps a tombstone, in milliseconds. Default: 1 day.
    pub tombstone_retention_ms: u64,
    /// The compression that producers use unless told otherwise. Default: none.
    pub compression: Codec,
    /// Bytes after which a partition starts a new segment. Default: 256 MiB.
    pub segment_bytes: u64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            partitions: 1,
            retention_age_ms: Some(7 * 24 * 60 * 60 * 1000),
            retention_bytes: None,
            cleanup: Cleanup::default(),
            tombstone_retention_ms: 24 * 60 * 60 * 1000,
            compression: Codec::None,
            segment_bytes: 256 * 1024 * 1024,
        }
    }
}

/// The smallest size of a segment.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;

/// The largest size of a segment; positions within one are 32 bits wide.
pub const SEGMENT_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// A topic setting that is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTopicConfig {
    /// No partition, or too many.
    #[error("a topic has 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {0}")]
    Partitions(u32),
    /// The segment size is out of range.
    #[error("a segment has {} to {}, not {}", Size(SEGMENT_BYTES_MIN), Size(SEGMENT_BYTES_MAX), Size(*.0))]
    SegmentBytes(u64),
    /// Records would go as soon as they come.
    #[error(
        "a topic that keeps its records for 0 ms keeps none; name a time such as 7d, or forever"
    )]
    RetentionAge,
    /// As above.
    #[error("a topic that keeps 0 bytes keeps no record; name a size such as 10GiB, or unlimited")]
    RetentionBytes,
}

impl TopicConfig {
    /// Checks every setting against its range.
    pub fn validate(&self) -> Result<(), InvalidTopicConfig> {
        if !(1..=PARTITIONS_PER_TOPIC_MAX).contains(&self.partitions) {
            return Err(InvalidTopicConfig::Partitions(self.partitions));
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(InvalidTopicConfig::SegmentBytes(self.segment_bytes));
        }
        if self.retention_age_ms == Some(0) {
            return Err(InvalidTopicConfig::RetentionAge);
        }
        if self.retention_bytes == Some(0) {
            return Err(InvalidTopicConfig::RetentionBytes);
        }
        Ok(())
    }
}

/// A partition that a topic does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("topic {topic} has no partition {partition}; {}", those_that_are_there(*partitions))]
pub struct NoSuchPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition that was asked for.
    pub partition: u32,
    /// How many partitions the topic has.
    pub partitions: u32,
}

fn those_that_are_there(partitions: u32) -> String {
    match partitions {
        0 | 1 => "its only partition is 0".to_owned(),
        count => format!("its partitions are 0 to {}", count - 1),
    }
}

/// Changes to a topic; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicChanges {
    /// More partitions; a topic cannot lose any.
    pub partitions: Option<u32>,
    /// A new retention by age; `Some(None)` keeps records for ever.
    pub retention_age_ms: Option<Option<u64>>,
    /// A new retention by size; `Some(None)` lifts the limit.
    pub retention_bytes: Option<Option<u64>>,
    /// A new clean-up policy.
    pub cleanup: Option<Cleanup>,
    /// A new time that tombstones are kept.
    pub tombstone_retention_ms: Option<u64>,
    /// A new default compression.
    pub compression: Option<Codec>,
    /// A new segment size, for segments to come.
    pub segment_bytes: Option<u64>,
}

impl TopicChanges {
    /// The settings after the changes.
    #[must_use]
    pub fn apply(&self, config: &TopicConfig) -> TopicConfig {
        TopicConfig {
            partitions: self.partitions.unwrap_or(config.partitions),
            retention_age_ms: self.retention_age_ms.unwrap_or(config.retention_age_ms),
            retention_bytes: self.retention_bytes.unwrap_or(config.retention_bytes),
            cleanup: self.cleanup.unwrap_or(config.cleanup),
            tombstone_retention_ms: self
                .tombstone_retention_ms
                .unwrap_or(config.tombstone_retention_ms),
            compression: self.compression.unwrap_or(config.compression),
            segment_bytes: self.segment_bytes.unwrap_or(config.segment_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_is_not_there_is_told_with_those_that_are() {
        let text = |partitions| {
            let topic = Name::new("orders").unwrap();
            let error = NoSuchPartition {
                topic,
                partition: 7,
                partitions,
            };
            error.to_string()
        };
        assert_eq!(
            text(1),
            "topic orders has no partition 7; its only partition is 0"
        );
        assert_eq!(
            text(4),
            "topic orders has no partition 7; its partitions are 0 to 3"
        );
    }

    #[test]
    fn a_segment_size_out_of_range_is_told_in_units() {
        assert_eq!(
            InvalidTopicConfig::SegmentBytes(1).to_string(),
            "a segment has 64 KiB to 2 GiB, not 1 B"
        );
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let fits = TopicConfig::default();
        fits.validate().unwrap();
        let misfits = [
            TopicConfig {
                partitions: 0,
                ..fits.clone()
            },
            TopicConfig {
                segment_bytes: 1,
                ..fits.clone()
            },
            TopicConfig {
                retention_age_ms: Some(0),
                ..fits.clone()
            },
            TopicConfig {
                retention_bytes: Some(0),
                ..fits
            },
        ];
        for misfit in misfits {
            assert!(misfit.validate().is_err(), "{misfit:?}");
        }
    }
}
