//! Several brokers' shards, joined in memory: what one acknowledges the others have.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use flumen_protocol::{ids::BrokerId, message::BrokerInfo};
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    cluster::{Reports, Steward},
    peer::{PeerService, memory::MemoryNetwork},
};

/// How long anything may take that must come about.
const PATIENCE: Duration = Duration::from_secs(20);

const SHARDS: u32 = 3;

/// A broker of a cluster in memory.
struct Member {
    broker: Broker,
    steward: Steward,
}

struct TestCluster {
    network: MemoryNetwork,
    disks: Vec<Arc<SimulatedDisk>>,
    members: Vec<Option<Member>>,
}

fn id(at: usize) -> BrokerId {
    BrokerId(at as u64 + 1)
}

impl TestCluster {
    /// Brokers of which the first has made the cluster, and has taken the others in.
    async fn start(count: usize) -> Self {
        let disks = (0..count).map(|_| Arc::new(SimulatedDisk::new()));
        let mut cluster = Self {
            network: MemoryNetwork::new(),
            disks: disks.collect(),
            members: (0..count).map(|_| None).collect(),
        };
        for at in 0..count {
            cluster.start_member(at).await;
        }
        for at in 0..count {
            cluster.register(at).await;
        }
        cluster
    }

    async fn start_member(&mut self, at: usize) {
        let network = self.network.peer(id(at));
        let services = Services::default();
        let cluster = Cluster {
            network: Arc::clone(&network),
            services: services.clone(),
            founding: at == 0,
        };
        let serve = |service, handler| self.network.serve(id(at), service, handler);
        let replicas = services.replicas.clone();
        serve(PeerService::Propose, Arc::new(replicas.proposals()));
        serve(PeerService::Raft, Arc::new(replicas));
        serve(PeerService::Records, Arc::new(services.records));
        let reports = Reports::default();
        serve(PeerService::Status, Arc::new(reports.clone()));
        let disk = Arc::clone(&self.disks[at]);
        let adjust = |options: &mut ShardsOptions, _: &mut WalOptions| {
            options.broker_id = id(at).0;
        };
        let broker = Broker::try_start_in(&disk, SHARDS, adjust, Some(cluster)).await;
        let broker = broker.unwrap();
        serve(
            PeerService::Plugins,
            Arc::new(broker.shards.catalog().plugin_server()),
        );
        let steward = Steward::start(broker.shards.clone(), network, reports, || None);
        self.members[at] = Some(Member { broker, steward });
    }

    async fn register(&self, at: usize) {
        let info = BrokerInfo {
            id: id(at),
            address: format!("broker-{at}"),
            zone: None,
        };
        let catalog = self.shards(0).catalog();
        catalog.register_broker(info).await.unwrap();
    }

    fn shards(&self, at: usize) -> &Shards {
        &self.members[at].as_ref().unwrap().broker.shards
    }

    /// Ends a broker at once, without a checkpoint.
    async fn kill(&mut self, at: usize) {
        self.network.stop(id(at));
        let member = self.members[at].take().unwrap();
        member.steward.abort();
        member.broker.kill().await;
    }

    async fn stop(&mut self, at: usize) {
        let member = self.members[at].take().unwrap();
        member.steward.stop().await;
        member.broker.stop().await;
        self.network.stop(id(at));
    }

    /// Waits until every shard has these voters and a leader among the living.
    async fn settle(&self, voters: &[usize]) {
        let voters: BTreeSet<_> = voters.iter().map(|at| id(*at)).collect();
        self.wait_for("the voters to be there", || {
            (1..=SHARDS).all(|shard| {
                let living = self.members.iter().flatten();
                let mut views = living.filter_map(|member| {
                    let data = member.broker.shards.data(ShardId(shard))?;
                    Some(data.group().view())
                });
                views.any(|view| view.leads && view.voters == voters && !view.changing)
            })
        })
        .await;
    }

    async fn wait_for(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached() {
            let late = Instant::now() > deadline;
            assert!(!late, "waited too long for {what}: {}", self.describe());
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn describe(&self) -> String {
        let living = self.members.iter().flatten();
        let views = living.map(|member| {
            let data = member.broker.shards.all_data();
            let views: Vec<_> = data.iter().map(|data| data.group().view()).collect();
            let catalog = member.broker.shards.catalog().snapshot();
            format!("{views:?} {:?}", catalog.placement)
        });
        views.collect::<Vec<_>>().join("\n")
    }

    /// Where the leader of a shard is among the living.
    fn leader(&self, shard: ShardId) -> Option<usize> {
        let all: Vec<_> = (0..self.members.len()).collect();
        self.leader_among(&all, shard)
    }

    fn leader_among(&self, reached: &[usize], shard: ShardId) -> Option<usize> {
        reached.iter().copied().find(|at| {
            let member = self.members[*at].as_ref();
            let data = member.and_then(|member| member.broker.shards.data(shard));
            data.is_some_and(|data| data.group().view().leads)
        })
    }

    async fn create_topic(&self, partitions: u32) {
        let config = TopicConfig {
            partitions,
            ..TopicConfig::default()
        };
        for index in 0..partitions {
            let shard = self.shards(0).shard_of(partition(index));
            let made = self
                .shards(0)
                .create_partitions(shard, TOPIC, vec![index], &config);
            made.await.unwrap();
        }
    }

    /// Appends at whichever broker leads, as an idempotent producer does: until it is
    /// acknowledged.
    async fn append(&self, index: u32, value: &[u8], sequence: u64) -> Appended {
        let all: Vec<_> = (0..self.members.len()).collect();
        self.append_at(&all, index, value, sequence).await
    }

    /// As [`TestCluster::append`], by a producer that reaches some brokers only.
    async fn append_at(
        &self,
        reached: &[usize],
        index: u32,
        value: &[u8],
        sequence: u64,
    ) -> Appended {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no leader takes the batch");
            let shard = self.shard_of(partition(index));
            if let Some(at) = self.leader_among(reached, shard)
                && let Some(data) = self.shards(at).data(shard)
            {
                let batch = sequenced(value, 9, 0, sequence);
                let appended = data.append(partition(index), batch);
                let appended = tokio::time::timeout(Duration::from_secs(1), appended).await;
                if let Ok(Ok(appended)) = appended {
                    return appended;
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn shard_of(&self, partition: PartitionId) -> ShardId {
        let living = self.members.iter().flatten().next().unwrap();
        living.broker.shards.shard_of(partition)
    }

    fn values_at(&self, at: usize, index: u32) -> Vec<Vec<u8>> {
        let data = self.shards(at).data_of(partition(index));
        let reader = data.and_then(|data| data.reader(partition(index)));
        reader.map(|reader| values(&reader)).unwrap_or_default()
    }

    async fn everyone_has(&self, index: u32, expected: &[Vec<u8>]) {
        for at in 0..self.members.len() {
            if self.members[at].is_some() {
                let what = format!("broker {at} to have partition {index}");
                self.wait_for(&what, || self.values_at(at, index) == expected)
                    .await;
            }
        }
    }

    async fn end(mut self) {
        for at in 0..self.members.len() {
            if self.members[at].is_some() {
                self.kill(at).await;
            }
        }
    }
}

fn value(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn numbers(range: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    range.map(value).collect()
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
async fn the_cluster_goes_on_without_a_leader_that_dies_and_loses_and_doubles_nothing() {
    let mut cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(3).await;
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
    let mut cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(3).await;
    for sequence in 0..10 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    cluster.everyone_has(0, &numbers(0..10)).await;
    cluster.kill(2).await;
    for sequence in 10..60 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    for _ in 0..2 {
        for at in [0, 1] {
            cluster.shards(at).checkpoint().await.unwrap();
        }
        let sequence = cluster.values_at(0, 0).len() as u64;
        cluster.append(0, &value(sequence), sequence).await;
    }
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
async fn brokers_that_all_die_before_their_first_checkpoint_find_leaders_again() {
    let mut cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(3).await;
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
    let cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(3).await;
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
async fn a_broker_that_stops_hands_its_shards_over_first() {
    let mut cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(3).await;
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
async fn replicas_move_away_from_a_broker_that_is_drained() {
    let cluster = TestCluster::start(4).await;
    cluster
        .wait_for("all shards to have three replicas", || {
            let state = cluster.shards(0).catalog().snapshot();
            state.placement.values().all(|placed| placed.len() == 3)
        })
        .await;
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
async fn a_replica_that_its_leader_counts_on_is_not_given_up() {
    let cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(1).await;
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
    cluster
        .wait_for("all shards to have three replicas", || {
            let state = cluster.shards(0).catalog().snapshot();
            state.placement.values().all(|placed| placed.len() == 3)
        })
        .await;
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

/// Segments of the partitions of the test's topic on a broker's disk.
fn segments(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let dir = Path::new("/logs").join(TOPIC.to_string());
    let files = disk.list(&dir).unwrap().into_iter();
    let segments = files.filter(|file| file.name().is_some_and(|name| name.ends_with(".segment")));
    segments.map(|file| file.path).collect()
}

fn files_that_end_with(disk: &SimulatedDisk, dir: &str, end: &str) -> usize {
    let files = disk.list(Path::new(dir)).unwrap();
    let of_kind = |file: &&crate::disk::DirEntry| file.name().unwrap().ends_with(end);
    files.iter().filter(of_kind).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_finds_files_missing_or_cut_gets_their_records_from_the_others() {
    let mut cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(3).await;
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
    let mut cluster = TestCluster::start(3).await;
    cluster.settle(&[0, 1, 2]).await;
    cluster.create_topic(3).await;
    for sequence in 0..10 {
        cluster.append(0, &value(sequence), sequence).await;
    }
    cluster.everyone_has(0, &numbers(0..10)).await;
    let shard = cluster.shard_of(partition(0));
    let placed = cluster.shards(0).catalog().snapshot().placement[&shard].clone();
    let at = placed[0].0 as usize - 1;
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
