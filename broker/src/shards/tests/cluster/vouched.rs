//! Replicas that are needed to repair another one, and wait for a leader themselves.

use super::{
    repair::{files_that_end_with, segments},
    *,
};

/// The one whose files are damaged, and the one that knows less than it of what is committed.
const DAMAGED: usize = 0;
const BEHIND: usize = 1;

/// Brokers of which two are there and make a majority: one with damaged files, and one with all that
/// the other lacks, of which it knows half to be committed.
async fn damaged_and_behind(brokers: usize) -> TestCluster {
    let mut cluster = TestCluster::start(brokers).await;
    let catalog = cluster.shards(0).catalog();
    catalog
        .set_replication_factor(brokers as u32)
        .await
        .unwrap();
    let all: Vec<_> = (0..brokers).collect();
    cluster.settle(&all).await;
    cluster.create_topic(1).await;
    for sequence in 0..10 {
        if sequence == 5 {
            cluster.everyone_has(0, &numbers(0..5)).await;
            cluster.shards(BEHIND).checkpoint().await.unwrap();
        }
        cluster.append(0, &value(sequence), sequence).await;
    }
    cluster.everyone_has(0, &numbers(0..10)).await;
    cluster.shards(DAMAGED).checkpoint().await.unwrap();
    for at in all {
        cluster.kill(at).await;
    }
    for file in segments(&cluster.disks[DAMAGED]) {
        cluster.disks[DAMAGED].remove_file(&file).unwrap();
    }
    for at in [DAMAGED, BEHIND] {
        cluster.start_member(at).await;
    }
    cluster
}

/// Waits until a cluster has come out of that.
async fn is_whole_again(cluster: &TestCluster) {
    cluster.everyone_has(0, &numbers(0..10)).await;
    cluster.append(0, &value(10), 10).await;
    cluster.everyone_has(0, &numbers(0..11)).await;
    cluster
        .wait_for("the marks to be gone", || {
            files_that_end_with(&cluster.disks[DAMAGED], "/shards", ".damaged") == 0
        })
        .await;
    assert!(cluster.shards(BEHIND).vouched_for().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_behind_and_one_that_is_damaged_do_not_wait_for_each_other() {
    let cluster = damaged_and_behind(2).await;
    is_whole_again(&cluster).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_while_a_third_one_is_dead() {
    let cluster = damaged_and_behind(3).await;
    is_whole_again(&cluster).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_replica_that_was_behind_go_on_with_what_another_one_vouches_for() {
    let mut cluster = damaged_and_behind(2).await;
    let data = cluster.shards(BEHIND).data_of(partition(0)).unwrap();
    let reader = data.reader(partition(0)).unwrap();
    is_whole_again(&cluster).await;
    assert!(!reader.has_moved());
    assert_eq!(values(&reader), numbers(0..11));
    // It is durable as any other record.
    cluster.kill(BEHIND).await;
    cluster.start_member(BEHIND).await;
    cluster.everyone_has(0, &numbers(0..11)).await;
    cluster.end().await;
}
