//! Proposals, made here or by the broker that leads the group.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flumen_protocol::ids::{BrokerId, ShardId};
use openraft::{Raft, errors::ClientWriteError};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::Group;
use crate::{
    clock::now_ms,
    peer::{PeerError, PeerMessage, PeerNetwork, PeerService},
    shard::{
        admission::{Admission, BATCH_HEAD_BYTES_MAX, Room},
        command::{self, Command},
        data::AppendError,
        machine::RaftMachine,
        reserve,
        types::{Callback, Response, TypeConfig},
    },
    wal::{Reservation, Wal},
};

/// How long a proposal may take, finding a leader included.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Proposals of more bytes travel on a stream of their own.
const CALLED_BYTES_MAX: usize = 512 * 1024;

/// How long to wait before the leader is looked for again.
pub(super) const LEADER_RETRY_AFTER: Duration = Duration::from_millis(20);

/// A proposal came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Another broker leads the shard, or none does.
    #[error("this broker does not lead the shard; ask the one that does")]
    NotLeader,
    /// The leader lost its place, or was not heard of any more, while it was on its way.
    #[error(
        "the shard's leader changed or was lost meanwhile; whether the request was carried out is \
         not known"
    )]
    Unknown,
    /// The shard has stopped; whether the proposal was taken is not known.
    #[error("the shard has stopped; whether the request was carried out is not known")]
    Stopped,
    /// There is no room for it.
    #[error("no room for the request: {reason}; try again later")]
    NoRoom {
        /// What the write-ahead log said.
        reason: String,
    },
}

/// A proposal on its way to the leader.
#[derive(Serialize, Deserialize)]
struct Forwarded {
    shard: ShardId,
    command: Bytes,
}

/// Where proposals are made on this broker. Cheap to clone.
#[derive(Clone)]
pub(in crate::shard) struct LocalProposals {
    raft: Raft<TypeConfig, RaftMachine>,
    wal: Wal,
    admission: Option<Admission>,
}

impl LocalProposals {
    /// Proposes a command, if this broker leads, and waits until it is applied.
    pub(in crate::shard) async fn propose(
        &self,
        command: Arc<Command>,
    ) -> Result<Response, ProposeError> {
        let _room = self.room(&command).await?;
        let (tx, rx) = oneshot::channel();
        let callback = Callback::new(move |result| {
            // The caller may have gone; the command stands.
            let _ = tx.send(result);
        });
        self.raft
            .client_write_ff(command, Some(callback))
            .await
            .map_err(|_| ProposeError::Stopped)?;
        // Who asked waits no longer either, and the room is that of all shards.
        match timeout(PROPOSE_TIMEOUT, rx).await {
            Ok(Ok(Ok(written))) => Ok(written.data),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Err(ProposeError::NotLeader),
            Ok(Ok(Err(_))) | Err(_) => Err(ProposeError::Unknown),
            Ok(Err(_)) => Err(ProposeError::Stopped),
        }
    }

    /// Room for a command. Records that plugins send here from other brokers get no more than those
    /// of producers: what is kept back for commands may be what makes room for both.
    async fn room(&self, command: &Command) -> Result<Taken, ProposeError> {
        match (command, &self.admission) {
            (Command::Append { batches, .. }, Some(admission)) => {
                for (partition, _) in batches {
                    admission.check_partition(*partition)?;
                }
                let heads = batches.len() * BATCH_HEAD_BYTES_MAX;
                let room = admission.room(command.len_bytes() + heads).await;
                Ok(Taken::Room(room?))
            }
            _ => Ok(Taken::Reserved(reserve(&self.wal, command)?)),
        }
    }
}

/// What a proposal takes until it is applied.
#[expect(dead_code, reason = "it is given back by being dropped")]
enum Taken {
    Room(Room),
    Reserved(Reservation),
}

impl From<AppendError> for ProposeError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Failed { .. } | AppendError::Stopped => Self::Stopped,
            error => Self::NoRoom {
                reason: error.to_string(),
            },
        }
    }
}

impl Group {
    pub(in crate::shard) fn local_proposals(&self) -> LocalProposals {
        LocalProposals {
            raft: self.raft.clone(),
            wal: self.parts.wal.clone(),
            admission: self.admission(),
        }
    }

    /// Proposes a command to whichever broker leads, and waits until it is applied there.
    pub(crate) async fn propose(&self, command: Command) -> Result<Response, ProposeError> {
        let command = Arc::new(command);
        until_led(|| self.propose_once(&command)).await
    }

    async fn propose_once(&self, command: &Arc<Command>) -> Result<Response, ProposeError> {
        match self.leader().0 {
            None => Err(ProposeError::NotLeader),
            Some(leader) if leader == self.parts.broker => {
                self.local_proposals().propose(Arc::clone(command)).await
            }
            Some(leader) => self.forward(leader, command).await,
        }
    }

    async fn forward(&self, leader: BrokerId, command: &Command) -> Result<Response, ProposeError> {
        forward(&*self.parts.network, leader, self.shard, command).await
    }
}

/// Proposes again and again while nobody leads who could take the proposal, and time is left.
pub(crate) async fn until_led<F: Future<Output = Result<Response, ProposeError>>>(
    propose: impl Fn() -> F,
) -> Result<Response, ProposeError> {
    let deadline = Instant::now() + PROPOSE_TIMEOUT;
    loop {
        let once = timeout_at(deadline, propose()).await;
        match once.unwrap_or(Err(ProposeError::Unknown)) {
            Err(ProposeError::NotLeader) if Instant::now() + LEADER_RETRY_AFTER < deadline => {
                sleep(LEADER_RETRY_AFTER).await;
            }
            outcome => return outcome,
        }
    }
}

/// Proposes a command on another broker, which should be the leader.
pub(crate) async fn forward(
    network: &dyn PeerNetwork,
    leader: BrokerId,
    shard: ShardId,
    command: &Command,
) -> Result<Response, ProposeError> {
    let no_room = |error: &dyn std::fmt::Display| ProposeError::NoRoom {
        reason: error.to_string(),
    };
    let command = command::encode_command(command).map_err(|error| no_room(&error))?;
    let request: Bytes = postcard::to_allocvec(&Forwarded { shard, command })
        .map_err(|error| no_room(&error))?
        .into();
    let reply = if request.len() > CALLED_BYTES_MAX {
        send(network, leader, request).await
    } else {
        network.call(leader, PeerService::Propose, request).await
    };
    match reply {
        Ok(reply) => postcard::from_bytes(&reply).unwrap_or(Err(ProposeError::Unknown)),
        // It did nothing.
        Err(PeerError::Unreachable { .. } | PeerError::Refused { .. }) => {
            Err(ProposeError::NotLeader)
        }
        Err(PeerError::Lost { .. }) => Err(ProposeError::Unknown),
    }
}

/// Sends a proposal that is too large for a call.
async fn send(
    network: &dyn PeerNetwork,
    leader: BrokerId,
    request: Bytes,
) -> Result<Bytes, PeerError> {
    let opened = network.open(leader, PeerService::Propose, Bytes::new());
    let mut stream = opened.await?;
    let message = PeerMessage {
        head: Bytes::new(),
        parts: vec![request],
    };
    stream.sender.send(message).await?;
    stream.sender.finish();
    let reply = stream.receiver.next().await?;
    reply
        .map(|reply| reply.head)
        .ok_or_else(|| PeerError::lost(leader, "the stream ended without an answer"))
}

/// Reads a proposal that another broker sent, and gives the shard that it is for.
pub(in crate::shard) fn decode_forwarded(
    request: &Bytes,
) -> Result<(ShardId, Arc<Command>), String> {
    let Forwarded { shard, command } =
        postcard::from_bytes(request).map_err(|error| error.to_string())?;
    let mut command = command::decode_command(command).map_err(|error| error.to_string())?;
    // By the clock of who leads, as the records of its own producers.
    if let Some(Command::Append { time_ms, .. }) = Arc::get_mut(&mut command) {
        *time_ms = now_ms();
    }
    Ok((shard, command))
}

/// The messages of this room, for the test that pins them.
#[cfg(test)]
pub(in crate::shard) fn add_messages(schema: &mut flumen_schema::Schema) {
    schema.add::<Forwarded>();
    schema.add::<Result<crate::shard::types::Response, ProposeError>>();
}
