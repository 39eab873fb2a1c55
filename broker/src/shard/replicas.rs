//! The shards of this broker, as the other brokers call them: hands what comes from a replica
//! elsewhere to the Raft group here.

mod entries;
mod gate;

use std::sync::Arc;

use bytes::Bytes;
use flumen_protocol::ids::{BrokerId, ShardId};
use futures_util::future::BoxFuture;
use openraft::{Raft, async_runtime::WatchReceiver};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

pub(crate) use self::gate::ClosedGate;
use self::gate::Gate;
use super::{
    admission::Admission,
    checkpoint_file::CHECKPOINT_BYTES_MAX,
    group::{
        Group, ProposeError, catch_up,
        leave::Standing,
        propose::{self, LocalProposals},
    },
    machine::RaftMachine,
    pieces,
    rpc::{self, AppendReply, Call, CallRequest, Open, Purpose, SnapshotHead},
    types::{Response, Snapshot, SnapshotData, TypeConfig},
};
use crate::{
    metrics::TransferMetrics,
    peer::{PeerHandler, PeerMessage, PeerSender, PeerStream},
};

type ShardRaft = Raft<TypeConfig, RaftMachine>;

/// The Raft groups of this broker by shard. Cheap to clone: all clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Replicas {
    groups: Arc<RwLock<FxHashMap<ShardId, Reached>>>,
    transfers: TransferMetrics,
}

/// What other brokers reach of a group.
#[derive(Clone)]
struct Reached {
    raft: ShardRaft,
    proposals: LocalProposals,
    gate: Gate,
    admission: Option<Admission>,
    left_by: Option<u64>,
}

/// Makes the proposals that other brokers send. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposals(Replicas);

impl Replicas {
    /// Without groups, and with what is transferred counted.
    pub(crate) fn counted(transfers: TransferMetrics) -> Self {
        Self {
            groups: Arc::default(),
            transfers,
        }
    }

    /// What is transferred between the replicas.
    pub(super) fn transfers(&self) -> &TransferMetrics {
        &self.transfers
    }

    pub(super) fn insert(&self, shard: ShardId, group: &Group) {
        let reached = Reached {
            raft: group.raft().clone(),
            proposals: group.local_proposals(),
            gate: Gate::default(),
            admission: group.admission(),
            left_by: group.left_by(),
        };
        self.groups.write().insert(shard, reached);
    }

    pub(super) fn remove(&self, shard: ShardId) {
        self.groups.write().remove(&shard);
    }

    /// Lets nothing that other brokers send reach a group, and no answer of it leave, for as long
    /// as the gate is kept. `None` if there is no such group.
    pub(super) async fn silence(&self, shard: ShardId) -> Option<ClosedGate> {
        let gate = self.reached(shard).ok()?.gate;
        Some(gate.close().await)
    }

    /// What makes the proposals for these groups that other brokers send.
    pub(crate) fn proposals(&self) -> Proposals {
        Proposals(self.clone())
    }

    fn reached(&self, shard: ShardId) -> Result<Reached, String> {
        let found = self.groups.read().get(&shard).cloned();
        found.ok_or_else(|| format!("shard {shard} has no replica here"))
    }

    async fn answer(&self, from: BrokerId, request: Bytes) -> Result<Bytes, String> {
        let Call { shard, request } = rpc::decode(&request).map_err(text)?;
        let reached = self.reached(shard)?;
        if matches!(request, CallRequest::Vote(_) | CallRequest::PreVote(_)) {
            check_may_vote(&reached)?;
        }
        reached
            .gate
            .pass(answer(from, &reached.raft, request))
            .await
    }

    async fn serve(&self, from: BrokerId, head: Bytes, stream: PeerStream) {
        let served = match rpc::decode::<Open>(&head).map_err(text) {
            Ok(open) => match self.reached(open.shard) {
                Ok(Reached {
                    raft,
                    gate,
                    admission,
                    ..
                }) => match open.purpose {
                    Purpose::Append => gate.pass(entries::take(raft, admission, stream)).await,
                    Purpose::Snapshot => {
                        let taken = gate.pass(take_snapshot(from, raft, stream)).await;
                        match &taken {
                            Ok(()) => drop(self.transfers.snapshots_received.inc()),
                            Err(reason) => tracing::warn!(
                                shard = %open.shard, broker = %from, reason,
                                "a checkpoint of another replica was not taken"
                            ),
                        }
                        taken
                    }
                },
                Err(reason) => {
                    let reply: AppendReply = Err(reason.clone());
                    let _ = answer_last(stream.sender, &reply).await;
                    Err(reason)
                }
            },
            Err(reason) => Err(reason),
        };
        if let Err(reason) = served {
            tracing::debug!(broker = %from, reason, "a stream from another broker ended");
        }
    }
}

impl PeerHandler for Replicas {
    fn call(&self, from: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let this = self.clone();
        Box::pin(async move { this.answer(from, request).await })
    }

    fn stream(&self, from: BrokerId, head: Bytes, stream: PeerStream) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move { this.serve(from, head, stream).await })
    }
}

impl Proposals {
    async fn propose(&self, request: &Bytes) -> Result<Result<Response, ProposeError>, String> {
        let (shard, command) = propose::decode_forwarded(request)?;
        let reached = self.0.reached(shard)?;
        Ok(reached.proposals.propose(command).await)
    }
}

impl PeerHandler for Proposals {
    fn call(&self, _: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let this = self.clone();
        Box::pin(async move { Ok(rpc::encode(&this.propose(&request).await?)) })
    }

    fn stream(&self, from: BrokerId, _: Bytes, mut stream: PeerStream) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move {
            let proposed = async {
                let message = stream.receiver.next().await.map_err(text)?;
                let request = message.and_then(|message| message.parts.into_iter().next());
                let outcome = this.propose(&request.unwrap_or_default()).await?;
                answer_last(stream.sender, &outcome).await
            };
            if let Err(reason) = proposed.await {
                tracing::debug!(broker = %from, reason, "a proposal was not made");
            }
        })
    }
}

async fn answer(from: BrokerId, raft: &ShardRaft, request: CallRequest) -> Result<Bytes, String> {
    Ok(match request {
        CallRequest::Append(request) => {
            rpc::encode(&raft.append_entries(request).await.map_err(text)?)
        }
        CallRequest::Vote(request) => rpc::encode(&raft.vote(request).await.map_err(text)?),
        CallRequest::PreVote(request) => rpc::encode(&raft.pre_vote(request).await.map_err(text)?),
        CallRequest::TransferLeader(request) => {
            rpc::encode(&raft.handle_transfer_leader(request).await.map_err(text)?)
        }
        CallRequest::Standing => rpc::encode(&Standing::of(from, raft).await?),
        CallRequest::ReadIndex => rpc::encode(&catch_up::read_index(raft).await),
    })
}

/// A replica without any log is no voter of any members that count: it waits to be taken in. One
/// that was here before, and has not got back what it gave up, cannot tell whether the candidate
/// has all.
fn check_may_vote(reached: &Reached) -> Result<(), String> {
    let metrics = reached.raft.metrics();
    let last = metrics.borrow_watched().last_log_index;
    if last.is_some() && last >= reached.left_by {
        return Ok(());
    }
    Err("the replica here has not got the log yet, and votes for nobody".to_owned())
}

async fn take_snapshot(
    from: BrokerId,
    raft: ShardRaft,
    mut stream: PeerStream,
) -> Result<(), String> {
    let received = pieces::receive(&mut *stream.receiver, CHECKPOINT_BYTES_MAX).await;
    let (head, bytes) = received.map_err(text)?;
    let SnapshotHead { vote, meta } = rpc::decode(&head).map_err(text)?;
    let snapshot = Snapshot {
        meta,
        snapshot: SnapshotData {
            bytes,
            sender: Some(from),
        },
    };
    let installed = raft.install_full_snapshot(vote, snapshot).await;
    let reply: Result<_, String> = installed.map_err(text);
    answer_last(stream.sender, &reply).await
}

async fn answer_last(
    mut sender: Box<dyn PeerSender>,
    reply: &impl serde::Serialize,
) -> Result<(), String> {
    let message = PeerMessage {
        head: rpc::encode(reply),
        parts: Vec::new(),
    };
    sender.send(message).await.map_err(text)?;
    sender.finish();
    Ok(())
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
