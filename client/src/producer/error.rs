//! Why messages were not sent, and when that is not known.

use std::{sync::Arc, time::Duration};

use flumen_protocol::{
    batch::PushError,
    error::ErrorCode,
    size::Size,
    topic::{NoSuchPartition, TopicName},
};

use super::delivery::DeliveryError;
use crate::payload::EncodeError;

/// Why a message has no receipt. [`SendError::is_unknown`] tells whether it may be stored
/// all the same.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A plugin refused the message's batch, in its own words. It is not stored.
    #[error("message to topic {topic} was rejected by a plugin: {text}")]
    Rejected {
        /// The topic.
        topic: TopicName,
        /// Which message of the batch is at fault, if the plugin said so: counted from 0, in
        /// the order in which the messages of this partition were given to the producer and
        /// those that share its delivery.
        record: Option<u32>,
        /// The plugin's words.
        text: String,
    },
    /// The broker refused the message's batch. It is not stored.
    #[error("message to topic {topic} was refused: {text}")]
    Refused {
        /// The topic.
        topic: TopicName,
        /// The broker's reason, for programs.
        code: ErrorCode,
        /// The broker's reason, for people.
        text: String,
    },
    /// No receipt came in time: the outcome is **unknown**, the message may be stored.
    #[error(
        "message to topic {topic} has no receipt after {after:?}: its outcome is unknown, it may be stored"
    )]
    TimedOut {
        /// The topic.
        topic: TopicName,
        /// The producer's delivery time-out.
        after: Duration,
    },
    /// The outcome is **unknown** for another reason: the message may be stored.
    #[error("the outcome of a message to topic {topic} is unknown, it may be stored: {text}")]
    Unknown {
        /// The topic.
        topic: TopicName,
        /// What happened.
        text: String,
    },
    /// The broker could not take the message in time. It is not stored.
    #[error(
        "message to topic {topic} could not be sent within {after:?} and is not stored: {text}"
    )]
    NotSent {
        /// The topic.
        topic: TopicName,
        /// The producer's delivery time-out.
        after: Duration,
        /// What was in the way.
        text: String,
    },
    /// The client was closed before the message had a receipt. It is not stored.
    #[error(
        "message to topic {topic} is not stored: the client was closed first; before that, {text}"
    )]
    GivenUp {
        /// The topic.
        topic: TopicName,
        /// What was in the way until then.
        text: String,
    },
    /// A task of the client's own has ended that should not: a fault of the client, or the runtime in
    /// which it was started has shut down. The message is not stored, and this producer sends no
    /// more.
    #[error(
        "message to topic {topic} is not stored: a task of the client has stopped, as its runtime may \
         have; connect another client, in a runtime that goes on, and build a producer of that"
    )]
    Stopped {
        /// The topic.
        topic: TopicName,
    },
    /// The producer's memory stayed full. The message was not taken.
    #[error(
        "message to topic {topic} was not taken: within {after:?} there was no room for it among the {} that may wait to be sent",
        Size::of(*bytes_max)
    )]
    Full {
        /// The topic.
        topic: TopicName,
        /// The producer's limit of bytes that wait.
        bytes_max: usize,
        /// The producer's delivery time-out.
        after: Duration,
    },
    /// The message exceeds a limit. It was not taken.
    #[error("message to topic {topic} was not taken: {source}")]
    Invalid {
        /// The topic.
        topic: TopicName,
        /// Which limit.
        source: PushError,
    },
    /// The value cannot be written in the producer's format. The message was not taken.
    #[error("message to topic {topic} was not taken: {source}")]
    Encode {
        /// The topic.
        topic: TopicName,
        /// Why.
        source: Arc<EncodeError>,
    },
    /// The message names a partition that the topic does not have. It was not taken.
    #[error("message was not taken: {0}")]
    UnknownPartition(#[source] NoSuchPartition),
    /// Messages that were enqueued before failed. This one was taken: to enqueue it again would
    /// send it twice. It is reported once.
    #[error("{0}; the message that was enqueued now was taken")]
    Earlier(#[source] Arc<FlushError>),
    /// The producer was closed. The message was not taken.
    #[error("message to topic {topic} was not taken: the producer is closed")]
    Closed {
        /// The topic.
        topic: TopicName,
    },
}

impl SendError {
    /// Whether the message may be stored in spite of the error.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Unknown { .. })
    }

    pub(super) fn of_delivery(error: &DeliveryError, topic: &TopicName, after: Duration) -> Self {
        let topic = topic.clone();
        match error {
            DeliveryError::Rejected(error) => Self::Rejected {
                topic,
                record: error.record,
                text: error.text.clone(),
            },
            DeliveryError::Refused(error) => Self::Refused {
                topic,
                code: error.code,
                text: error.text.clone(),
            },
            DeliveryError::Stopped => Self::Stopped { topic },
            DeliveryError::TimedOut => Self::TimedOut { topic, after },
            DeliveryError::Unknown(text) => Self::Unknown {
                topic,
                text: text.clone(),
            },
            DeliveryError::GivenUp(text) => Self::GivenUp {
                topic,
                text: text
                    .clone()
                    .unwrap_or_else(|| "it was not sent yet".to_owned()),
            },
            DeliveryError::NotSent(text) => Self::NotSent {
                topic,
                after,
                text: text
                    .clone()
                    .unwrap_or_else(|| "no broker could be reached".to_owned()),
            },
        }
    }
}

/// Of messages that were handed over together not all were taken, or some failed that were enqueued
/// before ([`SendError::Earlier`]).
#[derive(Clone, Debug, thiserror::Error)]
#[error("{taken} messages were taken, and then: {source}")]
#[non_exhaustive]
pub struct SendAllError {
    /// How many messages were taken; they are on their way. Those behind them are not sent, though
    /// up to 64 of them were taken from the iterator: to go on, skip so many of all.
    pub taken: usize,
    /// Why no more were taken.
    pub source: SendError,
}

/// Enqueued messages failed. Those that were awaited with `send` are not counted here.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{failed} enqueued messages failed (of {unknown} the outcome is unknown); the first: {first}"
)]
#[non_exhaustive]
pub struct FlushError {
    /// How many have no receipt.
    pub failed: u64,
    /// Of how many of those it is not known whether they are stored.
    pub unknown: u64,
    /// The first error.
    #[source]
    pub first: SendError,
}
