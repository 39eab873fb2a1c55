//! Brokers that come and go, and replicas that move.

use std::future::pending;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::*;
use crate::peer::{PeerHandler, PeerStream};

/// Never answers.
struct Silent;

impl PeerHandler for Silent {
    fn call(&self, _: BrokerId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(pending())
    }

    fn stream(&self, _: BrokerId, _: Bytes, stream: PeerStream) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _open = stream;
            pending::<()>().await;
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_broker_grows_into_a_cluster_and_keeps_its_records() {
    let mut cluster = TestCluster::start(1).await;
    cluster.create_topic(3).await;
    for sequence in 0..20 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    cluster.shards(0).checkpoint().await.unwrap();
    for at in 1..3 {
        cluster.disks.push(Arc::new(SimulatedDisk::new()));
        cluster.members.push(None);
        cluster.start_member(at).await;
        cluster.register(at).await;
    }
    cluster.settle(&[0, 1, 2]).await;
    for sequence in 20..40 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    cluster.everyone_has(0, &numbers(0..40)).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_move_away_from_a_broker_that_is_drained() {
    let cluster = TestCluster::start(4).await;
    cluster.settle_as_placed().await;
    cluster.create_topic(3).await;
    for index in 0..3 {
        for sequence in 0..10 {
            cluster.append(index, &value(sequence), sequence).await;
        }
    }
    let drained = cluster.shards(0).catalog().drain_broker(id(1), true);
    drained.await.unwrap();
    cluster.settle(&[0, 2, 3]).await;
    cluster
        .wait_for("the drained broker to give its replicas up", || {
            cluster.shards(1).all_data().is_empty()
        })
        .await;
    for at in [0, 2, 3] {
        for index in 0..3 {
            cluster
                .wait_for("the records", || {
                    cluster.values_at(at, index) == numbers(0..10)
                })
                .await;
        }
    }
    // It comes back, and gets them again.
    let undone = cluster.shards(0).catalog().drain_broker(id(1), false);
    undone.await.unwrap();
    cluster
        .wait_for("replicas to return", || {
            !cluster.shards(1).all_data().is_empty()
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_that_made_the_cluster_leaves_shards_and_comes_back_and_nothing_is_lost() {
    let cluster = TestCluster::start(4).await;
    cluster.settle_as_placed().await;
    cluster.create_topic(3).await;
    for round in 0..6 {
        let drained = cluster.shards(1).catalog().drain_broker(id(0), true);
        drained.await.unwrap();
        for index in 0..3 {
            for sequence in round * 10..(round + 1) * 10 {
                cluster.append(index, &value(sequence), sequence).await;
            }
        }
        cluster
            .wait_for("the founder to give its replicas up", || {
                cluster.shards(0).all_data().is_empty()
            })
            .await;
        // What it gets arrives in pieces.
        cluster.network.delay(Duration::from_millis(15));
        let undone = cluster.shards(1).catalog().drain_broker(id(0), false);
        undone.await.unwrap();
        cluster.settle_as_placed().await;
        cluster.network.delay(Duration::ZERO);
    }
    for index in 0..3 {
        let placed = cluster.shards(1).catalog().snapshot().placement.clone();
        let shard = cluster.shard_of(partition(index));
        for at in placed[&shard].iter().map(|broker| broker.0 as usize - 1) {
            cluster
                .wait_for("the records", || {
                    cluster.values_at(at, index) == numbers(0..60)
                })
                .await;
        }
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_its_leader_counts_on_is_not_given_up() {
    let cluster = TestCluster::with_topic(1).await;
    cluster.append(0, &value(0), 0).await;
    cluster.everyone_has(0, &numbers(0..1)).await;
    let shard = cluster.shard_of(partition(0));
    let leader = cluster.leader(shard).unwrap();
    for at in (0..3).filter(|at| *at != leader) {
        for asked in 0..3 {
            let kept = cluster.shards(at).give_replica_up(shard, id(asked));
            kept.await.unwrap();
            assert_eq!(cluster.values_at(at, 0), numbers(0..1));
        }
    }
    cluster.append(0, &value(1), 1).await;
    cluster.everyone_has(0, &numbers(0..2)).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_wanted_back_while_they_leave_lose_nothing_that_they_confirmed() {
    let cluster = TestCluster::start(4).await;
    cluster.settle_as_placed().await;
    cluster.create_topic(3).await;
    for round in 0..24 {
        for (drained, back) in [(1, 2), (2, 1)] {
            let catalog = cluster.shards(0).catalog();
            catalog.drain_broker(id(back), false).await.unwrap();
            catalog.drain_broker(id(drained), true).await.unwrap();
            for index in 0..3 {
                cluster.append(index, &value(round), round).await;
            }
            sleep(Duration::from_millis(round * 17 % 200)).await;
        }
    }
    for drained in [1, 2] {
        let undone = cluster.shards(0).catalog().drain_broker(id(drained), false);
        undone.await.unwrap();
    }
    let settled = || {
        let state = cluster.shards(0).catalog().snapshot();
        let mut shards = state.placement.iter();
        shards.all(|(shard, placed)| {
            placed.iter().all(|broker| {
                let at = broker.0 as usize - 1;
                let index = (0..3).find(|i| cluster.shard_of(partition(*i)) == *shard);
                index.is_none_or(|index| cluster.values_at(at, index) == numbers(0..24))
            })
        })
    };
    cluster.wait_for("all replicas to have all", settled).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_die_while_replicas_move_lose_nothing_and_the_move_is_finished() {
    let mut cluster = TestCluster::start(4).await;
    cluster.settle_as_placed().await;
    cluster.create_topic(3).await;
    for round in 0..6 {
        let drained = 1 + round as usize % 3;
        let catalog = cluster.shards(0).catalog();
        catalog.drain_broker(id(drained), true).await.unwrap();
        sleep(Duration::from_millis(round * 60)).await;
        // The leader that changes the members, or the one that is let go.
        let shard = ShardId(1 + round as u32 % SHARDS);
        let victim = match (round % 2, cluster.leader(shard)) {
            (0, Some(leader)) => leader,
            _ => drained,
        };
        cluster.kill(victim).await;
        for index in 0..3 {
            cluster.append(index, &value(round), round).await;
        }
        cluster.start_member(victim).await;
        let catalog = cluster.shards(victim).catalog();
        catalog.drain_broker(id(drained), false).await.unwrap();
    }
    cluster
        .wait_for("all replicas to be where they should be", || {
            let state = cluster.shards(0).catalog().snapshot();
            (0..3).all(|index| {
                let placed = &state.placement[&cluster.shard_of(partition(index))];
                let mut at = placed.iter().map(|broker| broker.0 as usize - 1);
                placed.len() == 3 && at.all(|at| cluster.values_at(at, index) == numbers(0..6))
            })
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_waits_to_open_a_replica_is_heard_of_all_the_same() {
    let cluster = TestCluster::start_apart(2, SyncPolicy::Always).await;
    // As by the removal of another replica's files, which takes long.
    let removing = Arc::clone(&cluster.shards(1).shared);
    let removing = removing.opening.lock().await;
    for at in 0..2 {
        cluster.register(at).await;
    }
    let placed = || {
        let state = cluster.shards(1).catalog().snapshot();
        state.shards_of(id(1)).next().is_some()
    };
    cluster.wait_for("replicas to be placed", placed).await;
    let since = Instant::now();
    let reports = &cluster.members[0].as_ref().unwrap().reports;
    cluster
        .wait_for("a report a while later", || {
            let heard = reports.of(id(1)).map(|(age, _)| age);
            heard.is_some_and(|age| age + Duration::from_secs(1) < since.elapsed())
        })
        .await;
    assert!(cluster.shards(1).all_data().is_empty());
    drop(removing);
    let opened = || !cluster.shards(1).all_data().is_empty();
    cluster.wait_for("the replica to be opened", opened).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_given_up_while_it_gets_records_leaves_nothing_behind_and_can_come_again()
{
    let mut cluster = TestCluster::with_topic(3).await;
    for sequence in 0..6 {
        for index in 0..3 {
            cluster.append(index, &value(sequence), sequence).await;
        }
        // The log goes, so that who comes now gets records instead.
        for at in 0..3 {
            cluster.shards(at).checkpoint().await.unwrap();
        }
    }
    for at in 0..3 {
        let silent = Arc::new(Silent);
        cluster.network.serve(id(at), PeerService::Records, silent);
    }
    cluster.disks.push(Arc::new(SimulatedDisk::new()));
    cluster.members.push(None);
    cluster.start_member(3).await;
    cluster.register(3).await;
    let logs = cluster.shards(3).shared.logs.clone();
    cluster
        .wait_for("records to be asked for", || !logs.is_empty())
        .await;
    let drained = cluster.shards(0).catalog().drain_broker(id(3), true);
    drained.await.unwrap();
    cluster
        .wait_for("the replicas to be given up", || {
            let state = cluster.shards(3).catalog().snapshot();
            state.shards_of(id(3)).next().is_none() && cluster.shards(3).all_data().is_empty()
        })
        .await;
    cluster
        .wait_for("the logs to be gone", || logs.is_empty())
        .await;
    for at in 0..3 {
        let records = cluster.shards(at).shared.parts.records.clone();
        let records = Arc::new(records);
        cluster.network.serve(id(at), PeerService::Records, records);
    }
    let undone = cluster.shards(0).catalog().drain_broker(id(3), false);
    undone.await.unwrap();
    cluster.settle_as_placed().await;
    for index in 0..3 {
        cluster.append(index, &value(6), 6).await;
        let placed = cluster.shards(0).catalog().snapshot().placement.clone();
        for broker in &placed[&cluster.shard_of(partition(index))] {
            let at = broker.0 as usize - 1;
            cluster
                .wait_for("the records", || {
                    cluster.values_at(at, index) == numbers(0..7)
                })
                .await;
        }
    }
    cluster.end().await;
}
