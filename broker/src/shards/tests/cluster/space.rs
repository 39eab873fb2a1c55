//! Brokers of a cluster whose disk is full.

use super::*;
use crate::disk::FaultPlan;

/// Room for a segment of the write-ahead log and some.
const ROOM_BYTES: u64 = 3 << 20;

/// Large enough for few of them to fill a disk.
const VALUE_BYTES: usize = 100_000;

fn large(number: u64) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_be_bytes());
    value
}

impl TestCluster {
    /// Lets the disk of a broker take so many bytes and no more.
    fn leave_room(&self, at: usize, bytes: u64) {
        let disk = &self.disks[at];
        disk.set_faults(FaultPlan {
            capacity_bytes: Some(disk.used_bytes() + bytes),
            ..FaultPlan::default()
        });
    }

    fn make_room(&self, at: usize) {
        self.disks[at].set_faults(FaultPlan::default());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_a_full_disk_still_votes_and_gets_what_it_missed_when_there_is_room() {
    let mut cluster = TestCluster::with_topic(3).await;
    cluster.leave_room(2, ROOM_BYTES);
    let mut sequence = 0;
    // Far more than fits there: what the others have taken in must not fill the rest up.
    while sequence < 200 {
        cluster.append(0, &large(sequence), sequence).await;
        sequence += 1;
    }
    cluster
        .wait_for("the broker to say that its disk is full", || {
            cluster.shards(2).degraded().is_some()
        })
        .await;
    cluster.kill(0).await;
    let full = cluster.shard_of(partition(0));
    let others = (1..=SHARDS).map(ShardId).filter(|shard| *shard != full);
    cluster
        .wait_for("the votes of the broker with the full disk", || {
            others.clone().all(|shard| cluster.leader(shard) == Some(1))
        })
        .await;
    assert_eq!(cluster.shards(2).failure(), None);

    cluster.make_room(2);
    let expected: Vec<_> = (0..=sequence).map(large).collect();
    cluster.append(0, &large(sequence), sequence).await;
    cluster.start_member(0).await;
    cluster.everyone_has(0, &expected).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_of_another_replica_waits_for_room_on_the_disk() {
    let mut cluster = TestCluster::with_topic(3).await;
    cluster.append(0, &large(0), 0).await;
    cluster.kill(2).await;
    cluster.append_past_the_logs(1, large).await;
    let expected: Vec<_> = (0..62).map(large).collect();
    cluster.leave_room(2, ROOM_BYTES);
    cluster.start_member(2).await;
    cluster
        .wait_for("the records of the checkpoint to be there", || {
            // It may be either of the two; the entries behind it wait until it is durable.
            let there = cluster.values_at(2, 0);
            there.len() >= 60 && expected.starts_with(&there)
        })
        .await;
    cluster
        .wait_for("the broker to say that its disk is full", || {
            cluster.shards(2).degraded().is_some()
        })
        .await;
    assert_eq!(cluster.shards(2).failure(), None);

    cluster.make_room(2);
    cluster.everyone_has(0, &expected).await;
    assert_eq!(cluster.shards(2).failure(), None);
    cluster.kill(2).await;
    cluster.start_member(2).await;
    cluster.everyone_has(0, &expected).await;
    cluster.end().await;
}
