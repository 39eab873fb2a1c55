//! The client: where everything starts.

mod builder;
mod describe;
mod requests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicUsize},
};

use flumen_protocol::ids::BrokerId;
use flumen_transport::quinn::Endpoint;
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

pub use self::builder::ClientBuilder;
use crate::{
    admin::Admin,
    cluster::Cluster,
    config::{CLOSE_TIMEOUT, ClientConfig},
    connection::{Broker, ConnectError, Dialer, split_address},
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
/// within a Tokio runtime, and its connections last as long as the one in which they were made:
/// tests with a runtime each, as `#[tokio::test]` gives them, need a client each.
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
    ///
    /// # Cancel safety
    /// A call that is dropped leaves nothing behind.
    pub async fn connect(profile: impl Into<Profile>) -> Result<Self, ConnectError> {
        Self::builder().profile(profile.into()).connect().await
    }

    /// Says where and how to connect, setting by setting.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Builds a producer of values of type `T` to a topic.
    ///
    /// Values travel as postcard unless [`ProducerBuilder::json`] is called, for types that change
    /// over time (see [`Format`](crate::Format)); `T` =
    /// [`Raw`](crate::Raw) or `Vec<u8>` sends bytes as they are.
    pub fn producer<T: Serialize + 'static>(&self, topic: impl Into<String>) -> ProducerBuilder<T> {
        ProducerBuilder::new(self.clone(), topic.into())
    }

    /// Builds a consumer of values of type `T` from a topic.
    ///
    /// Values are read as postcard unless [`ConsumerBuilder::json`] is called (see
    /// [`Format`](crate::Format)); `T` =
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
    /// Consumers hand out what they have received, and end with
    /// [`ConsumeError::Closed`](crate::ConsumeError::Closed).
    /// Close producers first: what they still hold is given up, and each message is told at once
    /// whether it may be stored ([`SendError::is_unknown`](crate::SendError::is_unknown)) or is not.
    /// Without this a broker notices that a process is gone only some seconds later.
    ///
    /// # Cancel safety
    /// The client is closed at the first poll. A call that is dropped only does not wait.
    pub async fn close(&self) {
        let dialer = &self.inner.dialer;
        dialer.closed.send_replace(true);
        let brokers: Vec<_> = self.inner.brokers.lock().values().cloned().collect();
        let closed = brokers.iter().filter_map(|broker| broker.close());
        // An endpoint also holds attempts that have led nowhere, such as to the other address of a
        // name, and these for seconds: one without a connection is not waited for.
        let families: HashSet<_> = closed.map(Dialer::family).collect();
        let endpoints = dialer.endpoints.lock().clone();
        let used = families
            .iter()
            .filter_map(|family| endpoints[*family].as_ref());
        let idle = join_all(used.map(Endpoint::wait_idle));
        // The brokers notice in any case, only later.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, idle).await;
    }

    /// Where the cluster is found by now, for a profile to keep: the addresses that the client was
    /// given, all of them, as they may be other names of the brokers or ways through tunnels; then
    /// those of the brokers that they do not name, up to 64 in all.
    pub fn addresses(&self) -> Vec<String> {
        with_members(self.inner.seeds.clone(), self.cluster().addresses())
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
        self.inner.dialer.until_closed().await;
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

/// So many addresses are enough to find a cluster.
const ADDRESSES_MAX: usize = 64;

/// No host has a longer name, with the port beside it.
const ADDRESS_BYTES_MAX: usize = 260;

/// The addresses with those of members that are not among them. What a broker says of the others is
/// taken with care: it stays in the profile, and a profile with one bad address leads nowhere.
fn with_members(mut addresses: Vec<String>, members: Vec<String>) -> Vec<String> {
    for address in members {
        let is_good = address.len() <= ADDRESS_BYTES_MAX
            && !address.contains(|c: char| c.is_whitespace() || c.is_control())
            && split_address(&address).is_some();
        if is_good && addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, time::Duration};

    use tokio::time::{Instant, timeout};

    use super::*;

    fn owned(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_no_address_that_leads_nowhere() {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        // Not every machine has both families.
        let silent = ["127.0.0.1:0", "[::1]:0"].map(UdpSocket::bind);
        let silent: Vec<_> = silent.into_iter().flatten().collect();
        let addresses = silent.iter().map(|socket| socket.local_addr().unwrap());
        let addresses = addresses.map(|address| address.to_string());
        let builder = Client::builder()
            .brokers(addresses)
            .ca(certificate.cert.pem());
        let client = builder.unconnected().unwrap();
        for broker in client.candidates() {
            let attempt = timeout(Duration::from_millis(100), broker.connection());
            assert!(attempt.await.is_err());
        }
        let started = Instant::now();
        client.close().await;
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[test]
    fn members_are_added_to_the_addresses_that_were_given_and_none_of_these_is_lost() {
        let given = ["tunnel:30001", "tunnel:30002", "a.example:4650"];
        let members = ["a.example:4650", "b.example:4650"];
        let all = with_members(owned(&given), owned(&members));
        let expected = [&given[..], &members[1..]].concat();
        assert_eq!(all, expected);
        assert_eq!(with_members(all, owned(&members)), expected);
        assert_eq!(with_members(owned(&given), Vec::new()), given);
    }

    #[test]
    fn what_members_are_said_to_be_neither_spoils_nor_swells_the_addresses() {
        let long = format!("{}:1", "a".repeat(300));
        let bad = ["", "nowhere", "a:", ":1", "a:b", "a b:1", "a\n:1", &long];
        assert_eq!(with_members(owned(&["a:1"]), owned(&bad)), ["a:1"]);
        let many: Vec<_> = (0..1000).map(|n| format!("host-{n}:1")).collect();
        let all = with_members(many.clone(), owned(&["a:1"]));
        assert_eq!(all, many);
        assert_eq!(with_members(owned(&["a:1"]), many).len(), ADDRESSES_MAX);
    }
}
