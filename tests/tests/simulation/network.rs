//! The simulated network: datagrams between hosts, over links that delay, lose, duplicate, reorder
//! and cut.
//!
//! A link is one direction between two hosts, so that a partition may be one-way or partial. Hosts
//! may be far from each other, whatever their links are like.
//! Datagrams arrive at the beginning of a step of virtual time, never in the one in which they
//! were sent; those that come at the same time come in the order in which they were sent.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use flumen_transport::{
    endpoint,
    quinn::{AsyncUdpSocket, Endpoint, ServerConfig, udp::EcnCodepoint},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{socket::Socket, strays::EvenHanded, system, trace::Trace};

/// Datagrams that a socket keeps for its owner, as the kernel's buffer does.
const RECEIVE_DATAGRAMS_MAX: usize = 4096;

/// One direction between two hosts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Link {
    /// How long a datagram takes; different times reorder.
    pub(crate) latency: Range<Duration>,
    /// The share of datagrams that are lost.
    pub(crate) loss: f64,
    /// The share of datagrams that come twice.
    pub(crate) duplication: f64,
    /// Nothing comes through.
    pub(crate) cut: bool,
    /// Longer datagrams are lost.
    pub(crate) datagram_bytes_max: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1)..Duration::from_millis(2),
            loss: 0.0,
            duplication: 0.0,
            cut: false,
            datagram_bytes_max: 1472,
        }
    }
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) contents: Arc<[u8]>,
}

/// What has arrived for a socket.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) datagrams: VecDeque<Datagram>,
    pub(crate) waker: Option<Waker>,
}

struct State {
    rng: StdRng,
    /// The sockets that are bound, with the number of the binding.
    sockets: BTreeMap<SocketAddr, (u64, Inbox)>,
    bindings: u64,
    on_the_way: BTreeMap<(Duration, u64), Datagram>,
    sent: u64,
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    /// What a datagram takes longer in either direction than its link says.
    distances: BTreeMap<(IpAddr, IpAddr), Duration>,
    climate: Link,
    weather: Link,
    port_next: u16,
}

/// The network of a run. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Network {
    state: Arc<Mutex<State>>,
    trace: Trace,
}

impl Network {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            sockets: BTreeMap::new(),
            bindings: 0,
            on_the_way: BTreeMap::new(),
            sent: 0,
            links: BTreeMap::new(),
            distances: BTreeMap::new(),
            climate: Link::default(),
            weather: Link::default(),
            port_next: 50_000,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            trace,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as a host sees it.
    pub(crate) fn of(&self, host: IpAddr) -> Arc<dyn endpoint::Network> {
        Arc::new(HostNetwork(HostSockets {
            network: self.clone(),
            host,
        }))
    }

    /// Sets how far two hosts are from each other, for good.
    pub(crate) fn set_distance(&self, one: IpAddr, other: IpAddr, distance: Duration) {
        let mut state = self.lock();
        state.distances.insert((one, other), distance);
        state.distances.insert((other, one), distance);
    }

    /// Sets how the weather is usually.
    pub(crate) fn set_climate(&self, climate: Link) {
        let mut state = self.lock();
        state.weather.clone_from(&climate);
        state.climate = climate;
    }

    /// Sets how all links are that have no other state of their own.
    pub(crate) fn set_weather(&self, weather: Link) {
        self.lock().weather = weather;
    }

    /// Sets how a link is.
    pub(crate) fn set_link(&self, from: IpAddr, to: IpAddr, link: Link) {
        self.lock().links.insert((from, to), link);
    }

    /// Makes a link as the weather is.
    pub(crate) fn reset_link(&self, from: IpAddr, to: IpAddr) {
        self.lock().links.remove(&(from, to));
    }

    /// Makes the weather as it is usually.
    pub(crate) fn reset_weather(&self) {
        let mut state = self.lock();
        state.weather = state.climate.clone();
    }

    /// Makes all links as the weather is, and the weather as it is usually.
    pub(crate) fn heal(&self) {
        self.lock().links.clear();
        self.reset_weather();
    }

    /// Closes the sockets of a host that has died.
    pub(crate) fn close_all(&self, host: IpAddr) {
        self.lock()
            .sockets
            .retain(|address, _| address.ip() != host);
    }

    /// Hands out what has arrived by now.
    pub(crate) fn deliver(&self) {
        let now = system::now();
        let mut wakers = Vec::new();
        {
            let mut state = self.lock();
            while let Some(entry) = state.on_the_way.first_entry()
                && entry.key().0 <= now
            {
                let datagram = entry.remove();
                self.trace.add((1, datagram.from, datagram.to));
                let Some((_, inbox)) = state.sockets.get_mut(&datagram.to) else {
                    continue;
                };
                if inbox.datagrams.len() < RECEIVE_DATAGRAMS_MAX {
                    inbox.datagrams.push_back(datagram);
                }
                wakers.extend(inbox.waker.take());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Sends a datagram on its way, or loses it.
    pub(crate) fn send(&self, datagram: Datagram) {
        let mut state = self.lock();
        self.trace.add((0, datagram.from, datagram.to));
        let State {
            rng,
            links,
            distances,
            weather,
            on_the_way,
            sent,
            ..
        } = &mut *state;
        let direction = (datagram.from.ip(), datagram.to.ip());
        let link = links.get(&direction).unwrap_or(weather);
        if link.cut || datagram.contents.len() > link.datagram_bytes_max {
            return;
        }
        let distance = distances.get(&direction).copied().unwrap_or_default();
        let copies = 1 + u32::from(rng.random_bool(link.duplication));
        for _ in 0..copies {
            if rng.random_bool(link.loss) {
                continue;
            }
            let latency = distance + rng.random_range(link.latency.clone());
            *sent += 1;
            on_the_way.insert((system::now() + latency, *sent), datagram.clone());
        }
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut state = self.lock();
        let mut address = address;
        if address.port() == 0 {
            address.set_port(state.port_next);
            state.port_next += 1;
        }
        if state.sockets.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.bindings += 1;
        let binding = state.bindings;
        state.sockets.insert(address, (binding, Inbox::default()));
        Ok(Arc::new(Socket {
            network: self.clone(),
            address,
            binding,
        }))
    }

    /// Does something with what has arrived for a socket; `None` if it was closed.
    pub(crate) fn with_inbox<T>(
        &self,
        address: SocketAddr,
        binding: u64,
        work: impl FnOnce(&mut Inbox) -> T,
    ) -> Option<T> {
        let mut state = self.lock();
        let (current, inbox) = state.sockets.get_mut(&address)?;
        (*current == binding).then(|| work(inbox))
    }

    /// Closes a socket.
    pub(crate) fn close(&self, address: SocketAddr, binding: u64) {
        let mut state = self.lock();
        if state
            .sockets
            .get(&address)
            .is_some_and(|(current, _)| *current == binding)
        {
            state.sockets.remove(&address);
        }
    }
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

/// Binds sockets to the address of a host.
#[derive(Debug)]
struct HostSockets {
    network: Network,
    host: IpAddr,
}

/// The network of a host, whose servers refuse what they do not know in the same way in every run.
#[derive(Debug)]
struct HostNetwork(HostSockets);

impl endpoint::Network for HostSockets {
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.network
            .bind(SocketAddr::new(self.host, address.port()))
    }
}

impl endpoint::Network for HostNetwork {
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.0.bind(address)
    }

    fn server_with_secret(
        &self,
        listen: SocketAddr,
        mut config: ServerConfig,
        secret: &[u8],
    ) -> io::Result<Endpoint> {
        config.crypto = Arc::new(EvenHanded(config.crypto));
        self.0.server_with_secret(listen, config, secret)
    }
}
