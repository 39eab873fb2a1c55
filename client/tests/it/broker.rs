//! A broker in the test's own process that keeps batches in memory and misbehaves on
//! command.

pub(crate) mod cluster;
mod fault;
mod partition;
mod session;
mod state;
mod wire;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flumen_client::{Client, ClientBuilder, TopicConfig};
use flumen_protocol::{
    ALPN_CLIENT,
    batch::{Batch, BatchBuilder, RecordRef},
    ids::BrokerId,
    message::BrokerInfo,
};
use flumen_transport::{
    endpoint,
    quinn::{self, Connection, Endpoint, VarInt},
    stream::{DATA_LIMITS, FrameReader, FrameWriter},
    tls, tuning,
};
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use self::fault::{ConsumeFault, Fault};
use self::{partition::Partition, session::Session, state::State};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Broker {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    server_config: quinn::ServerConfig,
    pub(crate) address: SocketAddr,
    pub(crate) ca: String,
}

/// What all brokers of a cluster share.
struct World {
    state: Mutex<State>,
    /// Rises with every append.
    appended: watch::Sender<u64>,
}

struct Shared {
    id: BrokerId,
    world: Arc<World>,
    connections: Mutex<Vec<Connection>>,
    connections_made: AtomicUsize,
    /// Consume streams that were opened.
    readers: AtomicUsize,
    /// While true, answers to batches are held back.
    held: watch::Sender<bool>,
    /// While true, batches that have arrived are left alone.
    stuck: watch::Sender<bool>,
    /// While true, no new stream is answered.
    mute: watch::Sender<bool>,
    /// While true, no consume stream is answered.
    stalled: watch::Sender<bool>,
}

impl Shared {
    async fn until_unstuck(&self) {
        let _ = self.stuck.subscribe().wait_for(|stuck| !stuck).await;
    }

    async fn until_not_mute(&self) {
        let _ = self.mute.subscribe().wait_for(|mute| !mute).await;
    }

    async fn until_not_stalled(&self) {
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
    }

    /// Whether it hears of none of the others.
    fn is_cut_off(&self) -> bool {
        let state = self.world.state.lock();
        state.isolated.contains_key(&self.id)
    }

    fn note_reader(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }
}

/// A key that all brokers of a cluster use.
struct Key {
    cert_pem: String,
    key_pem: String,
}

impl Key {
    fn make() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = rcgen::generate_simple_self_signed(names).unwrap();
        Self {
            cert_pem: key.cert.pem(),
            key_pem: key.signing_key.serialize_pem(),
        }
    }
}

impl Broker {
    pub(crate) fn start() -> Self {
        let world = World::new();
        let broker = Self::start_in(&world, BrokerId(1), &Key::make());
        let alone = BrokerInfo {
            id: BrokerId(1),
            address: broker.address.to_string(),
            zone: None,
        };
        world.state.lock().found(vec![alone]);
        broker
    }

    fn start_in(world: &Arc<World>, id: BrokerId, key: &Key) -> Self {
        let identity = tls::Identity {
            cert_pem: &key.cert_pem,
            key_pem: &key.key_pem,
        };
        let crypto = tls::server_config(identity, &key.cert_pem, &[ALPN_CLIENT]).unwrap();
        let mut server_config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server_config.transport_config(tuning::transport_config(1_000));
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let endpoint = endpoint::server(any, server_config.clone()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let shared = Arc::new(Shared {
            id,
            world: Arc::clone(world),
            connections: Mutex::default(),
            connections_made: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            held: watch::channel(false).0,
            stuck: watch::channel(false).0,
            mute: watch::channel(false).0,
            stalled: watch::channel(false).0,
        });
        tokio::spawn(accept(Arc::clone(&shared), endpoint.clone()));
        Self {
            shared,
            endpoint,
            server_config,
            address,
            ca: key.cert_pem.clone(),
        }
    }

    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder()
            .brokers([format!("localhost:{}", self.address.port())])
            .ca(&self.ca)
            .connect_timeout(Duration::from_millis(500))
    }

    pub(crate) async fn client(&self) -> Client {
        self.builder().connect().await.unwrap()
    }

    pub(crate) fn require_token(&self, token: &str) {
        self.shared.world.state.lock().token = Some(token.to_owned());
    }

    pub(crate) fn create_topic(&self, name: &str, partitions: u32) {
        let config = TopicConfig {
            partitions,
            ..TopicConfig::default()
        };
        self.shared.world.state.lock().create(name, config);
    }

    /// From now on batches are acknowledged and dropped.
    #[allow(dead_code, reason = "only benchmarks use it")]
    pub(crate) fn keep_nothing(&self) {
        self.shared.world.state.lock().keeps_nothing = true;
    }

    pub(crate) fn grow_topic(&self, name: &str, partitions: usize) {
        let mut state = self.shared.world.state.lock();
        let topic = state.topics.get_mut(name).unwrap();
        topic.partitions.resize_with(partitions, Partition::default);
    }

    pub(crate) fn delete_topic(&self, name: &str) {
        self.shared.world.state.lock().topics.remove(name);
    }

    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.world.state.lock().faults.extend(faults);
    }

    /// From now on batches are taken as they should be.
    pub(crate) fn clear_faults(&self) {
        self.shared.world.state.lock().faults.clear();
    }

    pub(crate) fn consume_faults(&self, faults: impl IntoIterator<Item = ConsumeFault>) {
        self.shared.world.state.lock().consume_faults.extend(faults);
    }

    /// Breaks all connections.
    pub(crate) fn kick(&self) {
        for connection in self.shared.connections.lock().drain(..) {
            connection.close(VarInt::from_u32(9), b"kicked");
        }
    }

    /// Waits until the clients have closed their connections.
    pub(crate) async fn all_connections_closed(&self) {
        let connections = self.shared.connections.lock().clone();
        for connection in connections {
            let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
            closed.expect("the client closes its connection");
        }
    }

    /// Breaks all connections and accepts none until [`Broker::resume`].
    pub(crate) fn stop(&self) {
        self.endpoint.set_server_config(None);
        self.kick();
    }

    pub(crate) fn resume(&self) {
        self.endpoint
            .set_server_config(Some(self.server_config.clone()));
    }

    /// Holds answers to batches back, or lets them go.
    pub(crate) fn hold_answers(&self, hold: bool) {
        self.shared.held.send_replace(hold);
    }

    /// Leaves batches that arrive alone, or goes on with them.
    pub(crate) fn get_stuck(&self, stuck: bool) {
        self.shared.stuck.send_replace(stuck);
    }

    /// Answers no new stream, or does so again.
    pub(crate) fn go_mute(&self, mute: bool) {
        self.shared.mute.send_replace(mute);
    }

    /// Answers no consume stream, or does so again.
    pub(crate) fn stall_readers(&self, stall: bool) {
        self.shared.stalled.send_replace(stall);
    }

    /// How many consume streams were opened here.
    pub(crate) fn readers(&self) -> usize {
        self.shared.readers.load(Ordering::Relaxed)
    }

    pub(crate) fn id(&self) -> BrokerId {
        self.shared.id
    }

    pub(crate) fn connections_made(&self) -> usize {
        self.shared.connections_made.load(Ordering::Relaxed)
    }

    pub(crate) fn batches_received(&self) -> usize {
        self.shared.world.state.lock().batches_received
    }

    /// Appends a batch of these values, as a producer of `content_type` would.
    pub(crate) fn append(&self, topic: &str, partition: u32, content_type: &str, values: &[&[u8]]) {
        let mut builder = BatchBuilder::new();
        builder.set_content_type(content_type).unwrap();
        for (index, value) in values.iter().enumerate() {
            builder
                .push(&RecordRef::new(1_000 + index as i64, value))
                .unwrap();
        }
        let batch = builder.build(flumen_client::Codec::None).unwrap();
        self.append_batch(topic, partition, batch);
    }

    pub(crate) fn append_batch(&self, topic: &str, partition: u32, batch: Batch) {
        let mut state = self.shared.world.state.lock();
        let partition = state.partition(topic, partition).unwrap();
        partition.append(batch);
        self.shared.world.appended.send_modify(|count| *count += 1);
    }

    /// Forgets records before `start`, as retention does.
    pub(crate) fn retain_from(&self, topic: &str, partition: u32, start: u64) {
        let mut state = self.shared.world.state.lock();
        let partition = state.partition(topic, partition).unwrap();
        partition.start = start;
        partition.batches.retain(|b| b.end_offset().0 > start);
    }

    /// Knows no records from `end` on, whatever is stored.
    pub(crate) fn retain_end(&self, topic: &str, partition: u32, end: u64) {
        let mut state = self.shared.world.state.lock();
        state.partition(topic, partition).unwrap().end = end;
    }

    /// The values of a partition, as text.
    pub(crate) fn values(&self, topic: &str, partition: u32) -> Vec<String> {
        let records = self.records(topic, partition);
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        records.into_iter().map(|(_, value)| text(value)).collect()
    }

    /// Keys and values of a partition.
    pub(crate) fn records(&self, topic: &str, partition: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut state = self.shared.world.state.lock();
        let partition = state.partition(topic, partition).unwrap();
        let mut records = Vec::new();
        for batch in &partition.batches {
            for record in batch.columns().unwrap().records() {
                let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
                records.push((bytes(record.key), bytes(record.value)));
            }
        }
        records
    }

    pub(crate) fn batches(&self, topic: &str, partition: u32) -> Vec<Batch> {
        let mut state = self.shared.world.state.lock();
        state.partition(topic, partition).unwrap().batches.clone()
    }
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            appended: watch::channel(0).0,
        })
    }
}

async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else {
            continue;
        };
        shared.connections.lock().push(connection.clone());
        shared.connections_made.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let authenticated = watch::channel(shared.world.state.lock().token.is_none()).0;
            let authenticated = Arc::new(authenticated);
            while let Ok((send, receive)) = connection.accept_bi().await {
                let session = Session {
                    shared: Arc::clone(&shared),
                    connection: connection.clone(),
                    authenticated: Arc::clone(&authenticated),
                    writer: FrameWriter::new(send),
                    reader: FrameReader::new(receive, DATA_LIMITS),
                };
                tokio::spawn(session.serve());
            }
        });
    }
}

/// Waits until `condition` holds; the test fails if it does not within [`PATIENCE`].
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "never happened: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
