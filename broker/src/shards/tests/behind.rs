//! What a broker says does not exist while its own replica of the catalog is behind.

use flumen_protocol::{
    error::{ErrorCode, WireError},
    topic::TopicName,
};

use super::{
    cluster::{TestCluster, id},
    *,
};
use crate::topics::Topics;

const BROKERS: [usize; 3] = [0, 1, 2];

fn topic() -> TopicName {
    TopicName::new("events").unwrap()
}

impl TestCluster {
    fn topics(&self, at: usize) -> Topics {
        let shards = self.shards(at).clone();
        Topics::new(shards.catalog().clone(), shards)
    }

    async fn knows_topic(&self, at: usize) -> Result<bool, WireError> {
        let found = self.topics(at).metadata(&topic()).await?;
        Ok(found.is_some())
    }

    /// The broker that leads the catalog.
    async fn catalog_leader(&self) -> usize {
        let leads = |at: &usize| self.shards(*at).catalog().group().view().leads;
        let mut leader = None;
        self.wait_for("a leader of the catalog", || {
            leader = BROKERS.into_iter().find(leads);
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// Waits until all brokers vote on the catalog.
    async fn settle_catalog(&self) {
        let voters: BTreeSet<_> = BROKERS.into_iter().map(id).collect();
        self.wait_for("all to vote on the catalog", || {
            BROKERS.into_iter().all(|at| {
                let view = self.shards(at).catalog().group().view();
                view.voters == voters && !view.changing && view.leader.is_some()
            })
        })
        .await;
    }
}

async fn cluster_with_topic() -> TestCluster {
    let cluster = TestCluster::start(BROKERS.len()).await;
    cluster.settle(&BROKERS).await;
    cluster.settle_catalog().await;
    let leader = cluster.catalog_leader().await;
    let made = cluster.topics(leader);
    made.create(topic(), TopicConfig::default()).await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_broker_denies_a_topic_after_all_were_killed_at_once() {
    let mut cluster = cluster_with_topic().await;
    for round in 0..3 {
        for at in BROKERS {
            cluster.kill(at).await;
        }
        for at in BROKERS {
            cluster.start_member(at).await;
            // There is a leader soon, and until then nobody can tell.
            match cluster.knows_topic(at).await {
                Ok(knows) => assert!(knows, "round {round}, broker {at}"),
                Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
            }
        }
        for at in BROKERS {
            assert_eq!(cluster.knows_topic(at).await, Ok(true));
        }
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_cut_off_cannot_tell_and_one_that_is_back_asks_first() {
    let cluster = cluster_with_topic().await;
    let leader = cluster.catalog_leader().await;
    let cut_off = (leader + 1) % BROKERS.len();
    // It has heard of this topic, and of none that comes after.
    assert_eq!(cluster.knows_topic(cut_off).await, Ok(true));
    cluster.network.isolate(id(cut_off), BROKERS.map(id));
    let maker = cluster.topics(leader);
    let added: TopicName = "added".parse().unwrap();
    maker
        .create(added.clone(), TopicConfig::default())
        .await
        .unwrap();

    let topics = cluster.topics(cut_off);
    assert!(cluster.knows_topic(cut_off).await.unwrap());
    let error = topics.metadata(&added).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    assert!(error.retryable);

    cluster.network.mend_all();
    // Elections may go on for a moment.
    cluster.settle_catalog().await;
    let found = topics.metadata(&added).await;
    assert!(found.unwrap().is_some());
    let nowhere: TopicName = "nowhere".parse().unwrap();
    assert_eq!(topics.metadata(&nowhere).await, Ok(None));
    let error = topics.find(&nowhere).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownTopic, "{error}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_share_a_check_and_its_failure() {
    let cluster = cluster_with_topic().await;
    let leader = cluster.catalog_leader().await;
    let cut_off = (leader + 1) % BROKERS.len();
    cluster.network.isolate(id(cut_off), BROKERS.map(id));
    let catalog = cluster.shards(cut_off).catalog();
    let started = tokio::time::Instant::now();
    let asked = (0..50).map(|_| catalog.catch_up());
    let outcomes = futures_util::future::join_all(asked).await;
    assert!(outcomes.iter().all(Result::is_err));
    // Each alone would wait for some seconds.
    assert!(started.elapsed() < std::time::Duration::from_secs(15));
    cluster.end().await;
}
