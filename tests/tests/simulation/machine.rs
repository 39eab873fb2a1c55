//! A broker on a simulated machine, which can be killed and started again.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use flumen_broker::{
    config::BrokerConfig,
    disk::{CrashKeep, SimulatedDisk},
    environment::Environment,
    node::Broker,
};
use flumen_protocol::join::JoinToken;
use tokio::sync::Notify;

use crate::{host::Host, network::Network, tls, trace::Trace};

/// The port of every broker.
const PORT: u16 = 4650;

/// Machines with brokers of a run.
const MACHINES_MAX: u8 = 10;

/// The zone of a machine by its number: each is one of its own, so that whoever reads from a zone
/// reads one copy.
pub(crate) fn zone(number: usize) -> String {
    format!("zone-{number}")
}

/// How it is with a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Its machine is off, or it has stopped.
    Down,
    Starting,
    Ready,
    /// It did not start, or cannot go on.
    Failed(String),
}

/// A machine with a broker.
pub(crate) struct Machine {
    pub(crate) host: Host,
    pub(crate) disk: SimulatedDisk,
    pub(crate) config: BrokerConfig,
    upkeep_interval: Duration,
    /// With what it joins the cluster; the first one makes it.
    pub(crate) token: Option<JoinToken>,
    /// Whether it should have a broker that serves.
    pub(crate) is_wanted: bool,
    number: u8,
    /// How often it was wiped.
    wiped: u8,
    health: Arc<Mutex<Health>>,
    stop: Arc<Notify>,
    network: Network,
    trace: Trace,
}

impl Machine {
    /// A machine with an empty disk, that is off. The first one makes the cluster.
    pub(crate) fn new(
        number: u8,
        config: BrokerConfig,
        upkeep_interval: Duration,
        network: Network,
        trace: Trace,
    ) -> Self {
        let address: IpAddr = [10, 0, 0, number].into();
        let mut machine = Self {
            host: Host::new(format!("broker {number}"), address),
            disk: SimulatedDisk::new(),
            config: BrokerConfig {
                listen: SocketAddr::new(address, PORT),
                admin: None,
                zone: zone(number.into()).parse().ok(),
                ..config
            },
            upkeep_interval,
            token: None,
            is_wanted: true,
            number,
            wiped: 0,
            health: Arc::new(Mutex::new(Health::Down)),
            stop: Arc::default(),
            network,
            trace,
        };
        machine.make_keys();
        machine
    }

    /// Gives a new broker a place of its own, with keys.
    fn make_keys(&mut self) {
        let data_dir = PathBuf::from(format!("broker-{}.{}", self.number, self.wiped));
        let key = self.wiped * MACHINES_MAX + self.number;
        tls::write_keys(&data_dir, key, key == 1);
        self.config.data_dir = data_dir;
    }

    /// Makes the disk of a machine that is off empty.
    pub(crate) fn wipe(&mut self) {
        self.trace.say(format!("{} is wiped", self.host.name));
        self.wiped += 1;
        self.disk = SimulatedDisk::new();
        self.token = None;
        self.is_wanted = false;
        self.make_keys();
    }

    /// Where clients find the broker.
    pub(crate) fn broker_address(&self) -> String {
        self.config.listen.to_string()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.health() == Health::Ready && !self.disk.is_down()
    }

    pub(crate) fn health(&self) -> Health {
        lock(&self.health).clone()
    }

    /// Starts the broker.
    pub(crate) fn start(&mut self) {
        self.trace.say(format!("{} starts", self.host.name));
        let environment = Environment {
            disk: Arc::new(self.disk.clone()),
            network: self.network.of(self.host.address),
            upkeep_interval: self.upkeep_interval,
        };
        self.health = Arc::new(Mutex::new(Health::Starting));
        self.stop = Arc::default();
        let (health, stop) = (Arc::clone(&self.health), Arc::clone(&self.stop));
        let (trace, name) = (self.trace.clone(), self.host.name.clone());
        let (config, token) = (self.config.clone(), self.token.clone());
        self.host.spawn(async move {
            let started = match &token {
                Some(token) => Broker::join_with(config, token, environment).await,
                None => Broker::start_with(config, environment).await,
            };
            let next = match started {
                Ok(broker) => {
                    trace.say(format!("{name} is ready"));
                    *lock(&health) = Health::Ready;
                    tokio::select! {
                        biased;
                        reason = broker.failed() => Health::Failed(reason),
                        () = stop.notified() => {
                            broker.stop().await;
                            Health::Down
                        }
                    }
                }
                Err(error) => Health::Failed(format!("it does not start: {error}")),
            };
            trace.say(format!("{name}: {next:?}"));
            *lock(&health) = next;
        });
    }

    /// Has the broker stop in order.
    pub(crate) fn stop(&self) {
        self.trace
            .say(format!("{} is told to stop", self.host.name));
        self.stop.notify_one();
    }

    /// Ends the process, or the power, in the middle of whatever it does.
    pub(crate) fn kill(&mut self, keep: CrashKeep) {
        self.trace
            .say(format!("{} is killed, {keep:?} is kept", self.host.name));
        self.disk = self.disk.crash(keep);
        self.network.close_all(self.host.address);
        self.host.turn_off();
        *lock(&self.health) = Health::Down;
    }

    /// The file with which clients get in.
    pub(crate) fn profile(&self) -> PathBuf {
        Path::new(&self.config.data_dir).join("client.toml")
    }
}

fn lock(health: &Mutex<Health>) -> std::sync::MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}
