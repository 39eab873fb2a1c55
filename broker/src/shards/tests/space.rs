//! A full disk, and a failing one.

use std::path::Path;

use super::*;
use crate::disk::FaultPlan;

/// A broker that makes checkpoints all the time, and soon has to.
async fn small_broker(disk: &Arc<SimulatedDisk>) -> Broker {
    small_broker_with(disk, Duration::from_millis(10)).await
}

async fn small_broker_with(disk: &Arc<SimulatedDisk>, checkpoint_interval: Duration) -> Broker {
    let broker = Broker::start_with(disk, 1, |options, wal| {
        options.checkpoint_interval = checkpoint_interval;
        wal.segment_bytes = 256 << 10;
        wal.bytes_max = 2 << 20;
    })
    .await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let config = TopicConfig::default();
    shard
        .create_partitions(TOPIC, vec![0], &config)
        .await
        .unwrap();
    broker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_error_to_be_tried_again_and_loses_nothing() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = small_broker(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    disk.set_faults(FaultPlan {
        capacity_bytes: Some(6 << 20),
        ..FaultPlan::default()
    });
    let mut acknowledged = 0u64;
    let refused = loop {
        let mut value = vec![7; 20_000];
        value[..8].copy_from_slice(&acknowledged.to_be_bytes());
        match shard.append(partition(0), batch(&[&value])).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "the disk never fills up");
    };
    assert!(refused.code().retryable(), "{refused}");
    assert_eq!(broker.shards.failure(), None);
    let reader = shard.reader(partition(0)).unwrap();
    assert_eq!(values(&reader).len() as u64, acknowledged);

    disk.set_faults(FaultPlan::default());
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match shard.append(partition(0), batch(&[b"again"])).await {
            Ok(_) => break,
            Err(error) => assert!(error.code().retryable(), "{error}"),
        }
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let expected = acknowledged + 1;
    assert_eq!(reader.end_offset(), Offset(expected));
    broker.stop().await;
    let broker = small_broker(&disk).await;
    let reader = broker
        .shards
        .data_of(partition(0))
        .unwrap()
        .reader(partition(0));
    assert_eq!(values(&reader.unwrap()).len() as u64, expected);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_deleted_frees_a_disk_that_is_full_to_the_last_byte() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = small_broker(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let kept = PartitionId {
        topic: TopicId(TOPIC.0 + 1),
        index: 0,
    };
    let config = TopicConfig::default();
    let created = shard.create_partitions(kept.topic, vec![0], &config);
    created.await.unwrap();
    let full = |bytes| FaultPlan {
        capacity_bytes: Some(bytes),
        ..FaultPlan::default()
    };
    disk.set_faults(full(6 << 20));
    let mut of_kept = Vec::new();
    let (mut large, mut small) = (true, true);
    while large || small {
        let filled = shard.append(partition(0), batch(&[&vec![7; 20_000]])).await;
        large = filled.is_ok();
        let value = format!("{}", of_kept.len()).into_bytes();
        small = shard.append(kept, batch(&[&value])).await.is_ok();
        if small {
            of_kept.push(value);
        }
        assert!(of_kept.len() < 10_000, "the disk never fills up");
    }
    disk.set_faults(full(disk.used_bytes()));
    shard.delete_partitions(TOPIC).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = shard.append(kept, batch(&[b"again"])).await {
        assert!(error.code().retryable(), "{error}");
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    of_kept.push(b"again".to_vec());
    assert_eq!(values(&shard.reader(kept).unwrap()), of_kept);
    broker.stop().await;
    let broker = Broker::start_with(&disk, 1, |_, wal| {
        wal.segment_bytes = 256 << 10;
        wal.bytes_max = 2 << 20;
    })
    .await;
    let shard = broker.shards.data_of(kept).unwrap();
    assert_eq!(values(&shard.reader(kept).unwrap()), of_kept);
    assert!(shard.reader(partition(0)).is_none());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_frees_a_full_disk_though_no_checkpoint_is_due_and_others_lack_room_too() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start_with(&disk, 2, |options, wal| {
        options.checkpoint_interval = Duration::from_hours(1);
        wal.segment_bytes = 256 << 10;
        wal.bytes_max = 2 << 20;
    })
    .await;
    let shards = [0, 1].map(|index| broker.shards.data_of(partition(index)).unwrap());
    let config = TopicConfig::default();
    for (index, shard) in (0..).zip(&shards) {
        let created = shard.create_partitions(TOPIC, vec![index], &config);
        created.await.unwrap();
    }
    let kept = PartitionId {
        topic: TopicId(TOPIC.0 + 2),
        index: 0,
    };
    let created = shards[0].create_partitions(kept.topic, vec![0], &config);
    created.await.unwrap();
    let full = |bytes| FaultPlan {
        capacity_bytes: Some(bytes),
        ..FaultPlan::default()
    };
    disk.set_faults(full(6 << 20));
    let mut takes = true;
    while takes {
        takes = false;
        for (index, shard) in (0..).zip(&shards) {
            let appended = shard.append(partition(index), batch(&[&vec![7; 20_000]]));
            takes |= appended.await.is_ok();
        }
    }
    disk.set_faults(full(disk.used_bytes()));
    for shard in &shards {
        shard.delete_partitions(TOPIC).await.unwrap();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while let Err(error) = shards[0].append(kept, batch(&[b"again"])).await {
        assert!(error.code().retryable(), "{error}");
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_shards_and_acknowledges_nothing() {
    let disk = Arc::new(SimulatedDisk::new());
    // No checkpoint comes in between: the sync that fails must not be that of a segment.
    let broker = small_broker_with(&disk, Duration::from_hours(1)).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    shard.append(partition(0), batch(&[b"kept"])).await.unwrap();
    let mut kept = vec![b"kept".to_vec()];
    // The one failing sync may be that of a file that is prepared ahead, which is prepared
    // again and fails nobody. Then the batch is kept, and it is tried once more.
    let failed = loop {
        disk.set_faults(FaultPlan {
            fail_sync_in: Some(0),
            ..FaultPlan::default()
        });
        match shard.append(partition(0), batch(&[b"lost?"])).await {
            Ok(_) => kept.push(b"lost?".to_vec()),
            Err(error) => break error,
        }
        assert!(kept.len() < 100, "no sync of the log has failed");
    };
    assert!(matches!(failed, AppendError::Failed { .. }), "{failed:?}");
    let reason = broker.shards.failed().await;
    assert!(!reason.is_empty());
    disk.set_faults(FaultPlan::default());
    let refused = shard.append(partition(0), batch(&[b"late"])).await;
    assert!(
        matches!(refused, Err(AppendError::Failed { .. })),
        "{refused:?}"
    );
    let reader = shard.reader(partition(0)).unwrap();
    assert_eq!(values(&reader), kept);
    broker.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cannot_take_checkpoints_says_that_it_takes_records_until_the_log_is_full() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = small_broker(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    disk.set_faults(FaultPlan {
        fail_names_in: Some("/shards".into()),
        ..FaultPlan::default()
    });
    let send = async || {
        let appended = shard.append(partition(0), batch(&[&vec![7; 20_000]]));
        appended.await.is_ok()
    };
    assert!(send().await);
    let says = async |what: &str| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let mut said = broker.shards.degraded().unwrap_or_default();
        while !said.starts_with(what) {
            assert!(std::time::Instant::now() < deadline, "{what}: {said}");
            tokio::time::sleep(Duration::from_millis(5)).await;
            said = broker.shards.degraded().unwrap_or_default();
        }
        said
    };
    let said = says("cannot take a checkpoint: ").await;
    assert!(
        said.contains("records are taken until it is full"),
        "{said}"
    );
    assert!(send().await, "they are taken");
    let mut taken = 0;
    let mut is_taken = |is_taken: bool| {
        taken += 1;
        assert!(taken < 10_000, "the log never fills up");
        is_taken
    };
    while is_taken(send().await) {}
    while is_taken(shard.append(partition(0), batch(&[b"small"])).await.is_ok()) {}
    let said = says("takes no records: the write-ahead log is full").await;
    assert!(said.contains("cannot take a checkpoint"), "{said}");
    disk.set_faults(FaultPlan::default());
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while let Some(said) = broker.shards.degraded() {
        assert!(std::time::Instant::now() < deadline, "{said}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(send().await);
    broker.stop().await;
}

/// A broker with a small log and two shards: one with records in the log, which is then closed as
/// one whose last checkpoint could not be taken, and another.
async fn with_a_closed_shard(
    disk: &Arc<SimulatedDisk>,
    records: usize,
    record: &[u8],
) -> (Broker, DataShard, DataShard) {
    let broker = Broker::start_with(disk, 2, |_, wal| {
        wal.segment_bytes = 256 << 10;
        wal.bytes_max = 2 << 20;
    })
    .await;
    let [closed, open] = [0, 1].map(|index| broker.shards.data_of(partition(index)).unwrap());
    let config = TopicConfig::default();
    for (index, shard) in (0..).zip([&closed, &open]) {
        let created = shard.create_partitions(TOPIC, vec![index], &config);
        created.await.unwrap();
    }
    for _ in 0..records {
        let kept = closed.append(partition(0), batch(&[record])).await;
        assert!(kept.is_ok());
    }
    let shared = &broker.shards.shared;
    shared.unrepaired.lock().insert(closed.id());
    shared.data.write().remove(&closed.id());
    (broker, closed, open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_closed_shard_has_in_the_log_is_out_of_the_way_of_others_and_kept() {
    let disk = Arc::new(SimulatedDisk::new());
    let (broker, closed, open) = with_a_closed_shard(&disk, 20, b"kept").await;
    let wal = broker.shards.shared.parts.raft.wal.clone();
    let entries = |wal: &Wal| {
        let log = wal.shard(closed.id());
        let state = log.state();
        let all = state.first.unwrap()..state.last.unwrap().index + 1;
        log.read(all, usize::MAX).unwrap()
    };
    let before = entries(&wal);
    assert!(before.len() >= 20);
    // The log several times over.
    let large = vec![7; 20_000];
    for _ in 0..500 {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while open.append(partition(1), batch(&[&large])).await.is_err() {
            assert!(std::time::Instant::now() < deadline, "the log stays full");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(wal.usage().bytes <= 3 << 20, "{:?}", wal.usage());
    assert_eq!(entries(&wal), before);
    closed.close().await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_closed_shard_has_stays_where_it_is_while_the_log_is_short() {
    let disk = Arc::new(SimulatedDisk::new());
    // Nearly a quarter of the log, in two segments and a half.
    let (broker, closed, _open) = with_a_closed_shard(&disk, 24, &vec![7; 20_000]).await;
    let shared = &broker.shards.shared;
    let oldest_segment = || {
        let files = disk.list(Path::new("/wal")).unwrap().into_iter();
        let mut paths = files.map(|file| file.path);
        paths.find(|path| path.extension().is_some_and(|extension| extension == "wal"))
    };
    let before = oldest_segment();
    assert!(before.is_some());
    for _ in 0..50 {
        // As a producer does that waits for room elsewhere.
        shared.parts.admission.want_checkpoints();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(oldest_segment(), before);
    closed.close().await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_shard_with_a_large_part_of_the_log_is_named_when_that_is_full() {
    let disk = Arc::new(SimulatedDisk::new());
    let (broker, closed, open) = with_a_closed_shard(&disk, 30, &vec![7; 20_000]).await;
    let large = vec![7; 20_000];
    let mut acknowledged = 0;
    while open.append(partition(1), batch(&[&large])).await.is_ok() {
        acknowledged += 1;
        assert!(acknowledged < 1_000, "the log never fills up");
    }
    let said = broker.shards.degraded().unwrap();
    assert!(said.contains("is full"), "{said}");
    assert!(said.contains("what it has of shard"), "{said}");
    closed.close().await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_be_written_takes_no_records_and_keeps_none_from_others() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = small_broker_with(&disk, Duration::from_hours(1)).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let other = PartitionId {
        topic: TopicId(TOPIC.0 + 1),
        index: 0,
    };
    let config = TopicConfig::default();
    let created = shard.create_partitions(other.topic, vec![0], &config);
    created.await.unwrap();
    for partition in [partition(0), other] {
        shard.append(partition, batch(&[b"before"])).await.unwrap();
    }
    broker.shards.checkpoint().await.unwrap();
    // The segment goes on being open; the next one cannot be made.
    let dir = Path::new("/logs").join(TOPIC.to_string());
    disk.remove_dir_all(&dir).unwrap();
    let log = broker.logs.get(partition(0)).unwrap();
    assert!(
        log.enforce_retention(u64::MAX).is_err(),
        "it is sealed only"
    );
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let refused = loop {
        match shard.append(partition(0), batch(&[b"refused?"])).await {
            Ok(_) => assert!(std::time::Instant::now() < deadline, "it is not refused"),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(refused.code().retryable(), "{refused}");
    assert!(refused.to_string().contains("7/0"), "{refused}");
    shard.append(other, batch(&[b"taken"])).await.unwrap();
    assert_eq!(broker.shards.takes_none(), None);
    let said = broker.shards.degraded().unwrap();
    assert!(said.contains("partition 7/0"), "{said}");

    disk.create_dir_all(&dir).unwrap();
    while let Err(error) = shard.append(partition(0), batch(&[b"again"])).await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.kill().await;
}

#[tokio::test]
async fn a_batch_that_can_never_fit_is_refused_for_good() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = small_broker(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let refused = shard
        .append(partition(0), batch(&[&vec![7; 200_000]]))
        .await;
    assert!(
        matches!(refused, Err(AppendError::TooLarge { .. })),
        "{refused:?}"
    );
    assert!(!refused.unwrap_err().code().retryable());
    broker.stop().await;
}
