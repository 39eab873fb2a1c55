//! A broker in the test's own process that keeps batches in memory and misbehaves on
//! command.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flumen_client::{Client, ClientBuilder, TopicConfig};
use flumen_protocol::{
    ALPN_CLIENT,
    batch::{Batch, BatchBuilder, Headers, ProducerSequence, RecordRef},
    error::{ErrorCode, WireError},
    ids::{BrokerId, Offset, ShardId, TopicId},
    message::{
        BrokerInfo, ConsumeEvent, ConsumeOpen, Metadata, PartitionDescription, PartitionStart,
        ProduceAcks, ProduceBatch, ProduceOpen, ProduceOutcome, ProduceReceipt, Reply, Request,
        Response, ShardMetadata, StartAt, StreamOpen, TopicDescription, TopicMetadata,
        TopicSummary,
    },
    topic::Name,
};
use flumen_transport::{
    endpoint,
    quinn::{self, Connection, Endpoint, VarInt},
    stream::{DATA_LIMITS, FrameReader, FrameWriter, Payload},
    tls, tuning,
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What happens to the next batch that arrives. Faults are used up one by one.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It is appended, and the connection breaks before the answer.
    LoseAnswer,
    /// The connection breaks before it is appended.
    LoseBatch,
    /// It is refused.
    Refuse(ErrorCode, &'static str),
    /// It is refused, and its number counts as used.
    Reject(&'static str),
    /// It is taken, and a plugin keeps only this many of its records.
    Keep(u32),
    /// The stream ends without an answer, and the connection stays.
    EndStream,
}

/// What happens to the next batch that is pushed to a consumer.
#[derive(Clone, Debug)]
pub(crate) enum ConsumeFault {
    /// It is sent twice.
    Twice,
    /// A byte of it is flipped.
    Damage,
    /// It is sent, and the connection breaks.
    BreakAfter,
    /// It is not sent, as if retention had removed it meanwhile.
    Skip,
}

#[derive(Default)]
struct Partition {
    start: u64,
    end: u64,
    batches: Vec<Batch>,
    producers: HashMap<u64, Known>,
}

#[derive(Default)]
struct Known {
    epoch: u32,
    next: u64,
    receipts: HashMap<u64, ProduceReceipt>,
    /// The epoch before, and what was answered to its batches.
    fenced: (u32, HashMap<u64, ProduceReceipt>),
}

struct Topic {
    id: TopicId,
    config: TopicConfig,
    partitions: Vec<Partition>,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<String, Topic>,
    faults: VecDeque<Fault>,
    consume_faults: VecDeque<ConsumeFault>,
    connections: Vec<Connection>,
    connections_made: usize,
    batches_received: usize,
    token: Option<String>,
    next_topic: u64,
    keeps_nothing: bool,
}

pub(crate) struct Broker {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    server_config: quinn::ServerConfig,
    pub(crate) address: SocketAddr,
    pub(crate) ca: String,
}

struct Shared {
    state: Mutex<State>,
    /// Rises with every append.
    appended: watch::Sender<u64>,
    /// While true, answers to batches are held back.
    held: watch::Sender<bool>,
    address: SocketAddr,
}

impl Broker {
    pub(crate) fn start() -> Self {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let ca = key.cert.pem();
        let key_pem = key.signing_key.serialize_pem();
        let identity = tls::Identity {
            cert_pem: &ca,
            key_pem: &key_pem,
        };
        let crypto = tls::server_config(identity, &ca, &[ALPN_CLIENT]).unwrap();
        let mut server_config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server_config.transport_config(tuning::transport_config(1_000));
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let endpoint = endpoint::server(any, server_config.clone()).unwrap();
        let address = endpoint.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            appended: watch::channel(0).0,
            held: watch::channel(false).0,
            address,
        });
        tokio::spawn(accept(Arc::clone(&shared), endpoint.clone()));
        Self {
            shared,
            endpoint,
            server_config,
            address,
            ca,
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
        self.shared.state.lock().token = Some(token.to_owned());
    }

    pub(crate) fn create_topic(&self, name: &str, partitions: u32) {
        let config = TopicConfig {
            partitions,
            ..TopicConfig::default()
        };
        self.shared.state.lock().create(name, config);
    }

    /// From now on batches are acknowledged and dropped.
    #[allow(dead_code, reason = "only benchmarks use it")]
    pub(crate) fn keep_nothing(&self) {
        self.shared.state.lock().keeps_nothing = true;
    }

    pub(crate) fn grow_topic(&self, name: &str, partitions: usize) {
        let mut state = self.shared.state.lock();
        let topic = state.topics.get_mut(name).unwrap();
        topic.partitions.resize_with(partitions, Partition::default);
    }

    pub(crate) fn delete_topic(&self, name: &str) {
        self.shared.state.lock().topics.remove(name);
    }

    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.state.lock().faults.extend(faults);
    }

    pub(crate) fn consume_faults(&self, faults: impl IntoIterator<Item = ConsumeFault>) {
        self.shared.state.lock().consume_faults.extend(faults);
    }

    /// Breaks all connections.
    pub(crate) fn kick(&self) {
        for connection in self.shared.state.lock().connections.drain(..) {
            connection.close(VarInt::from_u32(9), b"kicked");
        }
    }

    /// Waits until the clients have closed their connections.
    pub(crate) async fn all_connections_closed(&self) {
        let connections = self.shared.state.lock().connections.clone();
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

    pub(crate) fn connections_made(&self) -> usize {
        self.shared.state.lock().connections_made
    }

    pub(crate) fn batches_received(&self) -> usize {
        self.shared.state.lock().batches_received
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
        let mut state = self.shared.state.lock();
        let partition = state.partition(topic, partition).unwrap();
        partition.append(batch);
        self.shared.appended.send_modify(|count| *count += 1);
    }

    /// Forgets records before `start`, as retention does.
    pub(crate) fn retain_from(&self, topic: &str, partition: u32, start: u64) {
        let mut state = self.shared.state.lock();
        let partition = state.partition(topic, partition).unwrap();
        partition.start = start;
        partition.batches.retain(|b| b.end_offset().0 > start);
    }

    /// The values of a partition, as text.
    pub(crate) fn values(&self, topic: &str, partition: u32) -> Vec<String> {
        let records = self.records(topic, partition);
        let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
        records.into_iter().map(|(_, value)| text(value)).collect()
    }

    /// Keys and values of a partition.
    pub(crate) fn records(&self, topic: &str, partition: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut state = self.shared.state.lock();
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
        let mut state = self.shared.state.lock();
        state.partition(topic, partition).unwrap().batches.clone()
    }
}

impl State {
    fn create(&mut self, name: &str, config: TopicConfig) {
        self.next_topic += 1;
        let mut partitions = Vec::new();
        partitions.resize_with(config.partitions as usize, Partition::default);
        let topic = Topic {
            id: TopicId(self.next_topic),
            config,
            partitions,
        };
        self.topics.insert(name.to_owned(), topic);
    }

    fn partition(&mut self, topic: &str, index: u32) -> Result<&mut Partition, WireError> {
        let Some(found) = self.topics.get_mut(topic) else {
            return Err(WireError::new(
                ErrorCode::UnknownTopic,
                format!("no topic {topic}"),
            ));
        };
        let partition = found.partitions.get_mut(index as usize);
        partition.ok_or_else(|| WireError::new(ErrorCode::UnknownPartition, "no such partition"))
    }
}

impl Partition {
    fn append(&mut self, batch: Batch) -> Offset {
        let base = Offset(self.end);
        let batch = batch.placed(base, 77);
        self.end = batch.end_offset().0;
        if batch.record_count() > 0 {
            self.batches.push(batch);
        }
        base
    }

    fn take(&mut self, batch: Batch, keep: Option<u32>) -> ProduceOutcome {
        let ProducerSequence {
            producer_id,
            epoch,
            sequence,
        } = batch.header().producer;
        let known = self.producers.entry(producer_id.0).or_default();
        if epoch < known.epoch {
            let (fenced, receipts) = &known.fenced;
            if let Some(receipt) = receipts.get(&sequence).filter(|_| *fenced == epoch) {
                let duplicate = true;
                return Ok(ProduceReceipt {
                    duplicate,
                    ..*receipt
                });
            }
            return Err(WireError::new(
                ErrorCode::ProducerFenced,
                "an earlier epoch",
            ));
        }
        let next = if epoch > known.epoch { 0 } else { known.next };
        if sequence > next {
            return Err(WireError::new(
                ErrorCode::OutOfSequence,
                format!("expected {next}"),
            ));
        }
        if sequence < next {
            let mut receipt = known.receipts[&sequence];
            receipt.duplicate = true;
            return Ok(receipt);
        }
        let records = batch.record_count();
        let stored = keep.unwrap_or(records);
        let batch = if stored < records {
            first(&batch, stored)
        } else {
            batch
        };
        let base = self.append(batch);
        let receipt = ProduceReceipt {
            base_offset: (stored > 0).then_some(base),
            stored,
            append_time_ms: 77,
            duplicate: false,
        };
        let known = self.producers.entry(producer_id.0).or_default();
        if epoch > known.epoch {
            known.fenced = (known.epoch, std::mem::take(&mut known.receipts));
        }
        known.epoch = epoch;
        known.next = sequence + 1;
        known.receipts.insert(sequence, receipt);
        Ok(receipt)
    }
}

/// A batch of the first records of another.
fn first(batch: &Batch, count: u32) -> Batch {
    let mut builder = BatchBuilder::new();
    let columns = batch.columns().unwrap();
    for record in columns.records().take(count as usize) {
        let headers = Headers::from_encoded(record.headers.as_encoded());
        builder.push(&RecordRef { headers, ..record }).unwrap();
    }
    builder.build(flumen_client::Codec::None).unwrap()
}

async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else {
            continue;
        };
        {
            let mut state = shared.state.lock();
            state.connections.push(connection.clone());
            state.connections_made += 1;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let authenticated = watch::channel(shared.state.lock().token.is_none()).0;
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

struct Session {
    shared: Arc<Shared>,
    connection: Connection,
    authenticated: Arc<watch::Sender<bool>>,
    writer: FrameWriter,
    reader: FrameReader,
}

impl Session {
    async fn serve(mut self) {
        match self.reader.next_with_payload::<StreamOpen>().await {
            Ok(Some((StreamOpen::Control(request), payload))) => {
                let reply: Reply = self.answer(request, &payload);
                let _ = self.writer.send(&reply, Payload::None).await;
                self.writer.finish();
            }
            Ok(Some((StreamOpen::Produce(open), _))) => self.produce(open).await,
            Ok(Some((StreamOpen::Consume(open), _))) => {
                if let Err(error) = self.consume(open).await {
                    let failed = ConsumeEvent::Failed(error);
                    let _ = self.writer.send(&failed, Payload::None).await;
                    self.writer.finish();
                }
            }
            _ => {}
        }
    }

    fn answer(&self, request: Request, payload: &Bytes) -> Reply {
        let mut state = self.shared.state.lock();
        if let Request::Authenticate { token } = &request {
            if state.token.as_ref() != Some(token) {
                return Err(WireError::new(ErrorCode::Unauthenticated, "unknown token"));
            }
            self.authenticated.send_replace(true);
            return Ok(Response::Done);
        }
        if !*self.authenticated.borrow() {
            return Err(WireError::new(
                ErrorCode::Unauthenticated,
                "show a token first",
            ));
        }
        match request {
            Request::Metadata { topics } => {
                let known = |name: &Name| {
                    let topic = state.topics.get(name.as_str())?;
                    Some(TopicMetadata {
                        name: name.clone(),
                        id: topic.id,
                        config: topic.config.clone(),
                        shards: vec![ShardId(1); topic.partitions.len()],
                    })
                };
                Ok(Response::Metadata(Metadata {
                    version: 1,
                    brokers: vec![BrokerInfo {
                        id: BrokerId(1),
                        address: self.shared.address.to_string(),
                        zone: None,
                    }],
                    shards: vec![ShardMetadata {
                        id: ShardId(1),
                        term: 1,
                        leader: Some(BrokerId(1)),
                        replicas: vec![BrokerId(1)],
                    }],
                    topics: topics.iter().filter_map(known).collect(),
                    batch_bytes_max: flumen_protocol::limits::BATCH_BYTES_MAX as u32,
                }))
            }
            Request::CreateTopic { name, config } => {
                if state.topics.contains_key(name.as_str()) {
                    let text = format!("topic {name} exists already");
                    return Err(WireError::new(ErrorCode::TopicExists, text));
                }
                state.create(name.as_str(), config);
                Ok(Response::Done)
            }
            Request::DeleteTopic { name } => match state.topics.remove(name.as_str()) {
                Some(_) => Ok(Response::Done),
                None => Err(WireError::new(ErrorCode::UnknownTopic, "no such topic")),
            },
            Request::ListTopics => {
                let topics = state.topics.iter().map(|(name, topic)| TopicSummary {
                    name: Name::new(name).unwrap(),
                    config: topic.config.clone(),
                    plugins: Vec::new(),
                });
                Ok(Response::Topics(topics.collect()))
            }
            Request::DescribeTopic { name } => {
                let Some(topic) = state.topics.get(name.as_str()) else {
                    return Err(WireError::new(ErrorCode::UnknownTopic, "no such topic"));
                };
                let describe = |(index, partition): (usize, &Partition)| PartitionDescription {
                    index: index as u32,
                    shard: ShardId(1),
                    leader: Some(BrokerId(1)),
                    start_offset: Offset(partition.start),
                    end_offset: Offset(partition.end),
                    size_bytes: 0,
                };
                Ok(Response::Topic(TopicDescription {
                    name,
                    id: topic.id,
                    config: topic.config.clone(),
                    created_ms: 0,
                    partitions: topic.partitions.iter().enumerate().map(describe).collect(),
                    bindings: Vec::new(),
                }))
            }
            Request::DeployPlugin { name, .. } => Err(WireError::new(
                ErrorCode::InvalidPlugin,
                format!("{name}: {} bytes are no component", payload.len()),
            )),
            Request::Status => Err(WireError::new(ErrorCode::Unavailable, "starting")),
            other => Err(WireError::new(ErrorCode::InvalidRequest, other.name())),
        }
    }

    async fn produce(mut self, open: ProduceOpen) {
        while let Ok(Some((ProduceBatch, bytes))) = self.reader.next_with_payload().await {
            let outcome = {
                let mut state = self.shared.state.lock();
                state.batches_received += 1;
                let fault = state.faults.pop_front();
                let batch = Batch::decode(bytes).unwrap();
                let batch = if state.keeps_nothing {
                    Batch::empty(batch.header().producer)
                } else {
                    batch
                };
                let topic = open.topic.as_str();
                let take = |keep| match state.partition(topic, open.partition) {
                    Ok(partition) => partition.take(batch, keep),
                    Err(error) => Err(error),
                };
                match fault {
                    None => take(None),
                    Some(Fault::Keep(count)) => take(Some(count)),
                    Some(Fault::Reject(text)) => match take(Some(0)) {
                        Ok(_) => Err(WireError::new(ErrorCode::Rejected, text)),
                        Err(error) => Err(error),
                    },
                    Some(Fault::Refuse(code, text)) => Err(WireError::new(code, text)),
                    Some(Fault::LoseAnswer) => {
                        take(None).unwrap();
                        self.connection.close(VarInt::from_u32(9), b"lost");
                        return;
                    }
                    Some(Fault::LoseBatch) => {
                        self.connection.close(VarInt::from_u32(9), b"lost");
                        return;
                    }
                    Some(Fault::EndStream) => {
                        self.writer.finish();
                        return;
                    }
                }
            };
            self.shared.appended.send_modify(|count| *count += 1);
            let mut held = self.shared.held.subscribe();
            let _ = held.wait_for(|held| !held).await;
            let acks = ProduceAcks {
                outcomes: vec![outcome],
            };
            if self.writer.send(&acks, Payload::None).await.is_err() {
                return;
            }
        }
    }

    async fn consume(&mut self, open: ConsumeOpen) -> Result<(), WireError> {
        let topic = open.topic.as_str().to_owned();
        let mut appended = self.shared.appended.subscribe();
        let mut starts = Vec::new();
        for (index, at) in open.partitions {
            let mut state = self.shared.state.lock();
            let partition = state.partition(&topic, index)?;
            let start_offset = match at {
                StartAt::End => partition.end,
                StartAt::Offset(offset) if offset.0 > partition.end => {
                    let text = format!("offset {offset} is past the end {}", partition.end);
                    return Err(WireError::new(ErrorCode::OffsetOutOfRange, text));
                }
                StartAt::Offset(offset) => offset.0.max(partition.start),
                StartAt::Beginning | StartAt::Time(_) => partition.start,
            };
            starts.push(PartitionStart {
                partition: index,
                start_offset: Offset(start_offset),
                end_offset: Offset(partition.end),
            });
        }
        let mut next: BTreeMap<u32, Offset> = starts
            .iter()
            .map(|s| (s.partition, s.start_offset))
            .collect();
        let started = ConsumeEvent::Started(starts);
        if self.writer.send(&started, Payload::None).await.is_err() {
            return Ok(());
        }
        loop {
            appended.borrow_and_update();
            let mut found = Vec::new();
            for (index, next) in &mut next {
                let mut state = self.shared.state.lock();
                let partition = state.partition(&topic, *index)?;
                for batch in &partition.batches {
                    if batch.end_offset() > *next {
                        found.push((*index, Offset(partition.end), batch.clone()));
                        *next = batch.end_offset();
                    }
                }
            }
            for (partition, end_offset, batch) in found {
                let fault = self.shared.state.lock().consume_faults.pop_front();
                let event = ConsumeEvent::Batch {
                    partition,
                    end_offset,
                };
                let mut bytes = batch.to_bytes();
                if matches!(fault, Some(ConsumeFault::Damage)) {
                    let mut damaged = bytes.to_vec();
                    *damaged.last_mut().unwrap() ^= 1;
                    bytes = damaged.into();
                }
                let times = match fault {
                    Some(ConsumeFault::Skip) => 0,
                    Some(ConsumeFault::Twice) => 2,
                    _ => 1,
                };
                for _ in 0..times {
                    self.writer.push(&event, Payload::Bytes(&bytes));
                }
                if self.writer.flush().await.is_err() {
                    return Ok(());
                }
                if matches!(fault, Some(ConsumeFault::BreakAfter)) {
                    // Let it arrive before the connection breaks.
                    self.writer.finish();
                    self.writer.stopped().await;
                    self.connection.close(VarInt::from_u32(9), b"lost");
                    return Ok(());
                }
            }
            if appended.changed().await.is_err() {
                return Ok(());
            }
        }
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
