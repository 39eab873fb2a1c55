//! Why a request to the cluster has no answer.

use std::time::Duration;

use flumen_protocol::{
    error::{ErrorCode, WireError},
    topic::{InvalidName, InvalidTopicConfig, TopicName},
};

use crate::connection::ConnectError;

/// Why a request to the cluster failed, or why its outcome is not known;
/// [`RequestError::is_unknown`] tells which.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No broker can be reached. Nothing was done.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A topic or plugin cannot have this name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A topic cannot have these settings.
    #[error(transparent)]
    TopicConfig(#[from] InvalidTopicConfig),
    /// There is no such topic.
    #[error("topic {topic} does not exist; `flumen topic create {topic}` makes it")]
    UnknownTopic {
        /// The topic.
        topic: TopicName,
    },
    /// The broker refused. Nothing was done.
    #[error("{text}")]
    Refused {
        /// The request.
        what: &'static str,
        /// The reason, for programs.
        code: ErrorCode,
        /// The reason, for people.
        text: String,
    },
    /// The broker has answered, and whether the change was made, or is in force everywhere, is
    /// **unknown**: it says what is known of it.
    #[error("{text}")]
    Unclear {
        /// The request.
        what: &'static str,
        /// The broker's words.
        text: String,
    },
    /// No answer came to a request that changes nothing.
    #[error("no answer to {what} within {after:?}{}", text.as_deref().map_or_else(String::new, |text| format!(": {text}")))]
    NoAnswer {
        /// The request.
        what: &'static str,
        /// The request time-out, or how long it was tried.
        after: Duration,
        /// Why the last attempt failed, if one did.
        text: Option<String>,
    },
    /// No answer came in time: whether a change was made is **unknown**.
    #[error("no answer to {what} within {after:?}: whether it was done is unknown")]
    TimedOut {
        /// The request.
        what: &'static str,
        /// The request time-out.
        after: Duration,
    },
    /// The connection broke before the answer: whether a change was made is **unknown**.
    #[error(
        "the connection broke before the answer to {what} ({text}): whether it was done is unknown"
    )]
    Lost {
        /// The request.
        what: &'static str,
        /// What happened.
        text: String,
    },
    /// The answer is not one to this request; the broker may be of another version.
    #[error("the broker's answer to {what} makes no sense; is it of another version?")]
    UnexpectedReply {
        /// The request.
        what: &'static str,
    },
    /// A setting of a producer or consumer cannot be used.
    #[error("{text}")]
    Setting {
        /// Which, and why.
        text: String,
    },
}

impl RequestError {
    pub(crate) fn refused(what: &'static str, error: WireError) -> Self {
        Self::Refused {
            what,
            code: error.code,
            text: error.text,
        }
    }

    /// Whether a change that was asked for may have been made in spite of the error.
    pub fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. } | Self::Lost { .. } | Self::Unclear { .. }
        )
    }

    /// The broker's reason, if it gave one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::UnknownTopic { .. } => Some(ErrorCode::UnknownTopic),
            _ => None,
        }
    }
}
