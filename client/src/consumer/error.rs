//! Why a consumer cannot go on, or had to pass something over.

use std::{sync::Arc, time::Duration};

use flumen_protocol::{
    batch::BatchError,
    error::{ErrorCode, WireError},
    ids::Offset,
    topic::TopicName,
};

use crate::{payload::DecodeError, request::RequestError};

/// What a consumer yields in place of messages. Unless [`ConsumeError::is_fatal`] says otherwise
/// the consumer goes on: the next call yields what follows.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The consumer cannot be set up.
    #[error(transparent)]
    Setup(#[from] RequestError),
    /// The consumer did not start within the client's request time-out.
    #[error("topic {topic} could not be read within {after:?}: {text}")]
    NotStarted {
        /// The topic.
        topic: TopicName,
        /// The request time-out.
        after: Duration,
        /// What was in the way.
        text: String,
    },
    /// The broker refused. The consumer ends.
    #[error("consuming topic {topic} was refused: {text}")]
    Refused {
        /// The topic.
        topic: TopicName,
        /// The reason, for programs.
        code: ErrorCode,
        /// The reason, for people.
        text: String,
    },
    /// The topic was deleted, and another one has its name now. Nothing more comes of the one that
    /// was read, and its offsets say nothing about the other one. The consumer ends.
    #[error(
        "topic {topic} was deleted and made anew while it was read: build another consumer, and start \
         it at the beginning"
    )]
    TopicReplaced {
        /// The topic.
        topic: TopicName,
    },
    /// The client was closed. The consumer ends.
    #[error("topic {topic} is not read any more: the client was closed")]
    Closed {
        /// The topic.
        topic: TopicName,
    },
    /// A task of the client's own has ended that should not: a fault of the client, or its runtime
    /// shuts down. The consumer ends; another one can go on where it was.
    #[error("reading topic {topic} has stopped, which is a fault of the client: {text}")]
    Stopped {
        /// The topic.
        topic: TopicName,
        /// What is known of it.
        text: String,
    },
    /// A stored batch is damaged; its records are passed over.
    #[error(
        "a batch at offset {offset} of partition {partition} of topic {topic} is passed over: {source}"
    )]
    Damaged {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// Where the batch begins, as far as can be told.
        offset: Offset,
        /// What is wrong with it.
        source: BatchError,
    },
    /// The broker cannot read a partition from its disk. The consumer goes on with the other
    /// partitions; a new consumer may begin behind the damage.
    #[error(
        "partition {partition} of topic {topic} cannot be read from offset {offset} on: {text}"
    )]
    Unreadable {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// The first offset that could not be read.
        offset: Offset,
        /// What the broker says.
        text: String,
    },
    /// A batch holds values of another type; its records are passed over.
    #[error(
        "records from offset {offset} on of partition {partition} of topic {topic} are passed over: they hold {found:?}, this consumer reads {wanted:?}"
    )]
    WrongType {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// The first offset that is passed over.
        offset: Offset,
        /// The content type of the batch.
        found: String,
        /// The content type that the consumer reads.
        wanted: String,
    },
    /// A value cannot be read; its record is passed over.
    #[error(
        "the record at offset {offset} of partition {partition} of topic {topic} is passed over: {source}"
    )]
    Decode {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// The record's offset.
        offset: Offset,
        /// What is wrong with it.
        source: Arc<DecodeError>,
    },
}

impl ConsumeError {
    pub(super) fn refused(topic: &TopicName, error: WireError) -> Self {
        Self::Refused {
            topic: topic.clone(),
            code: error.code,
            text: error.text,
        }
    }

    pub(super) fn stopped(topic: &TopicName, text: &str) -> Self {
        Self::Stopped {
            topic: topic.clone(),
            text: text.to_owned(),
        }
    }

    /// Whether the consumer ends with this error.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Refused { .. }
                | Self::Setup(_)
                | Self::NotStarted { .. }
                | Self::TopicReplaced { .. }
                | Self::Closed { .. }
                | Self::Stopped { .. }
        )
    }
}
