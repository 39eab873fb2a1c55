//! Brokers that die or hang.

use std::time::Duration;

use flumen_tests::{cluster::Cluster, load::Load};
use rand::RngExt;
use rustix::process::Signal;

use super::rounds;

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_kill_9_of_any_broker_again_and_again() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "killed").await;
    for _ in 0..rounds() {
        let victim = rand::rng().random_range(0..3);
        cluster.brokers[victim].kill();
        load.until_progress().await;
        cluster.brokers[victim].restart().await;
        cluster.until_healthy().await;
    }
    load.finish(&cluster, 3).await.assert_no_send_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_is_replaced_and_does_no_harm_when_it_wakes_up() {
    let cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "paused").await;
    for round in 0..rounds().div_ceil(2) {
        let status = cluster.until_healthy().await;
        // The catalog's leader first, then one that leads data.
        let shard = &status.shards[round as usize % status.shards.len()];
        let leader = cluster.position(&status, shard.leader.unwrap());
        let pause = Duration::from_millis(rand::rng().random_range(2000..4000));
        cluster.brokers[leader].signal(Signal::STOP);
        tokio::join!(load.until_progress(), tokio::time::sleep(pause));
        cluster.brokers[leader].signal(Signal::CONT);
        load.until_progress().await;
    }
    cluster.until_healthy().await;
    load.finish(&cluster, 3).await.assert_no_send_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_records_survive_the_death_of_all_brokers_at_once() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "all").await;
    for _ in 0..rounds().div_ceil(2) {
        for broker in &mut cluster.brokers {
            broker.kill();
        }
        for broker in &mut cluster.brokers {
            broker.spawn();
        }
        for broker in &mut cluster.brokers {
            broker.until_serving().await;
        }
        load.until_progress().await;
        cluster.until_healthy().await;
    }
    load.finish(&cluster, 3).await.assert_no_send_failed();
}
