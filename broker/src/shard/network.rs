//! openraft's way to the replicas of a shard on other brokers.

mod append;

use std::sync::Arc;

use flumen_protocol::ids::{BrokerId, ShardId};
use openraft::{
    BasicNode,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use prometheus_client::metrics::counter::Counter;
use serde::de::DeserializeOwned;

use super::{
    group::ANSWER_MIN,
    pace::Pace,
    pieces,
    rpc::{self, Call, CallRequest, Open, Purpose, SnapshotHead},
    types::{Snapshot, SnapshotData, TypeConfig, Vote},
};
use crate::peer::{PeerError, PeerNetwork, PeerService};

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

/// Makes openraft's clients for the replicas of one shard.
pub(super) struct Factory {
    pub(super) broker: u64,
    pub(super) shard: ShardId,
    pub(super) network: Arc<dyn PeerNetwork>,
    pub(super) pace: Pace,
    pub(super) snapshots_sent: Counter,
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Replica;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Replica {
        Replica {
            leader: self.broker,
            shard: self.shard,
            broker: BrokerId(target),
            network: Arc::clone(&self.network),
            pace: self.pace.clone(),
            snapshots_sent: self.snapshots_sent.clone(),
        }
    }
}

/// A shard's replica on another broker, as openraft sees it.
pub(super) struct Replica {
    leader: u64,
    shard: ShardId,
    broker: BrokerId,
    network: Arc<dyn PeerNetwork>,
    pace: Pace,
    snapshots_sent: Counter,
}

impl Replica {
    async fn call<R: DeserializeOwned>(
        &self,
        request: CallRequest,
        what: RPCTypes,
        option: RPCOption,
    ) -> RpcResult<R> {
        let shard = self.shard;
        let bytes = rpc::encode(&Call { shard, request });
        let call = self.network.call(self.broker, PeerService::Raft, bytes);
        let after = option.hard_ttl().max(ANSWER_MIN);
        match tokio::time::timeout(after, call).await {
            Ok(Ok(reply)) => rpc::decode(&reply).map_err(|error| failed(&error)),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action: what,
                id: self.leader,
                target: self.broker.0,
                timeout: after,
            })),
        }
    }

    async fn open(&self, purpose: Purpose) -> Result<crate::peer::PeerStream, PeerError> {
        let shard = self.shard;
        let head = rpc::encode(&Open { shard, purpose });
        self.network
            .open(self.broker, PeerService::Raft, head)
            .await
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, PeerError> {
        let mut stream = self.open(Purpose::Snapshot).await?;
        let head = SnapshotHead {
            vote,
            meta: snapshot.meta,
        };
        pieces::send(&mut *stream.sender, &head, snapshot.snapshot.bytes).await?;
        stream.sender.finish();
        let lost = |reason: String| PeerError::Lost {
            broker: self.broker,
            reason,
        };
        let reply = stream.receiver.next().await?;
        let reply = reply.ok_or_else(|| lost("the stream ended without an answer".to_owned()))?;
        let reply: Result<SnapshotResponse<TypeConfig>, String> =
            rpc::decode(&reply.head).map_err(|error| lost(error.to_string()))?;
        let taken = reply.map_err(lost)?;
        self.snapshots_sent.inc();
        Ok(taken)
    }
}

/// openraft waits before it tries an unreachable replica again, and not after other failures.
fn explain(error: &PeerError) -> RPCError<TypeConfig> {
    match error {
        PeerError::Lost { .. } => failed(error),
        PeerError::Unreachable { .. } | PeerError::Refused { .. } => unreachable(error),
    }
}

fn unreachable(error: &PeerError) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn failed(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

impl RaftNetworkV2<TypeConfig> for Replica {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let request = CallRequest::Append(request);
        self.call(request, RPCTypes::AppendEntries, option).await
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'_, RpcResult<BoxStream<'_, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: futures_util::Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let answers = append::replicate(self, input, option);
        Box::pin(std::future::ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.call(CallRequest::Vote(request), RPCTypes::Vote, option)
            .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.call(CallRequest::PreVote(request), RPCTypes::Vote, option)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            sent = self.send_snapshot(vote, snapshot) => sent.map_err(|error| {
                // Who is away is known to be; what else fails keeps the replica from coming back.
                if !matches!(error, PeerError::Unreachable { .. }) {
                    let (shard, broker) = (self.shard, self.broker);
                    tracing::warn!(%shard, %broker, "the checkpoint was not sent: {error}");
                }
                StreamingError::Unreachable(Unreachable::new(&error))
            }),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let request = CallRequest::TransferLeader(request);
        self.call(request, RPCTypes::TransferLeader, option).await
    }
}
