//! The settings of a topic as flags, and as text.

use std::str::FromStr;

use flumen_broker::config::{ByteSize, Interval};
use flumen_protocol::{
    batch::Codec,
    limits::PARTITIONS_PER_TOPIC_MAX,
    topic::{Cleanup, TopicChanges, TopicConfig},
};

use crate::{number::whole, output};

/// Flags of the settings that can be changed later, too.
#[derive(Debug, clap::Args)]
pub(crate) struct SettingFlags {
    /// How many partitions; more of them let more consumers and disks share the work
    #[arg(long, value_name = "N", value_parser = whole(1..=PARTITIONS_PER_TOPIC_MAX))]
    partitions: Option<u32>,
    /// How long records are kept, such as 7d, or `forever`
    #[arg(long, value_name = "DURATION|forever")]
    retention_age: Option<Limit<Interval>>,
    /// How much each partition keeps, such as 10GiB, or `unlimited`
    #[arg(long, value_name = "SIZE|unlimited")]
    retention_size: Option<Limit<ByteSize>>,
    /// What happens to old records: `delete` them, or `compact` to the last one of each key
    #[arg(long, value_name = "delete|compact", value_parser = parse_cleanup)]
    cleanup: Option<Cleanup>,
    /// How long a compacted topic keeps the marks of deleted keys
    #[arg(long, value_name = "DURATION")]
    tombstone_retention: Option<Interval>,
    /// How producers compress batches, unless told otherwise
    #[arg(long, value_name = "none|lz4|zstd")]
    compression: Option<Codec>,
    /// The size at which a partition begins a new file
    #[arg(long, value_name = "SIZE")]
    segment_size: Option<ByteSize>,
}

impl SettingFlags {
    /// What the flags change.
    pub(crate) fn changes(&self) -> TopicChanges {
        TopicChanges {
            partitions: self.partitions,
            retention_age_ms: self
                .retention_age
                .map(|Limit(limit)| limit.map(Interval::as_millis)),
            retention_bytes: self
                .retention_size
                .map(|Limit(limit)| limit.map(ByteSize::as_u64)),
            cleanup: self.cleanup,
            tombstone_retention_ms: self.tombstone_retention.map(Interval::as_millis),
            compression: self.compression,
            segment_bytes: self.segment_size.map(ByteSize::as_u64),
        }
    }
}

/// A limit, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit<T>(pub(crate) Option<T>);

impl<T: FromStr> FromStr for Limit<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "forever" | "unlimited" | "none" => Ok(Self(None)),
            _ => text.parse().map(|limit| Self(Some(limit))),
        }
    }
}

fn parse_cleanup(text: &str) -> Result<Cleanup, String> {
    match text {
        "delete" => Ok(Cleanup::Delete),
        "compact" => Ok(Cleanup::Compact),
        _ => Err(format!("{text:?} is no clean-up; use delete or compact")),
    }
}

pub(crate) fn cleanup_text(cleanup: Cleanup) -> &'static str {
    match cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
    }
}

/// What a topic keeps, in a few words: `7d, 10 GiB a partition`.
pub(crate) fn retention_text(config: &TopicConfig) -> String {
    let age = match config.retention_age_ms {
        Some(ms) => Interval::from_millis(ms).to_string(),
        None => "forever".to_owned(),
    };
    match config.retention_bytes {
        Some(bytes) => format!("{age}, {} a partition", output::bytes(bytes)),
        None => age,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_can_be_lifted() {
        assert_eq!("forever".parse::<Limit<Interval>>().unwrap(), Limit(None));
        let week = Interval::from_secs(7 * 24 * 60 * 60);
        assert_eq!("7d".parse::<Limit<Interval>>().unwrap(), Limit(Some(week)));
        assert!("7 parsecs".parse::<Limit<Interval>>().is_err());
    }
}
