//! What the replicas of a shard say to each other, as bytes. Small messages travel as calls; the
//! entries of a log, and checkpoints, as messages of a stream.

use bytes::Bytes;
use flumen_protocol::ids::ShardId;
use openraft::{
    entry::RaftEntry,
    raft::{AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, VoteRequest},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    command::{self, DecodeError},
    types::{Entry, LogId, SnapshotMeta, TypeConfig, Vote},
};
use crate::peer::PeerMessage;
pub(super) use crate::peer::encode;

/// A call to the replica of a shard on another broker.
#[derive(Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) shard: ShardId,
    pub(super) request: CallRequest,
}

/// What is called for.
#[derive(Serialize, Deserialize)]
pub(super) enum CallRequest {
    /// A heartbeat, or the news that more is committed: no entries.
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    /// What the caller is to the replica that is called.
    Standing,
    /// How far the log is committed; for its leader.
    ReadIndex,
}

/// Up to where the log is committed at least, or why this replica cannot say.
pub(super) type ReadIndexReply = Result<u64, String>;

/// What a stream to another replica is for.
#[derive(Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) shard: ShardId,
    pub(super) purpose: Purpose,
}

/// What a stream carries.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// [`AppendHead`]s with entries one way, [`AppendReply`]s in order the other way.
    Append,
    /// One [`SnapshotHead`] and the pieces of a checkpoint one way, one reply the other way.
    Snapshot,
}

/// Announces the entries that are the message's part.
#[derive(Serialize, Deserialize)]
pub(super) struct AppendHead {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
    entries: Vec<EntryHead>,
}

#[derive(Serialize, Deserialize)]
struct EntryHead {
    term: u64,
    index: u64,
    bytes: u32,
}

/// Up to where the other replica's log is durable, or why the stream ends here.
pub(super) type AppendReply = Result<StreamAppendResult<TypeConfig>, String>;

/// Announces the checkpoint that follows in pieces.
#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotHead {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
}

/// Bytes from another replica are no message of this protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum RpcError {
    #[error("a message of another version or damaged: {0}")]
    Malformed(#[from] postcard::Error),
    #[error("a damaged log entry: {0}")]
    Entry(#[from] DecodeError),
    #[error("the entries end early")]
    Truncated,
}

pub(super) fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, RpcError> {
    Ok(postcard::from_bytes(bytes)?)
}

/// Bytes of the entries of a request, nearly.
pub(super) fn entries_bytes(request: &AppendEntriesRequest<TypeConfig>) -> usize {
    request.entries.iter().map(command::entry_len).sum()
}

/// The message of a stream of entries. Large bodies are passed on, not copied.
pub(super) fn append_message(
    request: &AppendEntriesRequest<TypeConfig>,
) -> Result<PeerMessage, RpcError> {
    let mut parts = Vec::new();
    let mut entries = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        let encoded = command::encode(&entry.payload)?;
        entries.push(EntryHead {
            term: entry.log_id.leader_id.term,
            index: entry.index(),
            bytes: encoded.iter().map(Bytes::len).sum::<usize>() as u32,
        });
        parts.extend(encoded);
    }
    let head = AppendHead {
        vote: request.vote,
        prev_log_id: request.prev_log_id,
        leader_commit: request.leader_commit,
        entries,
    };
    Ok(PeerMessage {
        head: encode(&head),
        parts,
    })
}

/// Entries of a leader.
pub(super) struct Entries {
    pub(super) request: AppendEntriesRequest<TypeConfig>,
    /// The bytes of each in the log.
    pub(super) payloads: Vec<u64>,
}

/// Reads what [`append_message`] wrote. Batches are slices of what was received, and their
/// checksums are verified here: they enter this process.
pub(super) fn append_request(message: PeerMessage) -> Result<Entries, RpcError> {
    let head: AppendHead = decode(&message.head)?;
    let payloads = head.entries.iter().map(|entry| entry.bytes.into());
    let payloads = payloads.collect();
    let mut bytes = message.parts.into_iter().next().unwrap_or_default();
    let entries = head
        .entries
        .iter()
        .map(|entry| {
            if bytes.len() < entry.bytes as usize {
                return Err(RpcError::Truncated);
            }
            let part = bytes.split_to(entry.bytes as usize);
            Ok(command::decode_verified(entry.term, entry.index, part)?)
        })
        .collect::<Result<Vec<Entry>, RpcError>>()?;
    let request = AppendEntriesRequest {
        vote: head.vote,
        prev_log_id: head.prev_log_id,
        leader_commit: head.leader_commit,
        entries,
    };
    Ok(Entries { request, payloads })
}

/// The messages of this room, for the test that pins them.
#[cfg(test)]
pub(super) fn add_messages(schema: &mut flumen_schema::Schema) {
    use openraft::raft::{AppendEntriesResponse, SnapshotResponse, VoteResponse};
    schema.add::<Call>();
    schema.add::<AppendEntriesResponse<TypeConfig>>();
    schema.add::<VoteResponse<TypeConfig>>();
    schema.add::<super::group::leave::Standing>();
    schema.add::<ReadIndexReply>();
    schema.add::<Open>();
    schema.add::<AppendHead>();
    schema.add::<AppendReply>();
    schema.add::<SnapshotHead>();
    schema.add::<Result<SnapshotResponse<TypeConfig>, String>>();
}
