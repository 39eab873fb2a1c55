//! Files of a replica that are not what was written to them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::*;
use crate::peer::{PeerHandler, PeerStream};

/// Has nothing for anybody.
struct Empty;

impl PeerHandler for Empty {
    fn call(&self, _: BrokerId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("there is nothing".to_owned()) })
    }

    fn stream(&self, _: BrokerId, _: Bytes, _: PeerStream) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

/// Segments of the partitions of the test's topic on a broker's disk.
pub(super) fn segments(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let dir = Path::new("/logs").join(TOPIC.to_string());
    let files = disk.list(&dir).unwrap().into_iter();
    let segments = files.filter(|file| file.name().is_some_and(|name| name.ends_with(".segment")));
    segments.map(|file| file.path).collect()
}

pub(super) fn files_that_end_with(disk: &SimulatedDisk, dir: &str, end: &str) -> usize {
    let files = disk.list(Path::new(dir)).unwrap();
    let of_kind = |file: &&crate::disk::DirEntry| file.name().unwrap().ends_with(end);
    files.iter().filter(of_kind).count()
}

/// A cluster whose first partition has ten records; the shard that this lives in, and the place of the
/// broker that should lead it.
async fn with_ten_records(partitions: u32) -> (TestCluster, ShardId, usize) {
    let cluster = TestCluster::with_topic(partitions).await;
    for sequence in 0..10 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    cluster.everyone_has(0, &numbers(0..10)).await;
    let shard = cluster.shard_of(partition(0));
    let placed = cluster.shards(0).catalog().snapshot().placement[&shard].clone();
    let at = placed[0].0 as usize - 1;
    (cluster, shard, at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_finds_files_missing_or_cut_gets_their_records_from_the_others() {
    let mut cluster = TestCluster::with_topic(3).await;
    for sequence in 0..10 {
        for index in 0..3 {
            cluster.append(index, &value(sequence), sequence).await;
        }
    }
    for index in 0..3 {
        cluster.everyone_has(index, &numbers(0..10)).await;
    }
    cluster.stop(2).await;
    let disk = Arc::clone(&cluster.disks[2]);
    let files = segments(&disk);
    assert_eq!(files.len(), 3);
    disk.remove_file(&files[0]).unwrap();
    disk.open(&files[1]).unwrap().set_len(50).unwrap();
    // Of a partition that was deleted while the broker went down.
    let leftover = Path::new("/logs/9999");
    disk.create_dir_all(leftover).unwrap();
    let name = files[0].file_name().unwrap();
    disk.create(&leftover.join(name)).unwrap();
    for index in 0..3 {
        cluster.append(index, &value(10), 10).await;
    }
    cluster.start_member(2).await;
    for index in 0..3 {
        cluster.everyone_has(index, &numbers(0..11)).await;
    }
    cluster
        .wait_for("the marks to be gone", || {
            files_that_end_with(&disk, "/shards", ".damaged") == 0
        })
        .await;
    cluster
        .wait_for("the leftovers to be gone", || disk.list(leftover).is_err())
        .await;
    // It is a replica as any other: the cluster does without the first one now.
    cluster.settle(&[0, 1, 2]).await;
    cluster.kill(0).await;
    for index in 0..3 {
        cluster.append(index, &value(11), 11).await;
        cluster.everyone_has(index, &numbers(0..12)).await;
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_reads_a_damaged_batch_leads_no_more_and_gets_it_from_the_others() {
    let (mut cluster, shard, at) = with_ten_records(3).await;
    // Started again, it has nothing in memory that would hide the damage.
    cluster.stop(at).await;
    let disk = Arc::clone(&cluster.disks[at]);
    let [file] = &segments(&disk)[..] else {
        panic!("only one partition has records");
    };
    disk.open(file).unwrap().write_all_at(b"x", 60).unwrap();
    cluster.start_member(at).await;
    cluster
        .wait_for("the rightful leader", || cluster.leader(shard) == Some(at))
        .await;
    let data = cluster.shards(at).data(shard).unwrap();
    let reader = data.reader(partition(0)).unwrap();
    let ReadOutcome::Disk(read) = reader.read(Offset(0), 1 << 20) else {
        panic!("nothing is in memory");
    };
    let damaged = read.run();
    assert!(matches!(
        damaged,
        Err(crate::log::ReadError::Damaged { .. })
    ));
    cluster
        .wait_for("another leader", || {
            reader.has_moved() && cluster.leader(shard).is_some_and(|leader| leader != at)
        })
        .await;
    cluster.append(0, &value(10), 10).await;
    cluster.everyone_has(0, &numbers(0..11)).await;
    cluster
        .wait_for("the mark to be gone", || {
            files_that_end_with(&disk, "/shards", ".damaged") == 0
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_comes_late_does_not_forget_what_a_closed_replica_has() {
    let cluster = TestCluster::with_topic(1).await;
    cluster.append(0, &value(0), 0).await;
    cluster.everyone_has(0, &numbers(0..1)).await;
    let shard = cluster.shard_of(partition(0));
    let leader = cluster.leader(shard).unwrap();
    let at = (leader + 1) % 3;
    let data = cluster.shards(at).data(shard).unwrap();
    cluster.shards(at).close_damaged(shard).await.unwrap();
    assert!(data.group().checkpoint().await.is_err());
    cluster.append(0, &value(1), 1).await;
    cluster.everyone_has(0, &numbers(0..2)).await;
    assert_eq!(
        files_that_end_with(&cluster.disks[at], "/shards", ".damaged"),
        0
    );
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_damaged_again_while_they_are_repaired_have_all_in_the_end() {
    let mut cluster = TestCluster::with_topic(3).await;
    let disk = Arc::clone(&cluster.disks[2]);
    for round in 0..6 {
        for index in 0..3 {
            cluster.append(index, &value(round), round).await;
            cluster.everyone_has(index, &numbers(0..round + 1)).await;
        }
        cluster.stop(2).await;
        for file in segments(&disk) {
            disk.open(&file).unwrap().set_len(50).unwrap();
        }
        // Killed at any moment of the repair, it goes on with it.
        cluster.start_member(2).await;
        sleep(Duration::from_millis(round * 30)).await;
        cluster.kill(2).await;
        cluster.start_member(2).await;
    }
    for index in 0..3 {
        cluster.everyone_has(index, &numbers(0..6)).await;
    }
    cluster
        .wait_for("the marks to be gone", || {
            files_that_end_with(&disk, "/shards", ".damaged") == 0
        })
        .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_that_there_is_to_be_is_repaired_from_those_that_wait_for_it_to_go() {
    let (mut cluster, shard, at) = with_ten_records(1).await;
    let others: Vec<_> = (0..3).filter(|other| *other != at).collect();
    cluster.stop(at).await;
    let disk = Arc::clone(&cluster.disks[at]);
    for file in segments(&disk) {
        disk.open(&file).unwrap().set_len(50).unwrap();
    }
    let catalog = cluster.shards(others[0]).catalog();
    catalog.set_replication_factor(1).await.unwrap();
    for other in &others {
        let empty = Arc::new(Empty);
        cluster
            .network
            .serve(id(*other), PeerService::Records, empty);
    }
    cluster.start_member(at).await;
    cluster
        .wait_for("the broker to hear that it is the only one", || {
            let state = cluster.shards(at).catalog().snapshot();
            state.placement[&shard] == [id(at)]
        })
        .await;
    for other in &others {
        let records = cluster.shards(*other).shared.parts.records.clone();
        let records = Arc::new(records);
        cluster
            .network
            .serve(id(*other), PeerService::Records, records);
    }
    cluster
        .wait_for("the replica to have all and be the only one", || {
            let data = cluster.shards(at).data(shard);
            let view = data.map(|data| data.group().view()).unwrap_or_default();
            view.leads && view.voters == BTreeSet::from([id(at)])
        })
        .await;
    assert_eq!(cluster.values_at(at, 0), numbers(0..10));
    cluster.end().await;
}
