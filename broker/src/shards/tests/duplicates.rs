//! What is sent again, by whom, and what becomes of it: across restarts, too.

use flumen_protocol::error::ErrorCode;

use super::*;
use crate::disk::FaultPlan;

async fn with_partition(disk: &Arc<SimulatedDisk>) -> Broker {
    let broker = Broker::start(disk, 1).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let config = TopicConfig::default();
    shard
        .create_partitions(TOPIC, vec![0], &config)
        .await
        .unwrap();
    broker
}

#[tokio::test]
async fn a_batch_sent_again_is_stored_once_even_after_a_restart() {
    let disk = Arc::new(SimulatedDisk::new());
    let mut expected = Vec::new();
    for restart in 0..4u64 {
        let broker = with_partition(&disk).await;
        let shard = broker.shards.data_of(partition(0)).unwrap();
        for sequence in 0..=restart {
            let batch = sequenced(&[sequence as u8], 5, 0, sequence);
            let appended = shard.append(partition(0), batch).await.unwrap();
            assert_eq!(appended.base_offset, Some(Offset(sequence)));
            assert_eq!(appended.duplicate, sequence < restart);
        }
        expected.push(vec![restart as u8]);
        assert_eq!(values(&shard.reader(partition(0)).unwrap()), expected);
        if restart % 2 == 0 {
            broker.stop().await;
        } else {
            broker.kill().await;
        }
    }
}

#[tokio::test]
async fn an_emptied_batch_carries_the_sequence_on() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = with_partition(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let append = |batch| shard.append(partition(0), batch);
    append(sequenced(b"0", 5, 0, 0)).await.unwrap();
    let producer = ProducerSequence {
        producer_id: ProducerId(5),
        epoch: 0,
        sequence: 1,
    };
    let emptied = append(Batch::empty(producer)).await.unwrap();
    assert_eq!((emptied.base_offset, emptied.stored), (None, Some(0)));
    let next = append(sequenced(b"2", 5, 0, 2)).await.unwrap();
    assert_eq!(next.base_offset, Some(Offset(1)));
    let again = append(Batch::empty(producer)).await.unwrap();
    assert!(again.duplicate);
    broker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_by_name() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = with_partition(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let append = |batch| shard.append(partition(0), batch);
    assert_eq!(
        append(sequenced(b"x", 5, 0, 7)).await,
        Err(AppendError::UnknownProducer(partition(0)))
    );
    append(sequenced(b"x", 5, 0, 0)).await.unwrap();
    append(sequenced(b"x", 5, 1, 0)).await.unwrap();
    let gap = append(sequenced(b"x", 5, 1, 2)).await;
    let expected = AppendError::OutOfSequence {
        partition: partition(0),
        expected: 1,
    };
    assert_eq!(gap, Err(expected));
    let fenced = append(sequenced(b"x", 5, 0, 1)).await;
    let expected = AppendError::ProducerFenced {
        partition: partition(0),
        epoch: 1,
    };
    assert_eq!(fenced, Err(expected));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stop_cuts_off_is_told_to_be_unknown() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = with_partition(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    disk.set_faults(FaultPlan {
        sync_delay: Duration::from_millis(500),
        ..FaultPlan::default()
    });
    let batch = sequenced(b"x", 5, 0, 0);
    let room = shard.make_room(batch.encoded_len()).await.unwrap();
    let log = broker.wal.shard(shard.id());
    let before = log.state().last;
    let append = room.append(partition(0), batch);
    while log.state().last == before {
        tokio::task::yield_now().await;
    }
    drop(log);
    broker.kill().await;
    let error = append.await.unwrap_err();
    assert_eq!(error, AppendError::Stopped);
    assert_eq!(error.code(), ErrorCode::Timeout);
    // It was on its way to the disk, and came there.
    let broker = Broker::start(&disk, 1).await;
    let reader = broker
        .shards
        .data_of(partition(0))
        .unwrap()
        .reader(partition(0));
    assert_eq!(values(&reader.unwrap()), [b"x"]);
    broker.stop().await;
}

#[tokio::test]
async fn batches_of_one_producer_keep_their_order_with_many_in_flight() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = with_partition(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let mut tasks = Vec::new();
    for producer in 1..=8 {
        let shard = shard.clone();
        tasks.push(tokio::spawn(async move {
            let mut pending = Vec::new();
            for sequence in 0..500 {
                let batch = sequenced(&[producer as u8], producer, 0, sequence);
                let room = shard.make_room(batch.encoded_len()).await.unwrap();
                pending.push(room.append(partition(0), batch));
            }
            for append in pending {
                assert!(!append.await.unwrap().duplicate);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let reader = shard.reader(partition(0)).unwrap();
    assert_eq!(reader.end_offset(), Offset(8 * 500));
    broker.stop().await;
}

#[tokio::test]
async fn a_deleted_partition_takes_nothing_and_tells_its_readers() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = with_partition(&disk).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    shard
        .append(partition(0), sequenced(b"x", 5, 0, 0))
        .await
        .unwrap();
    let reader = shard.reader(partition(0)).unwrap();
    let waiting = {
        let reader = reader.clone();
        tokio::spawn(async move { reader.changed(Offset(1)).await })
    };
    shard.delete_partitions(TOPIC).await.unwrap();
    waiting.await.unwrap();
    assert!(reader.is_deleted());
    assert!(shard.reader(partition(0)).is_none());
    let refused = shard.append(partition(0), batch(&[b"x"])).await;
    assert_eq!(refused, Err(AppendError::UnknownPartition(partition(0))));
    broker.kill().await;
    let broker = Broker::start(&disk, 1).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    assert!(shard.reader(partition(0)).is_none());
    broker.shards.checkpoint().await.unwrap();
    assert!(Disk::list(&*disk, "/logs".as_ref()).unwrap().is_empty());
    broker.stop().await;
}
