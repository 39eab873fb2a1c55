//! Retention and compaction beside all else.

use std::sync::mpsc;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_are_taken_while_a_compaction_takes_long() {
    let disk = Arc::new(SimulatedDisk::new());
    let checkpoints = Counter::default();
    let broker = Broker::start_with(&disk, 1, |options, _| {
        options.checkpoint_interval = Duration::from_millis(5);
        options.retention_interval = Duration::from_millis(1);
        options.checkpoints = checkpoints.clone();
    })
    .await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let config = TopicConfig::default();
    let created = shard.create_partitions(TOPIC, vec![0], &config);
    created.await.unwrap();
    let log = broker.logs.get(partition(0)).unwrap();
    let (end, ended) = mpsc::channel::<()>();
    let compaction = std::thread::spawn(move || log.without_compaction(|| ended.recv()));
    for _ in 0..30 {
        let before = checkpoints.get();
        shard.append(partition(0), batch(&[b"a"])).await.unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while checkpoints.get() == before {
            assert!(std::time::Instant::now() < deadline, "no checkpoint");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    drop(end);
    assert!(compaction.join().unwrap().is_err(), "it was told to end");
    broker.stop().await;
}
