//! The entries that a leader elsewhere sends to a group here.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{StreamExt, stream};
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;

use super::{ShardRaft, answer_last, text};
use crate::{
    peer::{PeerMessage, PeerReceiver, PeerStream},
    shard::{
        admission::Admission,
        rpc::{self, AppendReply, Entries},
        types::TypeConfig,
    },
    wal::Reservation,
};

/// What comes in, from the stream to openraft.
struct Incoming {
    receiver: Box<dyn PeerReceiver>,
    admission: Option<Admission>,
    taken: Arc<Taken>,
}

/// What both ends of openraft know of the requests that are in its hands.
#[derive(Default)]
struct Taken {
    /// The room of each request that is not answered yet, in their order.
    rooms: Mutex<VecDeque<Option<Reservation>>>,
    /// Why there is no further one.
    refused: Mutex<Option<String>>,
}

/// Appends what the leader sends. Answers leave in the order of the requests, each once its
/// entries are durable here.
pub(super) async fn take(
    raft: ShardRaft,
    admission: Option<Admission>,
    stream: PeerStream,
) -> Result<(), String> {
    let taken = Arc::<Taken>::default();
    let incoming = Incoming {
        receiver: stream.receiver,
        admission,
        taken: Arc::clone(&taken),
    };
    let mut sender = stream.sender;
    let requests = stream::unfold(incoming, Incoming::next);
    let mut answers = std::pin::pin!(raft.stream_append(requests));
    while let Some(answer) = answers.next().await {
        taken.rooms.lock().pop_front();
        let reply: AppendReply = answer.map_err(text);
        let is_last = !matches!(reply, Ok(Ok(_)));
        let message = PeerMessage {
            head: rpc::encode(&reply),
            parts: Vec::new(),
        };
        sender.send(message).await.map_err(text)?;
        if is_last {
            break;
        }
    }
    let refused = taken.refused.lock().take();
    if let Some(reason) = refused {
        let reply: AppendReply = Err(reason.clone());
        answer_last(sender, &reply).await?;
        return Err(reason);
    }
    sender.finish();
    Ok(())
}

impl Incoming {
    async fn next(mut self) -> Option<(AppendEntriesRequest<TypeConfig>, Self)> {
        match self.receive().await {
            Ok(request) => Some((request?, self)),
            Err(reason) => {
                *self.taken.refused.lock() = Some(reason);
                None
            }
        }
    }

    /// The next request, once there is room for it.
    async fn receive(&mut self) -> Result<Option<AppendEntriesRequest<TypeConfig>>, String> {
        let Some(message) = self.receiver.next().await.map_err(text)? else {
            return Ok(None);
        };
        let entries = rpc::append_request(message).inspect_err(|error| {
            tracing::error!("a leader's entries are refused: {error}");
        });
        let Entries { request, payloads } = entries.map_err(text)?;
        let room = match &self.admission {
            Some(admission) if !payloads.is_empty() => {
                Some(admission.room_for_entries(&payloads).await.map_err(text)?)
            }
            _ => None,
        };
        self.taken.rooms.lock().push_back(room);
        Ok(Some(request))
    }
}
