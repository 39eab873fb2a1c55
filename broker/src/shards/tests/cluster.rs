//! Several brokers' shards, joined in memory: what one acknowledges the others have.

mod distance;
mod failover;
mod members;
mod repair;
mod space;
mod vouched;

use std::time::Duration;

use flumen_protocol::{ids::BrokerId, message::BrokerInfo};
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    cluster::{Reports, Steward},
    peer::{PeerService, memory::MemoryNetwork},
    wal::SyncPolicy,
};

/// How long anything may take that must come about.
const PATIENCE: Duration = Duration::from_secs(20);

const SHARDS: u32 = 3;

/// A broker of a cluster in memory.
struct Member {
    broker: Broker,
    steward: Steward,
    reports: Reports,
}

pub(super) struct TestCluster {
    pub(super) network: MemoryNetwork,
    disks: Vec<Arc<SimulatedDisk>>,
    members: Vec<Option<Member>>,
    wal_sync: SyncPolicy,
}

pub(super) fn id(at: usize) -> BrokerId {
    BrokerId(at as u64 + 1)
}

impl TestCluster {
    /// Brokers of which the first has made the cluster, and has taken the others in.
    pub(super) async fn start(count: usize) -> Self {
        Self::start_synced(count, SyncPolicy::Always).await
    }

    /// As [`TestCluster::start`], with logs that are synced like this.
    async fn start_synced(count: usize, wal_sync: SyncPolicy) -> Self {
        let cluster = Self::start_apart(count, wal_sync).await;
        for at in 0..count {
            cluster.register(at).await;
        }
        cluster
    }

    /// Brokers that have not been taken in yet.
    async fn start_apart(count: usize, wal_sync: SyncPolicy) -> Self {
        let disks = (0..count).map(|_| Arc::new(SimulatedDisk::new()));
        let mut cluster = Self {
            network: MemoryNetwork::new(),
            disks: disks.collect(),
            members: (0..count).map(|_| None).collect(),
            wal_sync,
        };
        for at in 0..count {
            cluster.start_member(at).await;
        }
        cluster
    }

    /// Three brokers with three replicas of each shard, and a topic.
    async fn with_topic(partitions: u32) -> Self {
        let cluster = Self::start(3).await;
        cluster.settle(&[0, 1, 2]).await;
        cluster.create_topic(partitions).await;
        cluster
    }

    pub(super) async fn start_member(&mut self, at: usize) {
        let network = self.network.peer(id(at));
        let services = Services::default();
        let cluster = Cluster {
            network: Arc::clone(&network),
            services: services.clone(),
            pace: Pace::default(),
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
        let adjust = |options: &mut ShardsOptions, wal: &mut WalOptions| {
            options.broker_id = id(at).0;
            wal.sync = self.wal_sync;
        };
        let broker = Broker::try_start_in(&disk, SHARDS, adjust, Some(cluster)).await;
        let broker = broker.unwrap();
        serve(
            PeerService::Plugins,
            Arc::new(broker.shards.catalog().plugin_server()),
        );
        let steward = Steward::start(broker.shards.clone(), network, reports.clone());
        self.members[at] = Some(Member {
            broker,
            steward,
            reports,
        });
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

    pub(super) fn shards(&self, at: usize) -> &Shards {
        &self.members[at].as_ref().unwrap().broker.shards
    }

    /// Ends a broker at once, without a checkpoint.
    pub(super) async fn kill(&mut self, at: usize) {
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
    pub(super) async fn settle(&self, voters: &[usize]) {
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

    /// Waits until all shards have three replicas, those that the catalog says.
    async fn settle_as_placed(&self) {
        let voters = |shard: &ShardId| {
            let living = self.members.iter().flatten();
            let mut views = living.filter_map(|member| {
                let data = member.broker.shards.data(*shard)?;
                Some(data.group().view()).filter(|view| view.leads && !view.changing)
            });
            views.next().map(|view| view.voters)
        };
        self.wait_for("three replicas of each shard", || {
            let state = self.shards(0).catalog().snapshot();
            let mut shards = state.placement.iter();
            shards.all(|(shard, placed)| {
                let placed: BTreeSet<_> = placed.iter().copied().collect();
                placed.len() == 3 && voters(shard) == Some(placed)
            })
        })
        .await;
    }

    pub(super) async fn wait_for(&self, what: &str, mut reached: impl FnMut() -> bool) {
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
            let late = Instant::now() > deadline;
            assert!(!late, "no leader takes the batch: {}", self.describe());
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

    /// Appends values to partition 0 from `first` to 61, of which the last two each follow a
    /// checkpoint, after which a broker that is away needs more than the logs of the others hold.
    async fn append_past_the_logs(&self, first: u64, value: impl Fn(u64) -> Vec<u8>) {
        for sequence in first..62 {
            if sequence >= 60 {
                for at in [0, 1] {
                    self.shards(at).checkpoint().await.unwrap();
                }
            }
            self.append(0, &value(sequence), sequence).await;
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

    pub(super) async fn end(mut self) {
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
