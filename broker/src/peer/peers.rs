//! The door of the room: the QUIC network of a broker's peers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flumen_protocol::ids::BrokerId;
use flumen_transport::{
    quinn::{Connection, Endpoint, VarInt},
    stream::{FrameReader, FrameWriter, Payload},
};
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use super::{
    CALL_BYTES_MAX, PeerError, PeerHandler, PeerNetwork, PeerService, PeerStream, accept,
    dial::Dialer,
    link::Link,
    refusal::{Refusal, Refusals},
    stream::{MESSAGE_LIMITS, stream},
    wire::{CLOSE_REPLACED, CLOSE_STOPPING, PeerOpen, reason_of},
};
use crate::identity::PeerCredentials;

/// The other brokers over QUIC: dials those that are asked for something, and serves those that
/// come. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(super) shared: Arc<Shared>,
}

/// What all connections share.
pub(super) struct Shared {
    broker: BrokerId,
    pub(super) dialer: Arc<Dialer>,
    handlers: RwLock<HashMap<PeerService, Arc<dyn PeerHandler>>>,
    /// The way to every other member.
    links: RwLock<HashMap<BrokerId, Arc<Link>>>,
    /// Connections that others have made, the last of each broker.
    incoming: Mutex<HashMap<BrokerId, Connection>>,
    removed: RwLock<BTreeSet<BrokerId>>,
    /// Whether there may be members that were not named yet.
    starting: AtomicBool,
    pub(super) refusals: Refusals,
    /// Somebody came who is neither a member nor removed.
    stranger: Notify,
    /// Brokers of the cluster that no member's name leads to, by the seed address at which each was
    /// found last.
    found: watch::Sender<BTreeMap<String, BrokerId>>,
    serving: TaskTracker,
}

impl Peers {
    /// The network of `broker` on an endpoint, whose accepting side hands connections to
    /// [`Peers::accepted`]. There are no members yet, and no handlers.
    pub(crate) fn new(broker: BrokerId, endpoint: Endpoint, credentials: PeerCredentials) -> Self {
        Self {
            shared: Arc::new(Shared {
                broker,
                dialer: Arc::new(Dialer::new(endpoint, credentials)),
                handlers: RwLock::default(),
                links: RwLock::default(),
                incoming: Mutex::default(),
                removed: RwLock::default(),
                starting: AtomicBool::new(false),
                refusals: Refusals::default(),
                stranger: Notify::new(),
                found: watch::Sender::default(),
                serving: TaskTracker::new(),
            }),
        }
    }

    /// Sets who serves what others ask for, once. Until then they are told that it is not ready.
    pub(crate) fn serve(&self, service: PeerService, handler: Arc<dyn PeerHandler>) {
        let earlier = self.shared.handlers.write().insert(service, handler);
        if earlier.is_some() {
            tracing::error!(?service, "a handler was replaced by a second one");
        }
    }

    /// Whether there may be members that [`Peers::set_members`] was not told of yet: strangers hear
    /// that they should come again.
    pub(crate) fn set_starting(&self, starting: bool) {
        self.shared.starting.store(starting, Ordering::Relaxed);
    }

    /// The brokers that were removed from the cluster for good: they are told so when they come, and
    /// when they are no members any more.
    pub(crate) fn set_removed(&self, removed: BTreeSet<BrokerId>) {
        *self.shared.removed.write() = removed;
    }

    /// Waits until another broker says that this one was removed from the cluster, and tells which
    /// one it was; for ever if none does.
    pub(crate) fn removed(&self) -> impl Future<Output = BrokerId> + Send + use<> {
        self.shared.dialer.removed()
    }

    /// Waits until a broker of the cluster has come that is neither a member nor removed, by what
    /// this one was told.
    pub(crate) async fn stranger(&self) {
        self.shared.stranger.notified().await;
    }

    /// The brokers of the cluster and their addresses, `host:port`. Connections to and from others
    /// are closed; this broker itself may be among them.
    pub(crate) fn set_members(&self, members: Vec<(BrokerId, String)>) {
        let shared = &self.shared;
        if shared.serving.is_closed() {
            return;
        }
        let mut links = shared.links.write();
        let mut before = std::mem::take(&mut *links);
        for (broker, address) in members {
            if broker == shared.broker {
                continue;
            }
            let link = match before.remove(&broker) {
                Some(link) => {
                    link.set_address(&address);
                    link
                }
                None => Link::new(broker, address, Arc::clone(&shared.dialer)),
            };
            links.insert(broker, link);
        }
        for (broker, link) in &before {
            let Refusal { code, reason } = shared.refusal_of(*broker);
            link.close(code, &reason);
        }
        shared.incoming.lock().retain(|broker, connection| {
            let is_member = links.contains_key(broker);
            if !is_member {
                let Refusal { code, reason } = shared.refusal_of(*broker);
                connection.close(VarInt::from_u32(code), reason.as_bytes());
            }
            is_member
        });
    }

    /// Serves a connection that another broker has made, in a task of its own, if its certificate
    /// names a member.
    pub(crate) fn accepted(&self, connection: Connection) {
        let serving = &self.shared.serving;
        if serving.is_closed() {
            return connection.close(VarInt::from_u32(CLOSE_STOPPING), STOPPING);
        }
        serving.spawn(accept::serve(connection, Arc::clone(&self.shared)));
    }

    /// Makes connections to the members that there are none to, and waits until each was tried. Who
    /// refuses this broker says so, even if nobody has anything to ask.
    pub(crate) async fn knock(&self) {
        let links: Vec<_> = self.shared.links.read().values().cloned().collect();
        let tried = links.iter().map(|link| link.outgoing());
        futures_util::future::join_all(tried).await;
    }

    /// Looks for members at `addresses`, beside those that they are known by, whenever one of them
    /// cannot be reached: all may have moved at the same time, or been replaced by others, which
    /// [`Peers::found`] tells of. Goes on for ever.
    pub(crate) async fn look_for_members(self, addresses: Vec<String>) {
        loop {
            for address in &addresses {
                if self.misses_somebody() && !self.reaches(address) {
                    self.look_at(address).await;
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn misses_somebody(&self) -> bool {
        let links = self.shared.links.read();
        links.values().any(|link| link.round_trip().is_none())
    }

    /// Whether it is known who is at an address, and that broker is connected.
    pub(super) fn reaches(&self, address: &str) -> bool {
        let links = self.shared.links.read();
        links.values().any(|link| link.is_up_at(address))
    }

    async fn look_at(&self, address: &str) {
        let broker = match self.shared.dialer.who_is_at(address).await {
            Ok(broker) => broker,
            Err(reason) => return tracing::debug!(reason, "nobody was found at a seed address"),
        };
        let link = self.shared.links.read().get(&broker).map(Arc::clone);
        match link {
            Some(link) if link.round_trip().is_none() => {
                tracing::debug!(%broker, address, "found at a seed address");
                link.seen_at(address);
            }
            Some(_) => {}
            None => self.note_found(broker, address),
        }
    }

    /// A broker of the cluster is at a seed address, and none of those that are known.
    fn note_found(&self, broker: BrokerId, address: &str) {
        if broker == self.shared.broker || self.shared.removed.read().contains(&broker) {
            return;
        }
        self.shared.found.send_if_modified(|found| {
            let before = found.insert(address.to_owned(), broker);
            let is_new = before != Some(broker);
            if is_new {
                tracing::info!(%broker, address, "a broker that was not known is at a seed address");
            }
            is_new
        });
    }

    /// The brokers of the cluster that were found at seed addresses and are no members that were
    /// named, by address.
    pub(crate) fn found(&self) -> watch::Receiver<BTreeMap<String, BrokerId>> {
        self.shared.found.subscribe()
    }

    /// The other members and their addresses, if none of them is connected.
    pub(crate) fn all_out_of_reach(&self) -> Option<Vec<(BrokerId, String)>> {
        let links = self.shared.links.read();
        let is_alone = links.values().all(|link| link.round_trip().is_none());
        let named = links.iter().map(|(id, link)| (*id, link.address()));
        (is_alone && !links.is_empty()).then(|| named.collect())
    }

    /// Tries whether a broker is at `address`, beside the connection to it if there is one. Where
    /// there is none, it is dialed there next.
    pub(crate) async fn try_address(&self, broker: BrokerId, address: &str) -> Result<(), String> {
        self.shared.dialer.try_address(broker, address).await?;
        if let Ok(link) = self.link(broker)
            && link.round_trip().is_none()
        {
            link.seen_at(address);
        }
        Ok(())
    }

    /// The other members, and the time to each and back where there is a connection to it.
    pub(crate) fn round_trips(&self) -> Vec<(BrokerId, Option<Duration>)> {
        let links = self.shared.links.read();
        let links = links.iter();
        links.map(|(id, link)| (*id, link.round_trip())).collect()
    }

    /// The time to a broker and back, if there is a connection to it.
    pub(crate) fn round_trip(&self, broker: BrokerId) -> Option<Duration> {
        self.link(broker).ok()?.round_trip()
    }

    /// Closes all connections, and takes and makes no more.
    pub(crate) async fn shutdown(&self) {
        let shared = &self.shared;
        shared.serving.close();
        for link in shared.links.write().drain().map(|(_, link)| link) {
            link.close(CLOSE_STOPPING, "this broker stops");
        }
        for connection in shared.incoming.lock().drain().map(|(_, incoming)| incoming) {
            connection.close(VarInt::from_u32(CLOSE_STOPPING), STOPPING);
        }
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, shared.serving.wait())
            .await
            .is_err()
        {
            tracing::warn!("streams of other brokers did not end in time");
        }
        // They hold on to what reaches others by this network.
        shared.handlers.write().clear();
    }

    fn link(&self, to: BrokerId) -> Result<Arc<Link>, PeerError> {
        let link = self.shared.links.read().get(&to).map(Arc::clone);
        link.ok_or_else(|| {
            let reason = if to == self.shared.broker {
                "it is this broker itself"
            } else {
                "it is no member of the cluster"
            };
            PeerError::unreachable(to, reason)
        })
    }

    async fn open_stream(
        self,
        to: BrokerId,
        service: PeerService,
        head: Bytes,
    ) -> Result<PeerStream, PeerError> {
        if head.len() > CALL_BYTES_MAX {
            let reason = format!("a head of {} bytes is over the limit", head.len());
            return Err(PeerError::refused(to, reason));
        }
        let outgoing = self.link(to)?.outgoing().await?;
        let unreachable = |reason: String| PeerError::unreachable(to, reason);
        let (send, receive) = outgoing
            .connection
            .open_bi()
            .await
            .map_err(|error| unreachable(reason_of(&error)))?;
        let mut writer = FrameWriter::new(send);
        let open = PeerOpen::Stream(service);
        writer
            .send(&open, Payload::Bytes(&head))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let reader = FrameReader::new(receive, MESSAGE_LIMITS);
        Ok(stream(to, writer, reader))
    }
}

/// How often seed addresses are tried while a member cannot be reached.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long streams of other brokers may take to notice that their connection is closed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

const STOPPING: &[u8] = b"the broker is stopping";

impl Shared {
    pub(super) fn handler(&self, service: PeerService) -> Option<Arc<dyn PeerHandler>> {
        self.handlers.read().get(&service).map(Arc::clone)
    }

    /// Says why a broker is not let in, if so.
    pub(super) fn check_member(&self, broker: BrokerId) -> Result<BrokerId, Refusal> {
        self.check_among(&self.links.read(), broker)
    }

    fn check_among(
        &self,
        links: &HashMap<BrokerId, Arc<Link>>,
        broker: BrokerId,
    ) -> Result<BrokerId, Refusal> {
        if broker == self.broker {
            let reason = format!("it says that it is this broker itself, {broker}");
            return Err(Refusal::new(reason));
        }
        if !links.contains_key(&broker) {
            let refusal = self.refusal_of(broker);
            if refusal.is_of_stranger() {
                self.stranger.notify_one();
            }
            return Err(refusal);
        }
        Ok(broker)
    }

    /// Lets a broker in, in place of an earlier connection of it, or says why not.
    pub(super) fn admit(
        &self,
        broker: BrokerId,
        connection: &Connection,
    ) -> Result<BrokerId, Refusal> {
        // Held until the connection is among those that a change of the members looks at.
        let links = self.links.read();
        self.check_among(&links, broker)?;
        let earlier = self.incoming.lock().insert(broker, connection.clone());
        if let Some(earlier) = earlier {
            let code = VarInt::from_u32(CLOSE_REPLACED);
            earlier.close(code, b"the broker has come with another connection");
        }
        Ok(broker)
    }

    fn refusal_of(&self, broker: BrokerId) -> Refusal {
        if self.removed.read().contains(&broker) {
            Refusal::of_removed(broker)
        } else if self.starting.load(Ordering::Relaxed) {
            Refusal::while_starting()
        } else {
            Refusal::new(format!("broker {broker} is no member of the cluster"))
        }
    }

    /// The connection has ended.
    pub(super) fn forget(&self, broker: BrokerId, connection: &Connection) {
        let mut incoming = self.incoming.lock();
        let is_same = |known: &Connection| known.stable_id() == connection.stable_id();
        if incoming.get(&broker).is_some_and(is_same) {
            incoming.remove(&broker);
        }
    }
}

impl PeerNetwork for Peers {
    fn call(
        &self,
        to: BrokerId,
        service: PeerService,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let link = self.link(to);
        async move { link?.outgoing().await?.calls.call(service, request).await }.boxed()
    }

    fn open(
        &self,
        to: BrokerId,
        service: PeerService,
        head: Bytes,
    ) -> BoxFuture<'static, Result<PeerStream, PeerError>> {
        self.clone().open_stream(to, service, head).boxed()
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peers({})", self.shared.broker)
    }
}
