use std::sync::Arc;

use flumen_protocol::ids::ShardId;
use openraft::raft::AppendEntriesRequest;

use super::*;
use crate::shard::{
    command::log_id,
    group::lone::{Idle, parts},
    raft::{Entry, Payload},
    types::Vote,
};

const SHARD: ShardId = ShardId(5);

/// Behind all that the log here has.
const LATER: u64 = 1_000;

#[tokio::test]
async fn a_replica_is_told_what_is_committed_by_a_leader_or_has_heard_it_before() {
    let mut parts = parts();
    let machine = || Arc::new(Idle::default());
    let leader = Group::start(SHARD, machine(), parts.clone()).await.unwrap();
    leader.ready().await.unwrap();
    assert!(leader.is_told_of(LATER).await);
    leader.stop().await;
    // The next one has another leader, which does not answer.
    parts.founding = false;
    parts.left_by = Some(LATER);
    let group = Group::start(SHARD, machine(), parts.clone()).await.unwrap();
    let last = parts.wal.shard(SHARD).state().last.unwrap();
    let next = last.index + 1;
    let entries = (next..next + 2).map(|index| Entry {
        log_id: log_id(7, index),
        payload: Payload::Blank,
    });
    let request = AppendEntriesRequest {
        vote: Vote::new_committed(7, 2),
        prev_log_id: Some(log_id(last.term, last.index)),
        leader_commit: Some(log_id(7, next)),
        entries: entries.collect(),
    };
    let appended = group.raft().append_entries(request).await.unwrap();
    assert!(appended.is_success(), "{appended:?}");
    tokio::time::pause();
    assert!(group.is_told_of(next).await);
    assert!(!group.is_told_of(next + 1).await);
    tokio::time::resume();
    group.stop().await;
}
