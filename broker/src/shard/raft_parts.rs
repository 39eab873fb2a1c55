//! What all Raft groups of a broker share.

use std::sync::Arc;

use flumen_protocol::ids::BrokerId;

use super::{admission::Admission, failure::Failure, pace::Pace, replicas::Replicas, types::LogId};
use crate::{peer::PeerNetwork, wal::Wal};

/// What a Raft group stands on, besides its machine.
#[derive(Clone)]
pub(crate) struct RaftParts {
    /// This broker among the replicas.
    pub(crate) broker: BrokerId,
    pub(crate) wal: Wal,
    /// Lets in what leaders elsewhere send. Without it everything is: the few entries of the
    /// catalog may be what makes room, such as the end of a topic.
    pub(crate) admission: Option<Admission>,
    /// The way to the other replicas.
    pub(crate) network: Arc<dyn PeerNetwork>,
    /// How fast replicas that are behind are sent what they miss.
    pub(crate) pace: Pace,
    /// Where the other replicas find the groups of this broker.
    pub(crate) replicas: Replicas,
    pub(crate) failure: Failure,
    /// Whether groups that are new make this broker their only voter. Otherwise they wait until
    /// a leader takes them in.
    pub(crate) founding: bool,
    /// The entry that left out the replica that was here before, if there was one. Until the log
    /// has it again, the replica decides nothing.
    pub(crate) left_by: Option<u64>,
    /// An entry that another replica has applied, so that all up to it is committed. Applied here
    /// before the group starts, if the log has it.
    pub(crate) vouched: Option<LogId>,
}
