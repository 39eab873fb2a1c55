//! What tests of a single group stand on.

use std::{io, sync::Arc};

use flumen_protocol::ids::BrokerId;
use futures_util::future::BoxFuture;

use crate::{
    disk::SimulatedDisk,
    peer::Alone,
    shard::raft::{
        Applied, Checkpoint, Entry, Failure, Machine, Pace, Payload, RaftParts, Replicas, Response,
    },
    wal::{Wal, WalOptions},
};

/// A machine that keeps nothing.
#[derive(Default)]
pub(super) struct Idle {
    /// Whether it panics at its first command.
    pub(super) is_faulty: bool,
}

impl Machine for Idle {
    fn applied(&self) -> Applied {
        Applied::default()
    }

    fn apply(&self, entry: &Entry) -> io::Result<Response> {
        let is_command = matches!(entry.payload, Payload::Normal(_));
        assert!(!(self.is_faulty && is_command), "as it is meant to");
        Ok(Response::None)
    }

    fn checkpoint(&self) -> io::Result<Checkpoint> {
        Err(io::Error::other("there is none"))
    }

    fn last_checkpoint(&self) -> Option<Checkpoint> {
        None
    }

    fn install(
        self: Arc<Self>,
        _: Checkpoint,
        _: Vec<BrokerId>,
    ) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// For the groups of a broker that is alone and founds its cluster.
pub(super) fn parts() -> RaftParts {
    let options = WalOptions {
        segment_bytes: 1 << 20,
        bytes_max: 8 << 20,
        ..WalOptions::new("/wal")
    };
    RaftParts {
        broker: BrokerId(1),
        wal: Wal::open(Arc::new(SimulatedDisk::new()), options, Arc::new(())).unwrap(),
        admission: None,
        network: Arc::new(Alone),
        pace: Pace::default(),
        replicas: Replicas::default(),
        failure: Failure::new(),
        founding: true,
        left_by: None,
        vouched: None,
    }
}
