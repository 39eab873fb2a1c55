//! What brokers ask each other on behalf of clients.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use flumen_protocol::{
    error::{ErrorCode, WireError},
    ids::{BrokerId, Offset},
    message::{BrokerInfo, PartitionDescription, Reply, Request},
    topic::TopicName,
};
use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Node,
    members::{self, Told, Tried},
};
use crate::peer::{
    PeerError, PeerHandler, PeerMessage, PeerNetwork, PeerService, PeerStream, encode,
};

/// How long a broker may take to have a change in force that is made.
pub(super) const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a broker may take to tell what it knows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a broker may take to try an address.
const TRY_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a broker may take to try an address and have it registered by the catalog's leader.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a request may take at the broker that it was passed on to: plugins are compiled there.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);

/// A small question to another broker.
#[derive(Serialize, Deserialize)]
enum Question {
    /// Answered when the change is in force.
    Follow { version: u64 },
    /// Partitions that the broker leads.
    Describe { topic: TopicName, indexes: Vec<u32> },
    /// Where a time begins in partitions that the broker leads.
    OffsetsForTime {
        topic: TopicName,
        indexes: Vec<u32>,
        time_ms: i64,
    },
    /// Who the members are by the catalog of the broker.
    Members,
    /// Whether the broker that asks can be dialed at an address.
    Try { address: String },
    /// The same, and if so, the catalog is to say that it is there.
    Register { broker: BrokerInfo },
}

/// Serves other brokers once the node is there.
pub(super) struct Remote {
    node: Weak<Node>,
}

impl Remote {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        Self {
            node: Arc::downgrade(node),
        }
    }

    fn node(&self) -> Result<Arc<Node>, String> {
        let node = self.node.upgrade();
        node.ok_or_else(|| "the broker is stopping".to_owned())
    }
}

impl PeerHandler for Remote {
    fn call(&self, from: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let node = self.node();
        Box::pin(async move {
            let node = node?;
            let question = postcard::from_bytes(&request).map_err(|error| error.to_string())?;
            Ok(match question {
                Question::Follow { version } => encode(&node.follow(version).await),
                Question::Describe { topic, indexes } => {
                    encode(&node.topics.describe_led(&topic, &indexes).await)
                }
                Question::OffsetsForTime {
                    topic,
                    indexes,
                    time_ms,
                } => encode(
                    &node
                        .topics
                        .offsets_for_time(&topic, &indexes, time_ms)
                        .await,
                ),
                Question::Members => {
                    encode(&Ok::<_, WireError>(Told::by(&node.catalog.snapshot())))
                }
                Question::Try { address } => {
                    encode(&Ok::<_, WireError>(node.try_address(from, &address).await))
                }
                Question::Register { broker } => {
                    encode(&match members::check_own_address(from, &broker) {
                        Ok(()) => node.register_other(broker).await,
                        Err(error) => Err(error),
                    })
                }
            })
        })
    }

    fn stream(&self, from: BrokerId, head: Bytes, stream: PeerStream) -> BoxFuture<'static, ()> {
        let node = self.node();
        Box::pin(async move {
            let served = match node {
                Ok(node) => take_request(&node, &head, stream).await,
                Err(reason) => Err(reason),
            };
            if let Err(reason) = served {
                tracing::debug!(broker = %from, reason, "a request that was passed on failed");
            }
        })
    }
}

/// Carries out a request that another broker passed on.
async fn take_request(node: &Node, head: &[u8], mut stream: PeerStream) -> Result<(), String> {
    let request: Request = postcard::from_bytes(head).map_err(|error| error.to_string())?;
    let payload = stream.receiver.next().await.map_err(|e| e.to_string())?;
    let payload = payload.and_then(|message| message.parts.into_iter().next());
    let reply = node.change(request, payload.unwrap_or_default()).await;
    let message = PeerMessage {
        head: encode(&reply),
        parts: Vec::new(),
    };
    let sent = stream.sender.send(message).await;
    sent.map_err(|error| error.to_string())?;
    stream.sender.finish();
    Ok(())
}

/// Passes a request on to the broker that leads the catalog.
pub(super) async fn forward(
    network: &dyn PeerNetwork,
    leader: BrokerId,
    request: &Request,
    payload: Bytes,
) -> Reply {
    let carried = async {
        let mut stream = network
            .open(leader, PeerService::Control, encode(request))
            .await?;
        let message = PeerMessage {
            head: Bytes::new(),
            parts: vec![payload],
        };
        stream.sender.send(message).await?;
        stream.sender.finish();
        stream.receiver.next().await
    };
    match tokio::time::timeout(FORWARD_TIMEOUT, carried).await {
        Ok(Ok(Some(reply))) => postcard::from_bytes(&reply.head).unwrap_or_else(|error| {
            let text = format!("broker {leader} answered in another version's words: {error}");
            Err(WireError::new(ErrorCode::Internal, text))
        }),
        Ok(Err(error)) => Err(unanswered(&error)),
        Ok(Ok(None)) | Err(_) => Err(lost(leader)),
    }
}

/// Waits until other brokers have a change in force. Those that fail meanwhile are not waited
/// for: they take up nothing before they have caught up.
pub(super) async fn followed(
    network: &dyn PeerNetwork,
    others: impl Iterator<Item = BrokerId>,
    version: u64,
) -> Result<(), WireError> {
    let question = Question::Follow { version };
    let asked = others.map(|broker| {
        let answer = ask::<()>(network, broker, &question, FOLLOW_TIMEOUT);
        async move { (broker, answer.await) }
    });
    for (broker, answer) in join_all(asked).await {
        if let Err(error) = answer {
            tracing::warn!(%broker, %error, "a change is not known to be in force on this broker");
        }
    }
    Ok(())
}

/// Partitions as the broker that leads them knows them.
pub(super) async fn describe(
    network: &dyn PeerNetwork,
    leader: BrokerId,
    topic: &TopicName,
    indexes: &[u32],
) -> Result<Vec<PartitionDescription>, WireError> {
    let question = Question::Describe {
        topic: topic.clone(),
        indexes: indexes.to_vec(),
    };
    ask(network, leader, &question, ANSWER_TIMEOUT).await
}

/// Where a time begins in partitions, as the broker that leads them knows it.
pub(super) async fn offsets_for_time(
    network: &dyn PeerNetwork,
    leader: BrokerId,
    topic: &TopicName,
    indexes: &[u32],
    time_ms: i64,
) -> Result<Vec<Offset>, WireError> {
    let question = Question::OffsetsForTime {
        topic: topic.clone(),
        indexes: indexes.to_vec(),
        time_ms,
    };
    ask(network, leader, &question, ANSWER_TIMEOUT).await
}

/// Who the members are, as another one of them knows it.
pub(super) fn members(
    network: &dyn PeerNetwork,
    broker: BrokerId,
) -> impl Future<Output = Result<Told, WireError>> + use<> {
    ask(network, broker, &Question::Members, ANSWER_TIMEOUT)
}

/// Whether another broker gets to this one at an address.
pub(super) fn try_address(
    network: &dyn PeerNetwork,
    broker: BrokerId,
    address: &str,
) -> impl Future<Output = Result<Tried, WireError>> + use<> {
    let address = address.to_owned();
    ask(network, broker, &Question::Try { address }, TRY_TIMEOUT)
}

/// Has another broker tell the catalog's leader where this one is, if it gets there.
pub(super) fn register(
    network: &dyn PeerNetwork,
    by: BrokerId,
    broker: &BrokerInfo,
) -> impl Future<Output = Result<Tried, WireError>> + use<> {
    let broker = broker.clone();
    ask(
        network,
        by,
        &Question::Register { broker },
        REGISTER_TIMEOUT,
    )
}

fn ask<R: DeserializeOwned>(
    network: &dyn PeerNetwork,
    broker: BrokerId,
    question: &Question,
    timeout: Duration,
) -> impl Future<Output = Result<R, WireError>> + use<R> {
    let call = network.call(broker, PeerService::Control, encode(question));
    async move {
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(reply)) => postcard::from_bytes(&reply).unwrap_or_else(|error| {
                let text = format!("broker {broker} answered in another version's words: {error}");
                Err(WireError::new(ErrorCode::Internal, text))
            }),
            Ok(Err(error)) => Err(unanswered(&error)),
            Err(_) => Err(lost(broker)),
        }
    }
}

fn unanswered(error: &PeerError) -> WireError {
    let code = match error {
        // Nothing was done: another broker may lead by now.
        PeerError::Unreachable { .. } | PeerError::Refused { .. } => ErrorCode::NotLeader,
        PeerError::Lost { .. } => ErrorCode::Timeout,
    };
    WireError::new(code, error.to_string())
}

pub(super) fn lost(broker: BrokerId) -> WireError {
    let text = format!(
        "broker {broker} was asked and has not answered; whether the request was carried out is \
         not known"
    );
    WireError::new(ErrorCode::Timeout, text)
}

/// The messages of this room, for the test that pins them.
#[cfg(test)]
pub(super) fn add_messages(schema: &mut flumen_schema::Schema) {
    schema.add::<Question>();
    schema.add::<Result<(), WireError>>();
    schema.add::<Result<Vec<PartitionDescription>, WireError>>();
    schema.add::<Result<Vec<Offset>, WireError>>();
    schema.add::<Result<Told, WireError>>();
    schema.add::<Result<Tried, WireError>>();
    schema.add::<Request>();
    schema.add::<Reply>();
}
