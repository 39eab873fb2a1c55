//! Consume streams: the broker pushes batches.

use serde::{Deserialize, Serialize};

use crate::{
    error::WireError,
    ids::{Offset, TopicId},
    topic::TopicName,
};

/// Opens a consume stream, at the leader of the partitions or at any other broker that has a
/// copy of them.
///
/// A broker that does not lead a partition may be behind. Where its copy does not tell (the
/// start is the end, a time, or an offset past the end of its copy), it asks the leader, or
/// refuses with [`NotLeader`](crate::error::ErrorCode::NotLeader); a start that lies in what it
/// does not have yet, but the leader has, is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumeOpen {
    /// The topic.
    pub topic: TopicName,
    /// The one that is meant, of all that ever had the name. A broker that knows another one
    /// refuses, with an error that can be retried: it may be behind, or the topic was made anew.
    pub topic_id: Option<TopicId>,
    /// The partitions and where to start in each.
    pub partitions: Vec<(u32, StartAt)>,
}

/// Where a consumer starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// The oldest record.
    #[default]
    Beginning,
    /// The next record to come.
    End,
    /// A record by its offset. One before the oldest starts at the oldest; one past the
    /// end is an error.
    Offset(Offset),
    /// The first record whose time is at or after this one, in milliseconds since the epoch.
    Time(i64),
}

/// A frame to the consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ConsumeEvent {
    /// The first frame: where each partition starts and where it ended at that moment, as far
    /// as that is known, in the order of the request. Comes again, for one partition, when it has
    /// nothing for a consumer before another offset: compaction or retention has left a gap.
    Started(Vec<PartitionStart>),
    /// The payload is one encoded batch. Its first records may lie before the offset that
    /// was asked for; the consumer passes over them.
    Batch {
        /// The partition's index.
        partition: u32,
        /// The end of the partition as the broker knew it when it sent this.
        end_offset: Offset,
    },
    /// The stream ends with this frame.
    Failed(WireError),
    /// A partition cannot be read any further. The stream goes on with the others.
    PartitionFailed {
        /// The partition's index.
        partition: u32,
        /// Why.
        error: WireError,
    },
    /// The broker hears of no leader of these partitions any more, or leads them and hears of no
    /// majority: what is new may be on other brokers. The stream goes on with what comes here.
    CutOff {
        /// The indexes of the partitions.
        partitions: Vec<u32>,
    },
}

/// Where a consumer starts in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStart {
    /// The partition's index.
    pub partition: u32,
    /// The first offset that will be delivered.
    pub start_offset: Offset,
    /// The partition's end at the start, with all that was acknowledged before. Only its leader
    /// knows it: `None` while none can be asked. A copy may be read meanwhile, and be behind.
    pub end_offset: Option<Offset>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{
        FRAME_HEADER_BYTES_MAX, NAME_CHARS_MAX, PARTITIONS_PER_CONSUMER_MAX,
        PARTITIONS_PER_TOPIC_MAX,
    };

    /// Each number as large as it can get.
    fn largest<T>(of: impl Fn(u32, Offset) -> T) -> Vec<T> {
        let last = PARTITIONS_PER_TOPIC_MAX - 1;
        let each = |_| of(last, Offset(u64::MAX));
        (0..PARTITIONS_PER_CONSUMER_MAX).map(each).collect()
    }

    #[test]
    fn the_places_of_all_partitions_of_a_stream_fit_into_a_frame() {
        let open = ConsumeOpen {
            topic: TopicName::new("t".repeat(NAME_CHARS_MAX)).unwrap(),
            topic_id: Some(TopicId(u64::MAX)),
            partitions: largest(|partition, offset| (partition, StartAt::Offset(offset))),
        };
        let started = ConsumeEvent::Started(largest(|partition, offset| PartitionStart {
            partition,
            start_offset: offset,
            end_offset: Some(offset),
        }));
        let cut_off = ConsumeEvent::CutOff {
            partitions: largest(|partition, _| partition),
        };
        for bytes in [
            postcard::to_stdvec(&cut_off).unwrap(),
            postcard::to_stdvec(&open).unwrap(),
            postcard::to_stdvec(&started).unwrap(),
        ] {
            assert!(bytes.len() <= FRAME_HEADER_BYTES_MAX, "{}", bytes.len());
        }
    }
}
