//! The client: where everything starts.

mod builder;
mod describe;
mod requests;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
};

use flumen_protocol::ids::BrokerId;
use flumen_transport::quinn;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

pub use self::builder::ClientBuilder;
use crate::{
    admin::Admin,
    cluster::Cluster,
    config::{CLOSE_TIMEOUT, ClientConfig},
    connection::{Broker, ConnectError, Dialer},
    consumer::ConsumerBuilder,
    producer::{Deliveries, ProducerBuilder},
    profile::Profile,
    search::Searchers,
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
    /// The brokers that were needed so far, by address.
    brokers: Mutex<HashMap<String, Arc<Broker>>>,
    cluster: Cluster,
    searchers: Arc<Searchers>,
    /// What the cluster said last of the largest batch.
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
    /// Close producers first: what they still hold is given up, and each message is told at once
    /// whether it may be stored ([`SendError::is_unknown`](crate::SendError::is_unknown)) or is not.
    /// Without this a broker notices that a process is gone only some seconds later.
    pub async fn close(&self) {
        self.inner.dialer.closed.send_replace(true);
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

    /// Where the cluster is found by now, for a profile to keep: of the addresses that the client
    /// was given those that are still a broker's, or that have answered; then the other brokers'.
    pub fn addresses(&self) -> Vec<String> {
        let members = self.cluster().addresses();
        if members.is_empty() {
            return self.inner.seeds.clone();
        }
        let is_good = |address: &&String| {
            members.contains(address) || self.broker_at(address).live().is_some()
        };
        let mut addresses: Vec<_> = self.inner.seeds.iter().filter(is_good).cloned().collect();
        for address in members {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.inner.dialer.config
    }

    pub(crate) fn deliveries(&self) -> &Deliveries {
        &self.inner.deliveries
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    pub(crate) fn searchers(&self) -> &Arc<Searchers> {
        &self.inner.searchers
    }

    /// Whether nothing connects any more.
    pub(crate) fn is_closed(&self) -> bool {
        *self.inner.dialer.closed.borrow()
    }

    /// Waits until the client is closed.
    pub(crate) async fn closed(&self) {
        let mut closed = self.inner.dialer.closed.subscribe();
        // The sender lives as long as the client.
        let _ = closed.wait_for(|is_closed| *is_closed).await;
    }

    /// The broker of that id, or any if there is no id or only one broker. A cluster of one
    /// is reached where it was found, whatever address it gives itself.
    pub(crate) fn broker(&self, id: Option<BrokerId>) -> Arc<Broker> {
        match id.and_then(|id| self.cluster().address(id)) {
            Some(address) => self.broker_at(&address),
            None => {
                let live = self.candidates().into_iter().find(|b| b.live().is_some());
                live.unwrap_or_else(|| self.broker_at(&self.inner.seeds[0]))
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

    /// Brokers that any request may go to: those that answer first, and the same ones first each
    /// time, because what one broker has just changed others may hear of a moment later.
    pub(crate) fn candidates(&self) -> Vec<Arc<Broker>> {
        let mut addresses = self.inner.seeds.clone();
        for address in self.cluster().addresses() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let mut brokers: Vec<_> = addresses.iter().map(|a| self.broker_at(a)).collect();
        brokers.sort_by_cached_key(|broker| (broker.live().is_none(), broker.is_silent()));
        brokers
    }
}
