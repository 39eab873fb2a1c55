//! Retention and compaction beside all else.

use std::{path::Path, sync::mpsc};

use flumen_protocol::topic::Cleanup;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::disk::FaultPlan;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_files_go_though_the_compaction_that_replaced_them_came_to_no_end() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start_with(&disk, 1, |options, _| {
        options.checkpoint_interval = Duration::from_hours(1);
    })
    .await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let config = TopicConfig {
        cleanup: Cleanup::Compact,
        segment_bytes: 1000,
        ..TopicConfig::default()
    };
    let created = shard.create_partitions(TOPIC, vec![0], &config);
    created.await.unwrap();
    for _ in 0..50 {
        let mut builder = BatchBuilder::new();
        let record = RecordRef {
            key: Some(b"key"),
            value: Some(&[7; 100]),
            ..RecordRef::default()
        };
        builder.push(&record).unwrap();
        let batch = builder.build(Codec::None).unwrap();
        shard.append(partition(0), batch).await.unwrap();
    }
    broker.shards.checkpoint().await.unwrap();
    let dir = Path::new("/logs").join(TOPIC.to_string());
    let segments = || {
        let files = disk.list(&dir).unwrap().into_iter();
        let is_segment = |path: &Path| path.extension().is_some_and(|end| end == "segment");
        files.filter(|file| is_segment(&file.path)).count()
    };
    let before = segments();
    assert!(before > 5);
    // Most segments are left out; the first that has something left finds no room.
    disk.set_faults(FaultPlan {
        capacity_bytes: Some(disk.used_bytes()),
        ..FaultPlan::default()
    });
    shard.look_after_logs(0, &CancellationToken::new());
    disk.set_faults(FaultPlan::default());
    assert_eq!(segments(), before, "until the next checkpoint");
    broker.shards.checkpoint().await.unwrap();
    assert!(segments() < before / 2, "{} of {before}", segments());
    broker.stop().await;
}
