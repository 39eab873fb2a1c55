//! Puts the rooms of a broker together, and starts and stops them in order.
//!
//! ```text
//! start:  identity (locks the data directory) → peers, server (for peers) → disk → wal → log
//!         → shards, catalog → plugins → server (for clients), admin → client.toml
//! stop:   server (drains) → shards (checkpoint) → peers → server → wal → admin
//! ```
//!
//! ```no_run
//! use flumen_broker::{config::BrokerConfig, node::Broker};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = Broker::start(BrokerConfig::default()).await?;
//! println!("listening on {}", broker.local_addr());
//! broker.stop().await;
//! # Ok(())
//! # }
//! ```

mod answer;
mod cut_off;
mod health;
mod lead;
mod majority;
mod members;
mod open;
mod overview;
mod remote;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use flumen_protocol::{
    error::{ErrorCode, WireError},
    join::JoinToken,
    message::{BrokerStatus, Metadata, ShardStatus},
    topic::TopicName,
};
use tokio::{sync::watch, task::JoinSet};

pub(crate) use self::cut_off::CutOffs;
pub use self::open::StartError;
use self::{members::Enrolments, open::listen};
use crate::{
    admin::{Admin, AdminAddress, Health as _},
    catalog::{Catalog, ClusterId},
    cluster::{Reports, Steward},
    config::BrokerConfig,
    environment::Environment,
    identity::{Identity, IdentityError, Membership},
    join,
    log::LogStore,
    metrics::Metrics,
    peer::{PeerNetwork, Peers},
    plugins::Plugins,
    server::Server,
    shard::DataShard,
    shards::Shards,
    topics::Topics,
    wal::Wal,
};

/// A broker, running.
#[derive(Debug)]
pub struct Broker {
    node: Arc<Node>,
    server: Server,
    admin: Option<Admin>,
    profile: PathBuf,
    profile_changes: watch::Receiver<()>,
    shutdown_grace: std::time::Duration,
}

/// What the streams of a broker work with.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) topics: Topics,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) metrics: Metrics,
    address: parking_lot::RwLock<String>,
    zone: Option<String>,
    enrolments: Enrolments,
    started: Instant,
    shown: health::Shown,
    wal: Wal,
    wal_sync: String,
    batch_bytes_max: u32,
    logs: LogStore,
    shards: Shards,
    catalog: Catalog,
    /// Whether all plugins run that should have when the broker started.
    filters: AtomicBool,
    /// Whether the cluster knows where this broker is.
    registered: AtomicBool,
    /// The way to the other brokers.
    network: Arc<dyn PeerNetwork>,
    peers: Peers,
    /// What the other brokers told last.
    reports: Reports,
    /// Looks after this broker's part of the cluster from [`Node::take_part`] on.
    steward: parking_lot::Mutex<Option<Steward>>,
    /// Told when this broker is cut off from shards.
    cut_offs: watch::Sender<CutOffs>,
    /// What goes on for as long as the broker runs.
    background: parking_lot::Mutex<JoinSet<()>>,
}

/// What a broker has once it serves.
struct Begun {
    profile: PathBuf,
    profile_changes: watch::Receiver<()>,
    admin: Option<Admin>,
}

impl Broker {
    /// Starts a broker that is one of a cluster, and joins it with the token on its first start.
    /// Later the token is not used any more, unless it is of another cluster, which is an error.
    pub async fn join(config: BrokerConfig, token: &JoinToken) -> Result<Self, StartError> {
        Self::join_with(config, token, Environment::real()).await
    }

    /// As [`Broker::join`], on another machine than the real one.
    pub async fn join_with(
        mut config: BrokerConfig,
        token: &JoinToken,
        environment: Environment,
    ) -> Result<Self, StartError> {
        join::join(&mut config, token, &*environment.network).await?;
        Self::start_with(config, environment).await
    }

    /// Starts a broker that makes a cluster of its own; refuses a data directory that has joined
    /// another one.
    pub async fn bootstrap(config: BrokerConfig) -> Result<Self, StartError> {
        let dir = config.data_dir.clone();
        Self::start_as(config, Environment::real(), |membership| match membership {
            Membership::Bootstrap => Ok(()),
            Membership::Joined { cluster, .. } => Err(IdentityError::HasJoined {
                dir,
                cluster: ClusterId(*cluster).to_string(),
            }),
        })
        .await
    }

    /// Starts a broker: when this returns, it serves, and all that was acknowledged before can
    /// be read.
    pub async fn start(config: BrokerConfig) -> Result<Self, StartError> {
        Self::start_with(config, Environment::real()).await
    }

    /// As [`Broker::start`], on another machine than the real one.
    pub async fn start_with(
        config: BrokerConfig,
        environment: Environment,
    ) -> Result<Self, StartError> {
        Self::start_as(config, environment, |_| Ok(())).await
    }

    async fn start_as(
        config: BrokerConfig,
        environment: Environment,
        check: impl FnOnce(&Membership) -> Result<(), IdentityError>,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let started = Instant::now();
        open::raise_file_limit();
        let identity = Identity::load_or_create(&config)?;
        check(identity.membership())?;
        let metrics = Metrics::default();
        // Both addresses are taken before anything is begun that would have to be ended.
        let admin = match config.admin {
            Some(address) => Some(AdminAddress::take(address)?),
            None => None,
        };
        let server = listen(&config, &*environment.network, &identity, &metrics)?;
        members::introduce(server.peers(), identity.membership());
        let peers = server.peers().clone();
        let node = match Node::open(&config, &environment, identity, metrics, started, peers).await
        {
            Ok(node) => Arc::new(node),
            Err(error) => {
                server.close().await;
                return Err(error);
            }
        };
        let begun = match node.begin(&config, &server, admin).await {
            Ok(begun) => begun,
            Err(error) => {
                node.stop_taking_part().await;
                node.stop_background().await;
                node.shards.shutdown().await;
                server.close().await;
                return Err(error);
            }
        };
        let admin = begun.admin.as_ref().map(Admin::local_addr);
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            address = %server.local_addr(),
            admin = admin.map(tracing::field::display),
            data_dir = %config.data_dir.display(),
            elapsed = ?started.elapsed(),
            wal_sync = %node.wal_sync,
            "the broker is ready"
        );
        Ok(Self {
            node,
            server,
            admin: begun.admin,
            profile: begun.profile,
            profile_changes: begun.profile_changes,
            shutdown_grace: config.shutdown_grace.into(),
        })
    }

    #[cfg(test)]
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// The address that clients connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// The address of `/metrics`, `/healthz` and `/readyz`, if they are served.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::local_addr)
    }

    /// The profile for clients that the broker wrote.
    pub fn profile(&self) -> &std::path::Path {
        &self.profile
    }

    /// Told whenever that profile was written again, as the brokers of the cluster have changed.
    pub fn profile_changes(&self) -> watch::Receiver<()> {
        self.profile_changes.clone()
    }

    /// Waits for a failure after which the broker cannot go on, and says what it is. Nothing
    /// that was acknowledged is lost: a new start recovers it.
    pub async fn failed(&self) -> String {
        self.node.shards.failed().await
    }

    /// Finishes what is under way, makes all durable, and stops.
    pub async fn stop(self) {
        tracing::info!("the broker is stopping");
        // While others take over, clients are still told where to go.
        self.node.stop_taking_part().await;
        self.server.drain(self.shutdown_grace).await;
        self.node.stop_background().await;
        self.node.shards.shutdown().await;
        self.server.peers().shutdown().await;
        self.server.close().await;
        let wal = self.node.wal.clone();
        let closed = crate::executor::spawn_blocking(move || wal.shutdown()).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::error!("the write-ahead log was not closed cleanly; the next start recovers");
        }
        if let Some(admin) = self.admin {
            admin.stop().await;
        }
        tracing::info!("the broker has stopped");
    }
}

impl Node {
    /// Takes part in the cluster, and serves clients. What was begun before an error is for the
    /// caller to end.
    async fn begin(
        self: &Arc<Self>,
        config: &BrokerConfig,
        server: &Server,
        admin: Option<AdminAddress>,
    ) -> Result<Begun, StartError> {
        *self.address.write() = config.advertised(server.local_addr());
        self.look_for_members(config);
        self.take_part().await?;
        self.warn_of_other_shards(config.shards.asked_for());
        server.serve_clients(Arc::clone(self));
        let addresses = self.profile_addresses();
        let profile = self.identity.write_profile(&addresses)?;
        let (changed, profile_changes) = watch::channel(());
        let keep = members::keep_profile(Arc::downgrade(self), addresses, changed);
        self.in_background(keep);
        // Last, so that who sees it ready finds the profile, too.
        let admin = admin.map(|at| self.show(at)).transpose()?;
        Ok(Begun {
            profile,
            profile_changes,
            admin,
        })
    }

    /// Says so if the settings ask for another number of shards than there is.
    fn warn_of_other_shards(&self, asked_for: Option<u32>) {
        let there = self.catalog.snapshot().shard_count;
        if let Some(wanted) = asked_for.filter(|wanted| *wanted != there) {
            tracing::warn!(
                "this cluster has {there} shards, which stays so; the setting shards = {wanted} \
                 changes nothing: leave it out, or make a new cluster in another data directory"
            );
        }
    }

    #[cfg(test)]
    pub(crate) fn brokers(
        &self,
    ) -> std::collections::BTreeMap<
        flumen_protocol::ids::BrokerId,
        flumen_protocol::message::BrokerInfo,
    > {
        self.catalog.snapshot().brokers.clone()
    }

    fn show(self: &Arc<Self>, at: AdminAddress) -> Result<Admin, StartError> {
        // Elections are counted from now on.
        self.refresh(&self.metrics);
        let health = Arc::clone(self) as _;
        Ok(Admin::start(at, self.metrics.clone(), health)?)
    }

    /// Waits until records may be taken: whoever takes some must know of all plugins that were
    /// bound before it started, or it would let pass what they filter. Later on, changes wait
    /// until this broker has them in force.
    ///
    /// # Errors
    /// When the catalog's leader cannot be asked, or the plugins are still being made ready.
    pub(crate) async fn ready_for_records(&self) -> Result<(), WireError> {
        if self.filters.load(Ordering::Acquire) {
            return Ok(());
        }
        self.catalog.caught_up().await?;
        let version = self.catalog.snapshot().version;
        let in_step = self.plugins.in_step(version);
        let in_step = tokio::time::timeout(remote::FOLLOW_TIMEOUT, in_step).await;
        in_step.map_err(|_| {
            let text = "the plugins of this broker are still being made ready; try again";
            WireError::new(ErrorCode::Unavailable, text)
        })?;
        self.filters.store(true, Ordering::Release);
        Ok(())
    }

    /// Answers a client that asks where things are.
    pub(crate) async fn metadata(&self, names: &[TopicName]) -> Result<Metadata, WireError> {
        let mut topics = Vec::with_capacity(names.len());
        for name in names {
            topics.extend(self.topics.metadata(name).await?);
        }
        Ok(Metadata {
            version: self.catalog.snapshot().version,
            brokers: self.catalog.snapshot().brokers.values().cloned().collect(),
            shards: self.shards.located(),
            topics,
            batch_bytes_max: self.batch_bytes_max,
        })
    }

    /// A shard's state without a leader that is gone, or finds no majority.
    fn with_leader_heard(&self, mut shard: ShardStatus) -> ShardStatus {
        let leader = shard.leader;
        shard.leader = leader.filter(|leader| self.hears(shard.id, *leader));
        shard
    }

    /// The state of this broker.
    pub(crate) fn status(&self) -> BrokerStatus {
        let usage = self.wal.usage();
        let shards: Vec<_> = self
            .shards
            .all_data()
            .iter()
            .map(DataShard::status)
            .map(|shard| self.with_leader_heard(shard))
            .collect();
        BrokerStatus {
            id: self.identity.broker_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: self.address.read().clone(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            wal_sync: self.wal_sync.clone(),
            wal_bytes: usage.bytes,
            wal_bytes_max: usage.bytes_max,
            topics: self.catalog.snapshot().topics.len() as u64,
            partitions: shards.iter().map(|shard| shard.partitions).sum(),
            connections: self.metrics.server.connections.get() as u64,
            degraded: self.shards.degraded(),
            not_ready: self.not_ready(),
            catalog: self.with_leader_heard(self.catalog.status()),
            shards,
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}
