//! Simulated services: what they do with the real client, and what they note of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use flumen_client::{
    Client, Consumer, Message, Producer, Profile, Received, StartAt, TopicChanges, TopicConfig,
};
use flumen_protocol::topic::Cleanup;
use rand::RngExt;
use tokio::time::{sleep, timeout};

use crate::{
    checker::{Keeps, Ledger, Outcome, Place, Record},
    machine::zone,
    network::Network,
    trace::Trace,
};

/// How long a producer tries to deliver: short, so that unknown outcomes come up.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(4);

/// The pause before something is tried again that failed.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The header that says which record it is, of one that has no value to say so.
const RECORD_HEADER: &str = "record";

/// For how long a topic keeps records that delete a key, if it forgets them soon.
pub(crate) const DELETED_FOR: Duration = Duration::from_secs(2);

/// Bytes of a large value; the topics' segments hold a few of them.
const LARGE_VALUE_BYTES: usize = 20_000;

/// What all services of a run share.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) trace: Trace,
    pub(crate) network: Network,
    pub(crate) profile: Profile,
    pub(crate) brokers: Vec<String>,
    pub(crate) load: Load,
    /// Set when the services shall finish.
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) busy: Busy,
}

/// How much services do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// The longest rest of a producer between two rounds.
    pub(crate) pause_ms_max: u64,
    /// The share of records that are large.
    pub(crate) large: f64,
}

/// The services that have not finished, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Busy(Arc<Mutex<BTreeMap<u64, String>>>);

impl Busy {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_nobody(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().values().cloned().collect()
    }
}

/// A service on its way; not busy any more when it is dropped.
pub(crate) struct Working {
    number: u64,
    busy: Busy,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.busy.lock().remove(&self.number);
    }
}

impl Services {
    pub(crate) fn begin(&self, name: String) -> Working {
        let mut busy = self.busy.lock();
        let number = busy.last_key_value().map_or(0, |(number, _)| number + 1);
        busy.insert(number, name);
        Working {
            number,
            busy: self.busy.clone(),
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// A client on a host, connected at last; `None` if it is time to stop before.
    async fn connect(&self, host: IpAddr) -> Option<Client> {
        while !self.stopping() {
            let number = rand::rng().random_range(1..=self.brokers.len());
            let zone = rand::random::<bool>().then(|| zone(number));
            match self.try_connect(host, self.brokers.clone(), zone).await {
                Ok(client) => return Some(client),
                Err(error) => self.trace.add(error.to_string()),
            }
            sleep(RETRY_AFTER).await;
        }
        None
    }

    /// A client on a host that reads from a zone, if it is to.
    pub(crate) async fn try_connect(
        &self,
        host: IpAddr,
        brokers: Vec<String>,
        zone: Option<String>,
    ) -> Result<Client, flumen_client::ConnectError> {
        let mut builder = Client::builder()
            .profile(self.profile.clone())
            .brokers(brokers)
            .network(self.network.of(host))
            .request_timeout(Duration::from_secs(5));
        if let Some(zone) = zone {
            builder = builder.zone(zone);
        }
        builder.connect().await
    }

    /// Makes a topic that stays. Goes on when it is time to stop, since the last readers want it:
    /// a run in which it cannot be made fails by its deadline, and says who is busy.
    pub(crate) async fn make_topic(self, host: IpAddr, topic: String, config: TopicConfig) {
        let _busy = self.begin(format!("the maker of {topic}"));
        self.ledger().change_topic(&topic);
        self.ledger().keep(&topic, keeps(&config));
        loop {
            match self.try_make_topic(host, &topic, config.clone()).await {
                Ok(()) => break,
                Err(error) => self.trace.say(format!("cannot make {topic}: {error}")),
            }
            sleep(RETRY_AFTER).await;
        }
        self.ledger().topic_made(&topic);
    }

    async fn try_make_topic(
        &self,
        host: IpAddr,
        topic: &str,
        config: TopicConfig,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let client = self.try_connect(host, self.brokers.clone(), None).await?;
        client.admin().ensure_topic(topic, config).await?;
        Ok(())
    }

    /// Produces to a partition until it is time to stop.
    pub(crate) async fn produce(self, host: IpAddr, place: Place) {
        let _busy = self.begin(format!("a producer to {place:?}"));
        let Some(client) = self.connect(host).await else {
            return;
        };
        while !self.stopping() {
            let built = client
                .producer::<Bytes>(&place.topic)
                .delivery_timeout(DELIVERY_TIMEOUT)
                .build()
                .await;
            match built {
                Ok(producer) => self.produce_with(producer, &place).await,
                Err(error) => {
                    self.trace.add(error.to_string());
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// A life of a producer.
    async fn produce_with(&self, producer: Producer<Bytes>, place: &Place) {
        let id = self.ledger().add_producer(place.clone());
        let rounds = rand::rng().random_range(5..200);
        for _ in 0..rounds {
            if self.stopping() {
                break;
            }
            let count = rand::rng().random_range(1..8);
            let mut pending = Vec::new();
            for _ in 0..count {
                let record = self.ledger().send(id);
                let message = self.message(record, place);
                pending.push((record, producer.submit(message).await));
            }
            for (record, submitted) in pending {
                let result = match submitted {
                    Ok(receipt) => receipt.await,
                    Err(error) => Err(error),
                };
                let outcome = match result {
                    Ok(receipt) => Outcome::Stored(receipt.offset.map(|offset| offset.0)),
                    Err(error) if error.is_unknown() => {
                        self.trace.say(format!("unknown {record:?}: {error}"));
                        continue;
                    }
                    Err(error) => {
                        self.trace.say(format!("refused {record:?}: {error}"));
                        Outcome::Refused
                    }
                };
                self.ledger().settle(record, outcome);
            }
            let pause = rand::rng().random_range(0..=self.load.pause_ms_max);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// A record for a partition. It has a key if the topic keeps the last record of each, and deletes
    /// it now and then.
    fn message(&self, record: Record, place: &Place) -> Message<Bytes> {
        let is_compacted = matches!(
            self.ledger().keeps(&place.topic),
            Keeps::LastOfEachKey { .. }
        );
        let key = record.key().to_string();
        let message = if is_compacted && record.deletes() {
            Message::tombstone(key).header(RECORD_HEADER, text(record))
        } else if is_compacted {
            Message::new(self.value(record)).key(key)
        } else {
            Message::new(self.value(record))
        };
        message.partition(place.partition)
    }

    /// The value of a record: its producer and number, now and then with a lot behind them.
    fn value(&self, record: Record) -> Bytes {
        let mut text = text(record);
        if rand::rng().random_bool(self.load.large) {
            let len = rand::rng().random_range(0..LARGE_VALUE_BYTES);
            text.extend(std::iter::repeat_n('x', len));
        }
        self.ledger().weigh(record, text.len());
        text.into()
    }

    /// Consumes a topic until it is time to stop, with one consumer after the other.
    pub(crate) async fn consume(self, host: IpAddr, topic: String, name: String) {
        let _busy = self.begin(name.clone());
        let Some(client) = self.connect(host).await else {
            return;
        };
        for life in 0.. {
            if self.stopping() {
                return;
            }
            let reader = format!("{name}.{life}");
            let start = start();
            if start != StartAt::Beginning {
                self.ledger().begin_anywhere(&reader);
            }
            let consumer = client.consumer::<Bytes>(&topic).from(start);
            match consumer.with_tombstones().build().await {
                Ok(consumer) => self.consume_with(consumer, &topic, &reader).await,
                Err(error) => self.trace.add(error.to_string()),
            }
            sleep(RETRY_AFTER).await;
        }
    }

    async fn consume_with(&self, mut consumer: Consumer<Option<Bytes>>, topic: &str, reader: &str) {
        let mut left: u32 = rand::rng().random_range(100..3_000);
        while left > 0 && !self.stopping() {
            match timeout(RETRY_AFTER, consumer.next()).await {
                Err(_) => left = left.saturating_sub(10),
                Ok(None) => return,
                Ok(Some(Ok(received))) => {
                    left -= 1;
                    let place = Place {
                        topic: topic.to_owned(),
                        partition: received.partition,
                    };
                    match parse(&received) {
                        Some(record) => {
                            self.ledger().see(reader, &place, received.offset.0, record);
                        }
                        None => self
                            .ledger()
                            .object(format!("{reader}: no record at {place:?}")),
                    }
                }
                Ok(Some(Err(error))) => {
                    self.trace.say(format!("{reader}: {error}"));
                    if matches!(
                        error,
                        flumen_client::ConsumeError::Damaged { .. }
                            | flumen_client::ConsumeError::WrongType { .. }
                            | flumen_client::ConsumeError::Decode { .. }
                    ) {
                        self.ledger().object(format!("{reader}: {error}"));
                    }
                }
            }
        }
    }

    /// Gives a topic one more partition, so that it has as many, and produces to that one.
    pub(crate) async fn grow(self, host: IpAddr, topic: String, partitions: u32) {
        {
            let _busy = self.begin(format!("the one that grows {topic}"));
            let pause = rand::rng().random_range(500..6_000);
            sleep(Duration::from_millis(pause)).await;
            let Some(client) = self.connect(host).await else {
                return;
            };
            let changes = || TopicChanges {
                partitions: Some(partitions),
                ..TopicChanges::default()
            };
            while let Err(error) = client.admin().alter_topic(&topic, changes()).await {
                self.trace.say(format!("cannot grow {topic}: {error}"));
                if self.stopping() {
                    return;
                }
                sleep(RETRY_AFTER).await;
            }
        }
        let partition = partitions - 1;
        self.produce(host, Place { topic, partition }).await;
    }

    /// Makes a topic, fills it, reads it and removes it, again and again under the same name: what
    /// was in the one before must not be in the next.
    pub(crate) async fn churn(self, host: IpAddr, name: String) {
        let _busy = self.begin("the one that makes topics anew".to_owned());
        let Some(client) = self.connect(host).await else {
            return;
        };
        let mut topic = format!("{name}-0");
        for life in 1.. {
            let pause = rand::rng().random_range(50..1_000);
            sleep(Duration::from_millis(pause)).await;
            if self.stopping() {
                return;
            }
            self.ledger().change_topic(&topic);
            let place = Place {
                topic: format!("{topic}#{life}"),
                partition: 0,
            };
            if let Err(error) = self.live(&client, &topic, &place).await {
                self.trace.say(format!("{topic} is left: {error}"));
                // A request of which nothing was heard may yet be carried out.
                topic = format!("{name}-{life}");
            }
        }
    }

    /// A life of a topic.
    async fn live(
        &self,
        client: &Client,
        topic: &str,
        place: &Place,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let config = TopicConfig {
            retention_age_ms: None,
            ..TopicConfig::default()
        };
        client.admin().create_topic(topic, config).await?;
        let producer = client.producer::<Bytes>(topic);
        let producer = producer.delivery_timeout(DELIVERY_TIMEOUT).build().await?;
        let id = self.ledger().add_producer(place.clone());
        let mut stored = BTreeSet::new();
        let count = rand::rng().random_range(1..6);
        for _ in 0..count {
            let record = self.ledger().send(id);
            if producer
                .send(Message::new(self.value(record)))
                .await
                .is_ok()
            {
                stored.insert(record);
            }
        }
        drop(producer);
        for (_, offset, record) in self.read_all(client, topic).await? {
            if record.producer != id {
                let text = format!("of an earlier life of {topic}: {record:?} at {offset}");
                self.ledger().object(text);
            }
            stored.remove(&record);
        }
        if !stored.is_empty() {
            let text = format!("lost for a reader of {topic}: {stored:?}");
            self.ledger().object(text);
        }
        client.admin().delete_topic(topic).await?;
        Ok(())
    }

    /// Makes topics and removes some of them again until it is time to stop.
    pub(crate) async fn administrate(self, host: IpAddr, name: String) {
        let _busy = self.begin("the administrator".to_owned());
        let Some(client) = self.connect(host).await else {
            return;
        };
        for number in 0.. {
            let pause = rand::rng().random_range(200..2_000);
            sleep(Duration::from_millis(pause)).await;
            if self.stopping() {
                return;
            }
            let topic = format!("{name}-{number}");
            self.ledger().change_topic(&topic);
            match client
                .admin()
                .create_topic(&topic, TopicConfig::default())
                .await
            {
                Ok(()) => self.ledger().topic_made(&topic),
                Err(error) => {
                    self.trace.say(format!("cannot make {topic}: {error}"));
                    continue;
                }
            }
            if rand::random() {
                continue;
            }
            self.ledger().change_topic(&topic);
            match client.admin().delete_topic(&topic).await {
                Ok(()) => self.ledger().topic_removed(&topic),
                Err(error) => self.trace.say(format!("cannot remove {topic}: {error}")),
            }
        }
    }

    /// Reads a topic to its end, all of it, from one broker.
    pub(crate) async fn read_all(
        &self,
        client: &Client,
        topic: &str,
    ) -> Result<Vec<(Place, u64, Record)>, String> {
        let consumer = client.consumer::<Bytes>(topic).from(StartAt::Beginning);
        let consumer = consumer.with_tombstones().until_end().build().await;
        let mut consumer = consumer.map_err(|error| error.to_string())?;
        let mut records = Vec::new();
        while let Some(received) = consumer.next().await {
            let received = received.map_err(|error| error.to_string())?;
            let place = Place {
                topic: topic.to_owned(),
                partition: received.partition,
            };
            let record = parse(&received)
                .ok_or_else(|| format!("no record at {} of {place:?}", received.offset))?;
            records.push((place, received.offset.0, record));
        }
        Ok(records)
    }
}

/// Where a consumer starts.
fn start() -> StartAt {
    match rand::rng().random_range(0..10) {
        0..6 => StartAt::Beginning,
        6..8 => StartAt::End,
        _ => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now_ms = now.map_or(0, |now| now.as_millis() as i64);
            StartAt::Time(now_ms - rand::rng().random_range(0..5_000))
        }
    }
}

/// What a topic with such settings keeps.
fn keeps(config: &TopicConfig) -> Keeps {
    match (config.cleanup, config.retention_bytes) {
        (Cleanup::Compact, _) => Keeps::LastOfEachKey {
            forgets_deleted: config.tombstone_retention_ms <= DELETED_FOR.as_millis() as u64,
        },
        (Cleanup::Delete, Some(bytes)) => Keeps::LastBytes(bytes),
        (Cleanup::Delete, None) => Keeps::All,
    }
}

/// What a record says of itself.
fn text(record: Record) -> String {
    format!("{} {} ", record.producer, record.number)
}

fn parse(received: &Received<Option<Bytes>>) -> Option<Record> {
    let of_header = received.headers.get(RECORD_HEADER);
    let text = of_header.or(received.value.as_deref())?;
    let mut parts = std::str::from_utf8(text).ok()?.split(' ');
    Some(Record {
        producer: parts.next()?.parse().ok()?,
        number: parts.next()?.parse().ok()?,
    })
}
