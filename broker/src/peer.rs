//! The other brokers of the cluster, as the rooms above see them: small calls and ordered streams
//! of messages to a broker by its id.
//!
//! Messages are bytes here: what they say is the business of the room that sends and serves them,
//! each under a [`PeerService`] of its own.
//!
//! ```text
//! shard, catalog, node ── call, open ──> PeerNetwork ~~ QUIC, mutual TLS ~~> PeerHandler
//! ```

mod accept;
mod calls;
mod dial;
mod envelope;
mod link;
#[cfg(test)]
pub(crate) mod memory;
mod peers;
mod refusal;
mod stream;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use flumen_protocol::ids::BrokerId;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub(crate) use self::peers::Peers;

/// Whether the bytes are a frame of calls.
pub(crate) fn decode_calls_for_fuzzing(bytes: &[u8]) -> bool {
    envelope::decode_for_fuzzing(bytes)
}

/// Bytes of a call's request or reply.
pub(crate) const CALL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of one message of a stream, head and parts together.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A message as bytes, for the rooms that put theirs in postcard.
pub(crate) fn encode(message: &impl Serialize) -> Bytes {
    postcard::to_allocvec(message)
        .expect("a message between brokers serializes into memory")
        .into()
}

/// Which room of the other broker a call or a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum PeerService {
    /// Raft between the replicas of a shard.
    Raft,
    /// Proposals for a shard that the other broker leads.
    Propose,
    /// Requests of clients that the other broker has to answer.
    Control,
    /// Records of a partition, for a replica that misses them.
    Records,
    /// The bytes of a plugin, for a broker that misses them.
    Plugins,
    /// What brokers tell each other about themselves.
    Status,
}

/// Another broker did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PeerError {
    /// It was not even asked: there is no connection to it.
    #[error("broker {broker} cannot be reached: {reason}")]
    Unreachable {
        /// The broker.
        broker: BrokerId,
        /// Why.
        reason: String,
    },
    /// It may have been asked, and no answer came.
    #[error("broker {broker} did not answer: {reason}")]
    Lost {
        /// The broker.
        broker: BrokerId,
        /// Why.
        reason: String,
    },
    /// It refused.
    #[error("broker {broker} refused: {reason}")]
    Refused {
        /// The broker.
        broker: BrokerId,
        /// Why.
        reason: String,
    },
}

impl PeerError {
    fn unreachable(broker: BrokerId, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Unreachable { broker, reason }
    }

    pub(crate) fn lost(broker: BrokerId, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Lost { broker, reason }
    }

    fn refused(broker: BrokerId, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Refused { broker, reason }
    }
}

/// A message of a stream: a head that the room decodes, and bytes that nobody copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerMessage {
    /// What the message is.
    pub(crate) head: Bytes,
    /// What goes with it. However many parts were sent, one arrives, or none where all are empty.
    pub(crate) parts: Vec<Bytes>,
}

impl PeerMessage {
    /// Bytes of head and parts together.
    fn bytes(&self) -> usize {
        self.head.len() + self.parts.iter().map(Bytes::len).sum::<usize>()
    }
}

/// The way to the other brokers.
pub(crate) trait PeerNetwork: fmt::Debug + Send + Sync + 'static {
    /// One small request and its reply. Calls that are made at about the same time share a packet.
    /// How long to wait is the caller's decision; dropping the future gives the reply up.
    fn call(
        &self,
        to: BrokerId,
        service: PeerService,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>>;

    /// Opens a stream: messages arrive in the order in which they were sent, and no other stream
    /// waits for this one. `head` tells the handler what it is for.
    fn open(
        &self,
        to: BrokerId,
        service: PeerService,
        head: Bytes,
    ) -> BoxFuture<'static, Result<PeerStream, PeerError>>;
}

/// What a room does for the other brokers.
pub(crate) trait PeerHandler: Send + Sync + 'static {
    /// Answers a call. The error is the text of [`PeerError::Refused`] on the other side.
    fn call(&self, from: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;

    /// Serves a stream until it returns.
    fn stream(&self, from: BrokerId, head: Bytes, stream: PeerStream) -> BoxFuture<'static, ()>;
}

/// Both directions of a stream. A half that is dropped before it has finished is reset.
pub(crate) struct PeerStream {
    /// Towards the other broker.
    pub(crate) sender: Box<dyn PeerSender>,
    /// From the other broker.
    pub(crate) receiver: Box<dyn PeerReceiver>,
}

/// Sends the messages of a stream.
pub(crate) trait PeerSender: Send + 'static {
    /// Hands a message to the connection; waits while flow control says so.
    fn send(&mut self, message: PeerMessage) -> BoxFuture<'_, Result<(), PeerError>>;

    /// Says that nothing follows; what was sent still arrives.
    fn finish(&mut self);
}

/// Receives the messages of a stream.
pub(crate) trait PeerReceiver: Send + 'static {
    /// The next message; `None` when the other side has finished. Dropping the future loses
    /// nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<PeerMessage>, PeerError>>;
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream").finish_non_exhaustive()
    }
}

/// The network of a broker that has no peers.
#[derive(Debug)]
pub(crate) struct Alone;

impl Alone {
    fn unreachable<T: Send + 'static>(
        broker: BrokerId,
    ) -> BoxFuture<'static, Result<T, PeerError>> {
        let reason = "this broker is alone".to_owned();
        Box::pin(std::future::ready(Err(PeerError::Unreachable {
            broker,
            reason,
        })))
    }
}

impl PeerNetwork for Alone {
    fn call(
        &self,
        to: BrokerId,
        _: PeerService,
        _: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        Self::unreachable(to)
    }

    fn open(
        &self,
        to: BrokerId,
        _: PeerService,
        _: Bytes,
    ) -> BoxFuture<'static, Result<PeerStream, PeerError>> {
        Self::unreachable(to)
    }
}

/// The messages of this room, for the test that pins them.
#[cfg(test)]
pub(crate) fn add_messages(schema: &mut flumen_schema::Schema) {
    schema.add::<wire::PeerOpen>();
    schema.add::<wire::Hello>();
    schema.add::<Vec<envelope::CallHead>>();
    schema.add::<Vec<envelope::ReplyHead>>();
}
