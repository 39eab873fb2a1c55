//! How openraft is told about Flumen's types. Nothing outside of the `shard` room names an
//! openraft type.

use std::{fmt, sync::Arc};

use openraft::{
    BasicNode, RaftTypeConfig,
    raft::responder::Responder,
    type_config::alias::{
        EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
    },
    vote::RaftLeaderId,
};
use serde::{Deserialize, Serialize};

use super::{command::Command, ticks::InStep};
use crate::shard::data::AppendOutcome;

/// The types of every shard's Raft group, catalog and data alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Arc<Command>;
    type R = Response;
    type NodeId = u64;
    type Node = BasicNode;
    type Term = u64;
    // One leader per term, so that term and index alone name an entry, in the WAL too.
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<LeaderId>;
    type Payload = Payload;
    type Entry = openraft::Entry<<LeaderId as RaftLeaderId>::Committed, Payload>;
    type Responder<T>
        = Callback<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = InStep;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type Entry = EntryOf<TypeConfig>;
pub(crate) type Payload = openraft::EntryPayload<Arc<Command>, u64, BasicNode>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;
pub(crate) type Vote = VoteOf<TypeConfig>;

/// What a snapshot carries from one broker to another: the bytes of a checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotData {
    pub(crate) bytes: bytes::Bytes,
    /// Who sent it, where it comes from another broker.
    pub(crate) sender: Option<flumen_protocol::ids::BrokerId>,
}

/// What applying an entry answers to the proposer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) enum Response {
    /// Blank and membership entries have nothing to say.
    #[default]
    None,
    /// One outcome per batch of the entry, in its order.
    Appended(Vec<AppendOutcome>),
    /// Postcard of whatever the machine answers to a [`Command::Custom`].
    Custom(Vec<u8>),
}

/// Runs a closure where the entry is applied: completing the waiters there saves a task and
/// its wake-up for every entry.
pub(crate) struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(complete: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(complete))
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

impl<T> fmt::Debug for Callback<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}
