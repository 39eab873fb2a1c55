//! Several brokers that share their records, each behind a wire that can be cut. Who leads is
//! decided by the test.

use std::sync::Arc;

use flumen_client::{Client, ClientBuilder};
use flumen_protocol::{ids::BrokerId, message::BrokerInfo};

use super::{Broker, Key, World, wire::Wire};

pub(crate) struct Cluster {
    world: Arc<World>,
    pub(crate) brokers: Vec<Broker>,
    wires: Vec<Wire>,
    key: Key,
}

impl Cluster {
    /// So many brokers, the first of which leads; the broker at `i` is in zone `i`.
    pub(crate) async fn start(count: u64) -> Self {
        let (world, key) = (World::new(), Key::make());
        let ids = (1..=count).map(BrokerId);
        let brokers: Vec<_> = ids.map(|id| Broker::start_in(&world, id, &key)).collect();
        let mut wires = Vec::new();
        for broker in &brokers {
            wires.push(Wire::to(broker.address).await);
        }
        let cluster = Self {
            world,
            brokers,
            wires,
            key,
        };
        let infos = (0..cluster.brokers.len()).map(|at| cluster.info(at));
        cluster.world.state.lock().found(infos.collect());
        cluster.create_topic("t", 2);
        cluster
    }

    fn info(&self, at: usize) -> BrokerInfo {
        BrokerInfo {
            id: self.brokers[at].id(),
            address: self.address(at),
            zone: Some(at.to_string()),
        }
    }

    pub(crate) fn create_topic(&self, name: &str, partitions: u32) {
        self.brokers[0].create_topic(name, partitions);
    }

    pub(crate) fn address(&self, at: usize) -> String {
        self.wires[at].address.to_string()
    }

    /// A client that is told of these brokers only.
    pub(crate) fn builder(&self, known: &[usize]) -> ClientBuilder {
        Client::builder()
            .brokers(known.iter().map(|at| self.address(*at)))
            .ca(&self.key.cert_pem)
    }

    pub(crate) async fn client(&self) -> Client {
        self.builder(&[0, 1]).connect().await.unwrap()
    }

    /// From now on this broker leads, or nobody does.
    pub(crate) fn elect(&self, leader: Option<usize>) {
        let leader = leader.map(|at| self.brokers[at].id());
        self.world.state.lock().elect(leader);
    }

    /// Nothing reaches this broker any more, and nothing that it says reaches clients.
    pub(crate) fn cut(&self, at: usize) {
        self.wires[at].cut(true);
    }

    /// This broker does not have the last `records` of each partition while it does not lead.
    pub(crate) fn set_behind(&self, at: usize, records: u64) {
        let id = self.brokers[at].id();
        self.world.state.lock().behind.insert(id, records);
        self.world.appended.send_modify(|count| *count += 1);
    }

    /// This broker hears nothing of the others from now on; clients reach it.
    pub(crate) fn isolate(&self, at: usize) {
        let id = self.brokers[at].id();
        self.world.state.lock().isolate(id);
        self.world.appended.send_modify(|count| *count += 1);
    }

    /// How often clients have asked what a topic is like.
    pub(crate) fn descriptions(&self) -> usize {
        self.world.state.lock().descriptions
    }

    /// This broker gets another address, and the old one leads nowhere.
    pub(crate) async fn move_broker(&mut self, at: usize) {
        self.cut(at);
        self.wires[at] = Wire::to(self.brokers[at].address).await;
        let info = self.info(at);
        let mut state = self.world.state.lock();
        state.version += 1;
        state.brokers[at] = info;
    }

    pub(crate) fn values(&self, topic: &str, partition: u32) -> Vec<String> {
        self.brokers[0].values(topic, partition)
    }
}
