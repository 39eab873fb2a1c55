//! What the Raft groups of a broker ask of their peers on other brokers, behind one small trait
//! so that the transport knows nothing of openraft's many parts.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use flumen_protocol::ids::{BrokerId, ShardId};
use openraft::{
    BasicNode,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use super::types::{Snapshot, TypeConfig, Vote};

type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, PeerError>> + Send + 'a>>;

/// A peer did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broker {target} cannot be reached: {reason}")]
pub(crate) struct PeerError {
    pub(crate) target: BrokerId,
    pub(crate) reason: String,
}

/// Where a call goes: a shard's replica on another broker.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) shard: ShardId,
    pub(crate) broker: BrokerId,
    /// The broker's address for its peers; empty in a single broker.
    #[expect(dead_code, reason = "read by the transport between brokers")]
    pub(crate) address: String,
}

/// The calls between the replicas of a shard.
pub(crate) trait PeerNetwork: Send + Sync + 'static {
    fn append_entries(
        &self,
        peer: &Peer,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Reply<'_, AppendEntriesResponse<TypeConfig>>;

    fn vote(
        &self,
        peer: &Peer,
        request: VoteRequest<TypeConfig>,
    ) -> Reply<'_, VoteResponse<TypeConfig>>;

    fn pre_vote(
        &self,
        peer: &Peer,
        request: VoteRequest<TypeConfig>,
    ) -> Reply<'_, VoteResponse<TypeConfig>>;

    fn snapshot(
        &self,
        peer: &Peer,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Reply<'_, SnapshotResponse<TypeConfig>>;

    fn transfer_leader(
        &self,
        peer: &Peer,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> Reply<'_, TransferLeaderResponse<TypeConfig>>;
}

/// The network of a broker that has no peers. No shard with a single voter ever calls it.
pub(crate) struct NoPeers;

impl NoPeers {
    fn unreachable<T: Send + 'static>(peer: &Peer) -> Reply<'static, T> {
        let error = PeerError {
            target: peer.broker,
            reason: format!("shard {} has no peers in a single broker", peer.shard),
        };
        Box::pin(std::future::ready(Err(error)))
    }
}

impl PeerNetwork for NoPeers {
    fn append_entries(
        &self,
        peer: &Peer,
        _: AppendEntriesRequest<TypeConfig>,
    ) -> Reply<'_, AppendEntriesResponse<TypeConfig>> {
        Self::unreachable(peer)
    }

    fn vote(&self, peer: &Peer, _: VoteRequest<TypeConfig>) -> Reply<'_, VoteResponse<TypeConfig>> {
        Self::unreachable(peer)
    }

    fn pre_vote(
        &self,
        peer: &Peer,
        _: VoteRequest<TypeConfig>,
    ) -> Reply<'_, VoteResponse<TypeConfig>> {
        Self::unreachable(peer)
    }

    fn snapshot(
        &self,
        peer: &Peer,
        _: Vote,
        _: Snapshot,
    ) -> Reply<'_, SnapshotResponse<TypeConfig>> {
        Self::unreachable(peer)
    }

    fn transfer_leader(
        &self,
        peer: &Peer,
        _: TransferLeaderRequest<TypeConfig>,
    ) -> Reply<'_, TransferLeaderResponse<TypeConfig>> {
        Self::unreachable(peer)
    }
}

/// Makes openraft's clients for the peers of one shard.
pub(crate) struct Factory {
    pub(crate) shard: ShardId,
    pub(crate) network: Arc<dyn PeerNetwork>,
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        Client {
            peer: Peer {
                shard: self.shard,
                broker: BrokerId(target),
                address: node.addr.clone(),
            },
            network: Arc::clone(&self.network),
        }
    }
}

/// One peer, as openraft sees it.
pub(crate) struct Client {
    peer: Peer,
    network: Arc<dyn PeerNetwork>,
}

impl From<PeerError> for RPCError<TypeConfig> {
    fn from(error: PeerError) -> Self {
        Self::Unreachable(Unreachable::new(&error))
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.network.append_entries(&self.peer, request).await?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.network.vote(&self.peer, request).await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.network.pre_vote(&self.peer, request).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            sent = self.network.snapshot(&self.peer, vote, snapshot) => {
                sent.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        Ok(self.network.transfer_leader(&self.peer, request).await?)
    }
}
