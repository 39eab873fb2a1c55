use std::{sync::Arc, time::Duration};

use flumen_protocol::ids::{BrokerId, ShardId};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use tokio::time::{Instant, sleep};

use super::Group;
use crate::{
    peer::PeerHandler,
    shard::{
        command::log_id,
        group::lone::{Idle, parts},
        raft::{Entry, Payload, RaftParts},
        rpc::{self, Call, CallRequest},
        types::Vote,
    },
};

const SHARD: ShardId = ShardId(5);
const LEADER: BrokerId = BrokerId(2);

/// The entry that left the replica out that was here before.
const LEFT_BY: u64 = 9;

/// Longer than anything here may take, on a busy machine.
const LONG: Duration = Duration::from_mins(1);

/// Many times as long as it takes a single voter to elect itself.
const WHILE: Duration = Duration::from_millis(400);

async fn start(parts: RaftParts) -> Group {
    let group = Group::start(SHARD, Arc::new(Idle::default()), parts)
        .await
        .unwrap();
    group.keep_time(true);
    group
}

/// A replica whose log ends with members of which it is the only one, as the founder's does that
/// is taken in again; and its parts.
async fn begun_again() -> (Group, RaftParts) {
    let mut parts = parts();
    let founder = start(parts.clone()).await;
    founder.ready().await.unwrap();
    founder.stop().await;
    parts.founding = false;
    parts.left_by = Some(LEFT_BY);
    (start(parts.clone()).await, parts)
}

/// Has it append what another leader sends, behind what it has, up to an entry.
async fn append(group: &Group, parts: &RaftParts, up_to: u64) {
    let last = parts.wal.shard(SHARD).state().last.unwrap();
    let prev = Some(log_id(last.term, last.index));
    let next = last.index + 1;
    let entries = (next..=up_to).map(|index| Entry {
        log_id: log_id(7, index),
        payload: Payload::Blank,
    });
    let request = AppendEntriesRequest {
        vote: Vote::new_committed(7, LEADER.0),
        prev_log_id: prev,
        leader_commit: None,
        entries: entries.collect(),
    };
    let appended = group.raft().append_entries(request).await.unwrap();
    assert!(appended.is_success(), "{appended:?}");
}

/// Asks it for its vote, for somebody who has much more.
async fn ask_for_vote(parts: &RaftParts) -> Result<(), String> {
    let candidate = VoteRequest::new(Vote::new(9, LEADER.0), Some(log_id(8, 1_000)));
    let (shard, request) = (SHARD, CallRequest::Vote(candidate));
    let call = rpc::encode(&Call { shard, request });
    parts.replicas.call(LEADER, call).await.map(drop)
}

async fn assert_decides_nothing(group: &Group, parts: &RaftParts) {
    let until = Instant::now() + WHILE;
    while Instant::now() < until {
        assert!(!group.leads(), "it leads by members of long ago");
        sleep(Duration::from_millis(10)).await;
    }
    let refused = ask_for_vote(parts).await.unwrap_err();
    assert!(refused.contains("votes for nobody"), "{refused}");
}

#[tokio::test]
async fn a_replica_decides_nothing_until_it_has_the_entry_that_left_it_out() {
    let (group, parts) = begun_again().await;
    assert_decides_nothing(&group, &parts).await;
    append(&group, &parts, LEFT_BY - 1).await;
    assert_decides_nothing(&group, &parts).await;
    append(&group, &parts, LEFT_BY).await;
    let deadline = Instant::now() + LONG;
    while !group.leads() {
        assert!(Instant::now() < deadline, "it does not stand for election");
        sleep(Duration::from_millis(10)).await;
    }
    ask_for_vote(&parts).await.unwrap();
    group.stop().await;
}
