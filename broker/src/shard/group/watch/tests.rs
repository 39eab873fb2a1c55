use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flumen_protocol::ids::ShardId;
use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;

use super::Group;
use crate::shard::{
    group::lone::{Idle, parts},
    raft::{Command, Failure},
};

const SHARD: ShardId = ShardId(5);

/// Longer than anything here may take, on a busy machine.
const LONG: Duration = Duration::from_mins(1);

/// A group of one broker whose machine panics at its first command, and where its failures are
/// told.
async fn group() -> (Arc<Group>, Failure) {
    let parts = parts();
    let failure = parts.failure.clone();
    let faulty = Idle { is_faulty: true };
    let group = Group::start(SHARD, Arc::new(faulty), parts).await.unwrap();
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
