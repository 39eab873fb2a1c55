//! The client: where everything starts.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flumen_protocol::{
    ALPN_CLIENT,
    error::ErrorCode,
    ids::{BrokerId, ShardId},
    limits::BATCH_BYTES_MAX,
    message::{BrokerInfo, Metadata, Request, Response, ShardMetadata, TopicMetadata},
    profile::Profile as Contents,
    topic::TopicName,
};
use flumen_transport::{
    endpoint::{Network, Udp},
    quinn,
    tls::{self, Identity},
    tuning,
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    admin::Admin,
    config::{CLOSE_TIMEOUT, ClientConfig, STREAMS_FROM_BROKER_MAX},
    connection::{Broker, ConnectError, Dialer, control},
    consumer::ConsumerBuilder,
    producer::{Deliveries, ProducerBuilder},
    profile::{Profile, ProfileError},
    request::RequestError,
};

/// A connection to a cluster. Cheap to clone; all clones share the connections.
///
/// ```no_run
/// use flumen_client::{Client, Profile};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect(Profile::load(None)?).await?;
/// # Ok(()) }
/// ```
///
/// A client reconnects on its own for as long as it lives. Its methods must be called from
/// within a Tokio runtime.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dialer: Arc<Dialer>,
    seeds: Vec<String>,
    /// The brokers that are known so far, by address.
    brokers: Mutex<HashMap<String, Arc<Broker>>>,
    /// What the cluster said last of its brokers.
    cluster: Mutex<Vec<BrokerInfo>>,
    /// What it said last of its shards.
    shards: Mutex<HashMap<ShardId, ShardMetadata>>,
    /// What it said last of the largest batch.
    batch_bytes_max: AtomicUsize,
    /// What producers that send the same way share.
    deliveries: Deliveries,
}

impl Client {
    /// Connects to a cluster with what a profile says, and default settings.
    ///
    /// # Errors
    /// When no broker of the profile can be reached or none accepts the credential. A client
    /// that is connected once reconnects on its own.
    pub async fn connect(profile: impl Into<Profile>) -> Result<Self, ConnectError> {
        Self::builder().profile(profile.into()).connect().await
    }

    /// Says where and how to connect, setting by setting.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Builds a producer of values of type `T` to a topic.
    ///
    /// Values travel as postcard unless [`ProducerBuilder::json`] is called; `T` =
    /// [`Raw`](crate::Raw) or `Vec<u8>` sends bytes as they are.
    pub fn producer<T: Serialize + 'static>(&self, topic: impl Into<String>) -> ProducerBuilder<T> {
        ProducerBuilder::new(self.clone(), topic.into())
    }

    /// Builds a consumer of values of type `T` from a topic.
    ///
    /// Values are read as postcard unless [`ConsumerBuilder::json`] is called; `T` =
    /// [`Raw`](crate::Raw) or `Vec<u8>` receives the bytes as they are.
    pub fn consumer<T: DeserializeOwned + 'static>(
        &self,
        topic: impl Into<String>,
    ) -> ConsumerBuilder<T> {
        ConsumerBuilder::new(self.clone(), topic.into())
    }

    /// Topics, plugins and the state of the cluster.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Closes all connections and waits, for up to [`CLOSE_TIMEOUT`](crate::config::CLOSE_TIMEOUT), until the brokers know.
    /// From now on neither this client nor its clones, producers and consumers connect again.
    /// Close producers first: what they still hold is lost. Without this a broker notices
    /// that a process is gone only some seconds later.
    pub async fn close(&self) {
        self.inner.dialer.closed.store(true, Ordering::Release);
        for broker in self.inner.brokers.lock().values() {
            if let Some(connection) = broker.live() {
                connection.close(quinn::VarInt::from_u32(0), b"closed by the client");
            }
        }
        let endpoints = self.inner.dialer.endpoints.lock().clone();
        for endpoint in endpoints.into_iter().flatten() {
            // The brokers notice in any case, only later.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
        }
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.inner.dialer.config
    }

    pub(crate) fn deliveries(&self) -> &Deliveries {
        &self.inner.deliveries
    }

    /// The broker of that id, or any if there is no id or only one broker. A cluster of one
    /// is reached where it was found, whatever address it gives itself.
    pub(crate) fn broker(&self, id: Option<BrokerId>) -> Arc<Broker> {
        let address = {
            let cluster = self.inner.cluster.lock();
            let found = cluster.iter().find(|broker| Some(broker.id) == id);
            found
                .filter(|_| cluster.len() > 1)
                .map(|broker| broker.address.clone())
        };
        match address {
            Some(address) => self.broker_at(&address),
            None => {
                let live = self.candidates().into_iter().find(|b| b.live().is_some());
                live.unwrap_or_else(|| self.broker_at(&self.inner.seeds[0]))
            }
        }
    }

    /// The leader of a shard, if there is one that is known.
    pub(crate) fn leader_of(&self, shard: ShardId) -> Option<BrokerId> {
        self.inner.shards.lock().get(&shard)?.leader
    }

    /// Takes over what is newer than what is known.
    fn learn_leaders(&self, heard: &[ShardMetadata]) {
        let mut shards = self.inner.shards.lock();
        for shard in heard {
            let known = shards.entry(shard.id).or_insert_with(|| shard.clone());
            if known.term <= shard.term {
                known.clone_from(shard);
            }
        }
    }

    fn broker_at(&self, address: &str) -> Arc<Broker> {
        let mut brokers = self.inner.brokers.lock();
        let broker = brokers.entry(address.to_owned()).or_insert_with(|| {
            let dialer = Arc::clone(&self.inner.dialer);
            Arc::new(Broker::new(address.to_owned(), dialer))
        });
        Arc::clone(broker)
    }

    /// Brokers that any request may go to: those with a live connection first.
    fn candidates(&self) -> Vec<Arc<Broker>> {
        let cluster = self.inner.cluster.lock().clone();
        let mut addresses = self.inner.seeds.clone();
        if cluster.len() > 1 {
            addresses.extend(cluster.into_iter().map(|broker| broker.address));
        }
        let mut brokers: Vec<_> = addresses.iter().map(|a| self.broker_at(a)).collect();
        brokers.sort_by_key(|broker| broker.live().is_none());
        brokers
    }

    /// Sends a request to whichever broker answers. A request that is `repeatable` is sent
    /// again when its reply is lost; any other is only if it was not carried out for sure.
    pub(crate) async fn request(
        &self,
        request: Request,
        payload: Option<Bytes>,
        repeatable: bool,
    ) -> Result<Response, RequestError> {
        let what = request.name();
        let after = self.config().request_timeout;
        let deadline = Instant::now() + after;
        let mut last = RequestError::TimedOut { what, after };
        for attempt in 0.. {
            let brokers = self.candidates();
            let broker = &brokers[attempt % brokers.len()];
            let one = self.attempt(broker, request.clone(), payload.as_ref(), repeatable);
            match tokio::time::timeout_at(deadline.into(), one).await {
                // Nothing was heard: an earlier failure that is known says more.
                Err(_) if matches!(last, RequestError::Connect(_)) => return Err(last),
                Err(_) => return Err(RequestError::TimedOut { what, after }),
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(Attempt::Final(error))) => return Err(error),
                Ok(Err(Attempt::Again(error))) => last = error,
            }
            let fatal = matches!(
                last,
                RequestError::Connect(
                    ConnectError::Unauthenticated { .. } | ConnectError::Tls { .. }
                )
            );
            if fatal {
                return Err(last);
            }
            let pause = Instant::now() + self.config().reconnect.first * 2;
            if pause >= deadline {
                return Err(last);
            }
            if (attempt + 1) % brokers.len() == 0 {
                tokio::time::sleep_until(pause.into()).await;
            }
        }
        Err(last)
    }

    async fn attempt(
        &self,
        broker: &Broker,
        request: Request,
        payload: Option<&Bytes>,
        repeatable: bool,
    ) -> Result<Response, Attempt> {
        let what = request.name();
        let connection = match broker.connection().await {
            Ok(connection) => connection,
            Err(error) => return Err(Attempt::Again(error.into())),
        };
        match control::exchange(&connection, request, payload).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.code == ErrorCode::Timeout && !repeatable => {
                let text = error.text;
                Err(Attempt::Final(RequestError::Lost { what, text }))
            }
            Ok(Err(error)) if error.retryable => {
                Err(Attempt::Again(RequestError::refused(what, error)))
            }
            Ok(Err(error)) => Err(Attempt::Final(RequestError::refused(what, error))),
            Err(broken) => {
                if let Some(refused) = broker.refusal(&connection) {
                    return Err(Attempt::Final(refused.into()));
                }
                let repeat = repeatable || !broken.sent;
                let text = broken.text;
                let error = RequestError::Lost { what, text };
                Err(if repeat {
                    Attempt::Again(error)
                } else {
                    Attempt::Final(error)
                })
            }
        }
    }

    /// Asks for the cluster's brokers and one topic; `None` if there is no such topic.
    pub(crate) async fn topic(
        &self,
        topic: &TopicName,
    ) -> Result<Option<TopicMetadata>, RequestError> {
        let topics = vec![topic.clone()];
        let mut metadata = self.metadata(topics).await?;
        Ok(metadata.topics.pop().filter(|found| found.name == *topic))
    }

    /// Bytes of the largest batch that the brokers take, as they said when a topic was last
    /// asked for.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.inner.batch_bytes_max.load(Ordering::Relaxed)
    }

    async fn metadata(&self, topics: Vec<TopicName>) -> Result<Metadata, RequestError> {
        let request = Request::Metadata { topics };
        let what = request.name();
        match self.request(request, None, true).await {
            Ok(Response::Metadata(metadata)) => {
                self.inner.cluster.lock().clone_from(&metadata.brokers);
                self.learn_leaders(&metadata.shards);
                let batch_bytes_max = metadata.batch_bytes_max as usize;
                let inner = &self.inner;
                inner
                    .batch_bytes_max
                    .store(batch_bytes_max, Ordering::Relaxed);
                Ok(metadata)
            }
            Ok(_) => Err(RequestError::UnexpectedReply { what }),
            // A broker may answer so where no topic is left of those asked for.
            Err(RequestError::Refused {
                code: ErrorCode::UnknownTopic,
                ..
            }) => Ok(Metadata::default()),
            Err(error) => Err(error),
        }
    }
}

enum Attempt {
    Again(RequestError),
    Final(RequestError),
}

/// Says where and how a [`Client`] connects.
///
/// ```no_run
/// use std::time::Duration;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = flumen_client::Client::builder()
///     .brokers(["broker-1:4650", "broker-2:4650"])
///     .ca_file("/etc/flumen/ca.pem")?
///     .token("d3b07384…")
///     .request_timeout(Duration::from_secs(10))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    profile: Contents,
    config: ClientConfig,
    network: Option<Arc<dyn Network>>,
}

impl ClientBuilder {
    /// Takes everything that a profile says.
    #[must_use]
    pub fn profile(mut self, profile: impl Into<Profile>) -> Self {
        self.profile = profile.into().into();
        self
    }

    /// Sets the brokers to try first, each `host:port`; they tell of the others.
    #[must_use]
    pub fn brokers(mut self, brokers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.profile.brokers = brokers.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the authority that signs the brokers' certificates, as PEM text.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<String>) -> Self {
        self.profile.ca = pem.into();
        self
    }

    /// As [`ClientBuilder::ca`], from a file.
    pub fn ca_file(self, path: impl AsRef<Path>) -> Result<Self, ProfileError> {
        let pem = read_pem(path.as_ref())?;
        Ok(self.ca(pem))
    }

    /// Sets the token that is shown to brokers.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.profile.token = Some(token.into());
        self
    }

    /// Sets the client certificate that is shown to brokers, and its key, as PEM texts.
    #[must_use]
    pub fn certificate(mut self, cert: impl Into<String>, key: impl Into<String>) -> Self {
        self.profile.cert = Some(cert.into());
        self.profile.key = Some(key.into());
        self
    }

    /// As [`ClientBuilder::certificate`], from files.
    pub fn certificate_files(
        self,
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, ProfileError> {
        let cert = read_pem(cert.as_ref())?;
        let key = read_pem(key.as_ref())?;
        Ok(self.certificate(cert, key))
    }

    /// Sets how long a connection may take, TLS and authentication included. Default:
    /// [`CONNECT_TIMEOUT`](crate::config::CONNECT_TIMEOUT).
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Sets how long a request may take, connecting and repeating included. Default:
    /// [`REQUEST_TIMEOUT`](crate::config::REQUEST_TIMEOUT).
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Sets the first and the longest wait between attempts to connect. Defaults:
    /// [`RECONNECT_DELAY`](crate::config::RECONNECT_DELAY) and
    /// [`RECONNECT_DELAY_MAX`](crate::config::RECONNECT_DELAY_MAX).
    #[must_use]
    pub fn reconnect_delay(mut self, first: Duration, max: Duration) -> Self {
        self.config.reconnect.first = first;
        self.config.reconnect.max = max.max(first);
        self
    }

    /// Sets how often producers and consumers look for new partitions of their topics.
    /// Default: [`METADATA_REFRESH`](crate::config::METADATA_REFRESH).
    #[must_use]
    pub fn metadata_refresh(mut self, interval: Duration) -> Self {
        self.config.metadata_refresh = interval.max(Duration::from_millis(10));
        self
    }

    /// Takes sockets from another network than the system's: for simulations.
    #[doc(hidden)]
    #[must_use]
    pub fn network(mut self, network: Arc<dyn Network>) -> Self {
        self.network = Some(network);
        self
    }

    /// Connects to the first broker that answers.
    ///
    /// # Errors
    /// The failure of the last broker that was tried, when none can be reached.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let Self {
            profile,
            config,
            network,
        } = self;
        if profile.brokers.is_empty() {
            return Err(ConnectError::NoBrokers);
        }
        let dialer = Dialer {
            config,
            tls: client_tls(&profile)?,
            token: profile.token,
            network: network.unwrap_or_else(|| Arc::new(Udp)),
            endpoints: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        let client = Client {
            inner: Arc::new(Inner {
                dialer: Arc::new(dialer),
                seeds: profile.brokers,
                brokers: Mutex::default(),
                cluster: Mutex::default(),
                shards: Mutex::default(),
                batch_bytes_max: AtomicUsize::new(BATCH_BYTES_MAX),
                deliveries: Deliveries::default(),
            }),
        };
        let mut last = ConnectError::NoBrokers;
        for address in client.inner.seeds.clone() {
            let broker = client.broker_at(&address);
            match broker.connection().await {
                Ok(_) => return client.learn_brokers(broker.address()).await,
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Client {
    /// Shows that the broker really answers and accepts the credential.
    async fn learn_brokers(self, address: &str) -> Result<Self, ConnectError> {
        match self.metadata(Vec::new()).await {
            Ok(_) => Ok(self),
            Err(RequestError::Connect(error)) => Err(error),
            Err(RequestError::Refused {
                code: ErrorCode::Unauthenticated,
                text,
                ..
            }) => {
                let address = address.to_owned();
                Err(ConnectError::Unauthenticated { address, text })
            }
            Err(error) => Err(ConnectError::Unreachable {
                address: address.to_owned(),
                text: error.to_string(),
            }),
        }
    }
}

fn client_tls(profile: &Contents) -> Result<quinn::ClientConfig, ConnectError> {
    let identity = match (&profile.cert, &profile.key) {
        (Some(cert_pem), Some(key_pem)) => Some(Identity { cert_pem, key_pem }),
        (None, None) => None,
        _ => {
            let text = "a client certificate and its key belong together".to_owned();
            return Err(ConnectError::Tls { text });
        }
    };
    let crypto = tls::client_config(&profile.ca, identity, ALPN_CLIENT).map_err(|error| {
        ConnectError::Tls {
            text: error.to_string(),
        }
    })?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(tuning::transport_config(STREAMS_FROM_BROKER_MAX));
    Ok(config)
}

fn read_pem(path: &Path) -> Result<String, ProfileError> {
    std::fs::read_to_string(path).map_err(|source| ProfileError::Read {
        path: path.to_owned(),
        source,
    })
}
