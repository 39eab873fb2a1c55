//! Brokers that die, are cut off or stop.

use futures_util::future::join_all;
use tokio::time::timeout;

use super::*;
use crate::{disk::CrashKeep, shard::ENTRIES_IN_FLIGHT_MAX};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_goes_on_without_a_leader_that_dies_and_loses_and_doubles_nothing() {
    let mut cluster = TestCluster::with_topic(3).await;
    let shard = cluster.shard_of(partition(0));
    let mut sequence = 0;
    for _ in 0..3 {
        for _ in 0..10 {
            cluster.append(0, &value(sequence), sequence).await;
            sequence += 1;
        }
        let leader = cluster.leader(shard).unwrap();
        cluster.kill(leader).await;
        // The last one again, as if its receipt had been lost.
        let again = cluster.append(0, &value(sequence - 1), sequence - 1).await;
        assert!(again.duplicate);
        for _ in 0..10 {
            cluster.append(0, &value(sequence), sequence).await;
            sequence += 1;
        }
        cluster.start_member(leader).await;
        cluster.everyone_has(0, &numbers(0..sequence)).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_missed_more_than_the_log_holds_gets_a_checkpoint_and_the_missing_records() {
    let mut cluster = TestCluster::with_topic(3).await;
    for sequence in 0..10 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    cluster.everyone_has(0, &numbers(0..10)).await;
    cluster.kill(2).await;
    cluster.append_past_the_logs(10, value).await;
    cluster.start_member(2).await;
    cluster.everyone_has(0, &numbers(0..62)).await;
    // What was taken over is durable, and the log goes on behind it.
    cluster.append(0, &value(62), 62).await;
    cluster.kill(2).await;
    cluster.start_member(2).await;
    cluster.everyone_has(0, &numbers(0..63)).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_loses_power_gets_again_what_it_had_not_synced() {
    let rarely = SyncPolicy::Every(Duration::from_mins(1));
    let mut cluster = TestCluster::start_synced(3, rarely).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(3).await;
    for at in 0..3 {
        cluster.shards(at).checkpoint().await.unwrap();
        cluster.members[at]
            .as_ref()
            .unwrap()
            .broker
            .wal
            .sync()
            .unwrap();
    }
    for sequence in 0..40 {
        for index in 0..3 {
            cluster.append(index, &value(sequence), sequence).await;
        }
    }
    for index in 0..3 {
        cluster.everyone_has(index, &numbers(0..40)).await;
    }
    let left = cluster.disks[2].crash(CrashKeep::Nothing);
    cluster.kill(2).await;
    cluster.disks[2] = Arc::new(left);
    cluster.start_member(2).await;
    for index in 0..3 {
        cluster.append(index, &value(40), 40).await;
        cluster.everyone_has(index, &numbers(0..41)).await;
    }
    for at in 0..3 {
        assert_eq!(cluster.shards(at).failure(), None);
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_founder_does_not_forget_with_its_power_that_others_decide_with_it() {
    let rarely = SyncPolicy::Every(Duration::from_mins(1));
    let mut cluster = TestCluster::start_synced(3, rarely).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.network.isolate(id(0), [id(1), id(2)]);
    let left = cluster.disks[0].crash(CrashKeep::Nothing);
    cluster.kill(0).await;
    cluster.disks[0] = Arc::new(left);
    cluster.start_member(0).await;
    for data in cluster.shards(0).all_data() {
        let view = data.group().view();
        assert_eq!(view.voters.len(), 3, "{view:?}");
        assert!(!view.leads, "{view:?}");
    }
    cluster.network.mend_all();
    cluster.settle(&[0, 1, 2]).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_all_die_before_their_first_checkpoint_find_leaders_again() {
    let mut cluster = TestCluster::with_topic(3).await;
    cluster.append(0, &value(0), 0).await;
    for at in 0..3 {
        cluster.kill(at).await;
    }
    for at in 0..3 {
        cluster.start_member(at).await;
    }
    cluster.settle(&[0, 1, 2]).await;
    cluster.append(0, &value(1), 1).await;
    cluster.everyone_has(0, &numbers(0..2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_what_it_took_is_replaced() {
    let cluster = TestCluster::with_topic(3).await;
    cluster.append(0, &value(0), 0).await;
    let shard = cluster.shard_of(partition(0));
    let old = cluster.leader(shard).unwrap();
    let others = (0..3).filter(|at| *at != old).map(id);
    cluster.network.isolate(id(old), others);
    let data = cluster.shards(old).data(shard).unwrap();
    let lost = tokio::spawn(async move {
        let batch = sequenced(b"lost", 8, 0, 0);
        data.append(partition(0), batch).await
    });
    let others: Vec<_> = (0..3).filter(|at| *at != old).collect();
    cluster.append_at(&others, 0, &value(1), 1).await;
    cluster.network.mend_all();
    let outcome = lost.await.unwrap();
    assert_eq!(outcome, Err(AppendError::Deposed));
    cluster.everyone_has(0, &numbers(0..2)).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_lets_nobody_wait_for_ever_and_keeps_no_room() {
    let cluster = TestCluster::with_topic(3).await;
    cluster.append(0, &value(0), 0).await;
    let shard = cluster.shard_of(partition(0));
    let old = cluster.leader(shard).unwrap();
    let others = (0..3).filter(|at| *at != old).map(id);
    let data = cluster.shards(old).data(shard).unwrap();
    // Nobody can take over: whoever waits would wait until the network is back.
    for other in others {
        cluster.network.isolate(id(old), [other]);
    }
    cluster
        .network
        .isolate(id((old + 1) % 3), [id((old + 2) % 3)]);
    let appends = (0..3 * ENTRIES_IN_FLIGHT_MAX as u64).map(|sequence| {
        let (data, batch) = (data.clone(), sequenced(b"lost", 8, 0, sequence));
        async move { data.append(partition(0), batch).await }
    });
    let outcomes = timeout(PATIENCE, join_all(appends)).await.unwrap();
    let (unknown, refused): (Vec<_>, Vec<_>) = outcomes
        .into_iter()
        .partition(|outcome| *outcome == Err(AppendError::Deposed));
    assert!(
        !unknown.is_empty(),
        "it took in nothing while its lease was on"
    );
    assert!(
        refused
            .iter()
            .all(|outcome| *outcome == Err(AppendError::NotLeader)),
        "{refused:?}"
    );
    cluster.network.mend_all();
    cluster.append(0, &value(1), 1).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_hands_its_shards_over_first() {
    let mut cluster = TestCluster::with_topic(3).await;
    cluster.append(0, &value(0), 0).await;
    let shard = cluster.shard_of(partition(0));
    let leader = cluster.leader(shard).unwrap();
    let started = Instant::now();
    cluster.stop(leader).await;
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    cluster
        .wait_for("another leader", || {
            cluster.leader(shard).is_some_and(|at| at != leader)
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_that_is_asked_for_the_end_does_not_answer() {
    let cluster = TestCluster::with_topic(1).await;
    cluster.append(0, &value(0), 0).await;
    let shard = cluster.shard_of(partition(0));
    let old = cluster.leader(shard).unwrap();
    let data = cluster.shards(old).data(shard).unwrap();
    data.group().confirm_leadership().await.unwrap();
    let others: Vec<_> = (0..3).filter(|at| *at != old).collect();
    cluster
        .network
        .isolate(id(old), others.iter().copied().map(id));
    cluster.append_at(&others, 0, &value(1), 1).await;
    // It may still take itself for the leader, and knows of one record only.
    assert_eq!(cluster.values_at(old, 0), numbers(0..1));
    assert!(data.group().confirm_leadership().await.is_err());
    cluster.network.mend_all();
    cluster.everyone_has(0, &numbers(0..2)).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_die_while_they_hand_over_lose_nothing() {
    let mut cluster = TestCluster::with_topic(1).await;
    let shard = cluster.shard_of(partition(0));
    for round in 0..6 {
        cluster.append(0, &value(round), round).await;
        cluster
            .wait_for("a leader", || cluster.leader(shard).is_some())
            .await;
        let leader = cluster.leader(shard).unwrap();
        let data = cluster.shards(leader).data(shard).unwrap();
        let heir = (leader + 1) % 3;
        data.group().transfer_leadership(id(heir)).await;
        sleep(Duration::from_millis(round * 5)).await;
        drop(data);
        cluster.kill(leader).await;
        let again = cluster.append(0, &value(round), round).await;
        assert!(again.duplicate);
        cluster.start_member(leader).await;
        cluster.everyone_has(0, &numbers(0..round + 1)).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_again_and_again_while_it_gets_its_records_gets_them_in_the_end() {
    let mut cluster = TestCluster::with_topic(1).await;
    cluster.append(0, &value(0), 0).await;
    cluster.everyone_has(0, &numbers(0..1)).await;
    cluster.kill(2).await;
    for sequence in 1..200 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    for sequence in 200..202 {
        for at in [0, 1] {
            cluster.shards(at).checkpoint().await.unwrap();
        }
        cluster.append(0, &value(sequence), sequence).await;
    }
    for round in 0..8 {
        cluster.start_member(2).await;
        sleep(Duration::from_millis(round * 40)).await;
        cluster.kill(2).await;
    }
    cluster.start_member(2).await;
    cluster.everyone_has(0, &numbers(0..202)).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_partitions_are_served_on_when_their_leaders_die() {
    const PARTITIONS: u32 = 10_000;
    const SAMPLES: usize = 101;
    let mut cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    let config = TopicConfig::default();
    let shards = cluster.shards(0);
    for shard in (1..=SHARDS).map(ShardId) {
        let of_shard = |index: &u32| shards.shard_of(partition(*index)) == shard;
        let indexes = (0..PARTITIONS).filter(of_shard).collect();
        let made = shards.create_partitions(shard, TOPIC, indexes, &config);
        made.await.unwrap();
    }
    let samples: Vec<_> = (0..PARTITIONS).step_by(SAMPLES).collect();
    for index in &samples {
        cluster.append(*index, &value(0), 0).await;
    }
    let leader = cluster.leader(ShardId(1)).unwrap();
    cluster.kill(leader).await;
    for index in &samples {
        let again = cluster.append(*index, &value(0), 0).await;
        assert!(again.duplicate, "partition {index}");
        cluster.append(*index, &value(1), 1).await;
    }
    for at in (0..3).filter(|at| *at != leader) {
        let all = cluster.shards(at).all_data();
        let partitions: usize = all.iter().map(|shard| shard.partitions().len()).sum();
        assert_eq!(partitions, PARTITIONS as usize);
    }
    cluster.start_member(leader).await;
    for index in &samples {
        cluster.everyone_has(*index, &numbers(0..2)).await;
    }
    cluster.end().await;
}
