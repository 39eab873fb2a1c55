//! Brokers far apart: a call takes longer than the interval in which leaders tell that they lead.

use super::*;

/// What everything takes on its way. There and back it is more than the interval of heartbeats,
/// and less than what an answer may take.
const WAY: Duration = Duration::from_millis(60);

/// How often a leader makes sure that it leads; more often than the lease of before reaches.
const CONFIRMATIONS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_far_away_know_that_they_lead_while_there_is_nothing_to_send() {
    let cluster = TestCluster::with_topic(1).await;
    let shard = cluster.shard_of(partition(0));
    cluster.network.delay(WAY);
    let deadline = Instant::now() + PATIENCE;
    let mut confirmed = 0;
    while confirmed < CONFIRMATIONS {
        assert!(Instant::now() < deadline, "only {confirmed} times");
        if let Some(leader) = cluster.leader(shard) {
            let data = cluster.shards(leader).data(shard).unwrap();
            confirmed += usize::from(data.group().confirm_leadership().await.is_ok());
        }
        sleep(WAY).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_far_away_comes_back_and_gets_what_it_lacks() {
    let mut cluster = TestCluster::with_topic(1).await;
    let leader = cluster.leader(cluster.shard_of(partition(0))).unwrap();
    let away = (leader + 1) % 3;
    cluster.kill(away).await;
    for sequence in 0..20 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    cluster.network.delay(WAY);
    cluster.start_member(away).await;
    cluster.everyone_has(0, &numbers(0..20)).await;
    cluster.end().await;
}
