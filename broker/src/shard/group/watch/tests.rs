use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flumen_protocol::ids::{BrokerId, ShardId};
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;

use super::Group;
use crate::{
    disk::{Disk, SimulatedDisk},
    peer::Alone,
    shard::raft::{
        Applied, Checkpoint, Command, Entry, Failure, Machine, Payload, RaftParts, Replicas,
        Response,
    },
    wal::{Wal, WalOptions},
};

const SHARD: ShardId = ShardId(5);

/// Longer than anything here may take, on a busy machine.
const LONG: Duration = Duration::from_mins(1);

/// A machine that panics at its first command.
struct Faulty;

impl Machine for Faulty {
    fn applied(&self) -> Applied {
        Applied::default()
    }

    fn apply(&self, entry: &Entry) -> std::io::Result<Response> {
        assert!(
            !matches!(entry.payload, Payload::Normal(_)),
            "as it is meant to"
        );
        Ok(Response::None)
    }

    fn checkpoint(&self) -> std::io::Result<Checkpoint> {
        Err(std::io::Error::other("there is none"))
    }

    fn last_checkpoint(&self) -> Option<Checkpoint> {
        None
    }

    fn install(
        self: Arc<Self>,
        _: Checkpoint,
        _: Vec<BrokerId>,
    ) -> BoxFuture<'static, std::io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A group of one broker, and where its failures are told.
async fn group() -> (Arc<Group>, Failure) {
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let options = WalOptions {
        segment_bytes: 1 << 20,
        bytes_max: 8 << 20,
        ..WalOptions::new("/wal")
    };
    let failure = Failure::new();
    let parts = RaftParts {
        broker: BrokerId(1),
        wal: Wal::open(disk, options, Arc::new(())).unwrap(),
        admission: None,
        network: Arc::new(Alone),
        replicas: Replicas::default(),
        failure: failure.clone(),
        founding: true,
        left_by: None,
    };
    let group = Group::start(SHARD, Arc::new(Faulty), parts).await.unwrap();
    group.ready().await.unwrap();
    (Arc::new(group), failure)
}

async fn assert_names_the_shard(failure: &Failure) {
    let reason = timeout(LONG, failure.wait()).await;
    let reason = reason.expect("the failure is noticed");
    assert!(reason.contains("shard 5"), "{reason}");
    assert!(reason.contains("panicked"), "{reason}");
}

#[tokio::test]
async fn the_broker_fails_when_the_core_of_a_shard_panics() {
    let (group, failure) = group().await;
    let panicking = group
        .raft()
        .with_raft_state(|_| panic!("as it is meant to"));
    let outcome: Result<(), _> = panicking.await;
    outcome.unwrap_err();
    assert_names_the_shard(&failure).await;
    group.stop().await;
}

#[tokio::test]
async fn the_broker_fails_when_a_shard_panics_while_it_applies() {
    let (group, failure) = group().await;
    let proposing = Arc::clone(&group);
    let proposed = tokio::spawn(async move {
        let command = Command::Custom {
            command: Bytes::new(),
            attachment: Bytes::new(),
        };
        proposing.propose(command).await
    });
    assert_names_the_shard(&failure).await;
    proposed.abort();
    group.stop().await;
}

#[tokio::test]
async fn a_shard_that_is_stopped_has_not_failed() {
    let (group, failure) = group().await;
    let mut news = group.raft().server_metrics();
    group.stop().await;
    let ended = timeout(LONG, async { while news.changed().await.is_ok() {} });
    ended.await.unwrap();
    drop(group);
    tokio::task::yield_now().await;
    assert_eq!(failure.get(), None);
}
