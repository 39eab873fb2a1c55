//! Several `flumen serve` processes that are one cluster.

use std::time::{Duration, Instant};

use flumen_client::{BrokerId, Client};
use flumen_protocol::message::{ClusterStatus, Request, Response};

use crate::{
    broker::{Broker, Place},
    raw::RawClient,
    wait::DEADLINE,
};

/// For how long a join token of a test is valid.
const TOKEN_TTL: Duration = Duration::from_mins(10);

/// How often the cluster is asked how it is.
const POLL: Duration = Duration::from_millis(100);

/// Arguments of every broker: few shards are enough for a test, and each costs CPU time.
const ARGUMENTS: [&str; 1] = ["--shards=6"];

/// A cluster on loopback.
#[derive(Debug)]
pub struct Cluster {
    /// The brokers in the order in which they came, also those that were killed.
    pub brokers: Vec<Broker>,
    /// What all of them are started with.
    arguments: Vec<String>,
}

impl Cluster {
    /// Starts brokers and waits until all shards have their replicas and their leaders.
    ///
    /// # Panics
    /// When that does not come about within the deadline.
    pub async fn start(brokers: usize) -> Self {
        Self::start_at(vec![Place::default(); brokers], &[]).await
    }

    /// As [`Cluster::start`], with a broker at each place, and more arguments for all of them.
    ///
    /// # Panics
    /// When that does not come about within the deadline.
    pub async fn start_at(places: Vec<Place>, arguments: &[&str]) -> Self {
        let arguments = ARGUMENTS.iter().chain(arguments);
        let mut cluster = Self {
            brokers: Vec::new(),
            arguments: arguments.map(|argument| (*argument).to_owned()).collect(),
        };
        for place in places {
            if cluster.brokers.is_empty() {
                cluster.add(place, &["--bootstrap"]).await;
            } else {
                cluster.join_at(place).await;
            }
        }
        cluster.until_settled().await;
        cluster
    }

    /// Lets another broker in and tells its position. It has no replicas yet.
    ///
    /// # Panics
    /// When it is not let in.
    pub async fn join(&mut self) -> usize {
        self.join_at(Place::default()).await
    }

    async fn join_at(&mut self, place: Place) -> usize {
        let token = self.token().await;
        self.add(place, &["--join", &token]).await;
        self.brokers.len() - 1
    }

    async fn add(&mut self, place: Place, arguments: &[&str]) {
        let shared = self.arguments.iter().map(String::as_str);
        let arguments: Vec<_> = arguments.iter().copied().chain(shared).collect();
        self.brokers.push(Broker::start_at(place, &arguments).await);
    }

    /// A token with which a broker can join.
    ///
    /// # Panics
    /// When no broker makes one.
    pub async fn token(&self) -> String {
        let client = self.client().await;
        let token = client.admin().create_join_token(TOKEN_TTL).await.unwrap();
        client.close().await;
        token
    }

    /// A new client that was told of all brokers.
    ///
    /// # Panics
    /// When none of them can be reached.
    pub async fn client(&self) -> Client {
        let mut running = self.brokers.iter().filter(|broker| broker.is_running());
        let profile = running.next().unwrap().profile().unwrap();
        let addresses = self.brokers.iter().map(|b| b.address().to_string());
        let client = Client::builder().profile(profile).brokers(addresses);
        client.connect().await.unwrap()
    }

    /// Waits until nothing is wrong with the cluster.
    ///
    /// # Panics
    /// When that does not come about within the deadline.
    pub async fn until_healthy(&self) -> ClusterStatus {
        self.until("the cluster is healthy", |_| true).await
    }

    /// As [`Cluster::until_healthy`], and until nothing is left to be moved.
    ///
    /// # Panics
    /// When that does not come about within the deadline.
    pub async fn until_settled(&self) -> ClusterStatus {
        let settled = |status: &ClusterStatus| status.moves_left == 0;
        self.until("nothing is left to be moved", settled).await
    }

    /// Waits until the cluster is healthy, with all brokers that run, and `condition` holds.
    ///
    /// # Panics
    /// When that does not come about within the deadline; `what` says what was waited for.
    pub async fn until(
        &self,
        what: &str,
        condition: impl Fn(&ClusterStatus) -> bool,
    ) -> ClusterStatus {
        let client = self.client().await;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let asked = client.admin().cluster_status().await;
            let state = match asked {
                Ok(status) if self.is_healthy(&status) && condition(&status) => {
                    client.close().await;
                    return status;
                }
                Ok(status) => format!("{:?}\n{status:#?}", status.problems()),
                Err(error) => error.to_string(),
            };
            assert!(
                Instant::now() < deadline,
                "after {DEADLINE:?} still waiting for: {what}\n{state}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    fn is_healthy(&self, status: &ClusterStatus) -> bool {
        let mut running = self.brokers.iter().filter(|broker| broker.is_running());
        let all_are_there = running.all(|broker| id_at(status, broker).is_some());
        all_are_there && status.problems().is_empty()
    }

    /// The id of the broker at a position.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn id_of(&self, broker: usize) -> BrokerId {
        id_of(&self.brokers[broker]).await
    }

    /// The position of a broker.
    ///
    /// # Panics
    /// When it is none of these.
    pub fn position(&self, status: &ClusterStatus, id: BrokerId) -> usize {
        let address = &status.broker(id).unwrap().address;
        let mut brokers = self.brokers.iter();
        let found = brokers.position(|broker| broker.address().to_string() == *address);
        found.unwrap()
    }
}

/// The id that a broker gives itself. A client may ask any broker that it has heard of, so it is
/// asked by hand; and two brokers may have had the same address, so the cluster is not asked. A
/// broker that is just starting says so, and is asked again, as clients do.
///
/// # Panics
/// When it does not answer within the deadline.
pub async fn id_of(broker: &Broker) -> BrokerId {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let error = match ask_id(broker).await {
            Ok(id) => return id,
            Err(error) => error,
        };
        let address = broker.address();
        assert!(
            Instant::now() < deadline,
            "{address} does not answer: {error:#}"
        );
        tokio::time::sleep(POLL).await;
    }
}

async fn ask_id(broker: &Broker) -> anyhow::Result<BrokerId> {
    let raw = RawClient::connect(&broker.profile()?).await?;
    match raw.request(Request::Status).await?? {
        Response::Status(status) => Ok(status.id),
        other => anyhow::bail!("another answer than a status: {other:?}"),
    }
}

fn id_at(status: &ClusterStatus, broker: &Broker) -> Option<BrokerId> {
    let address = broker.address().to_string();
    let mut known = status.brokers.iter();
    known
        .find(|known| known.address == address)
        .map(|known| known.id)
}
