//! Opens the rooms of a broker, in order.

mod error;
mod file_limit;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use flumen_transport::endpoint::Network;
use tokio::sync::watch;

pub use self::error::StartError;
pub(super) use self::file_limit::raise_file_limit;
use super::{Node, health, members::Enrolments};
use crate::{
    cluster::Reports,
    config::BrokerConfig,
    disk::{Disk, read_file, write_file_atomically},
    environment::Environment,
    identity::{Identity, Membership},
    log::{LogStore, LogStoreOptions},
    metrics::Metrics,
    peer::{PeerNetwork, PeerService, Peers},
    plugin::PluginEngine,
    plugins::Plugins,
    server::{self, Server, ServerLimits},
    shard::raft::Pace,
    shards::{Cluster, Services, Shards, ShardsOptions, ShardsParts},
    topics::Topics,
    wal::{Wal, WalObserver, WalOptions},
};

/// Takes the address, and serves other brokers from now on.
pub(super) fn listen(
    config: &BrokerConfig,
    network: &dyn Network,
    identity: &Identity,
    metrics: &Metrics,
) -> Result<Server, StartError> {
    let limits = ServerLimits {
        connections_max: config.limits.connections_max as usize,
        streams_per_connection_max: config.limits.streams_per_connection_max,
        batch_bytes_max: config.limits.batch_bytes_max.as_u64() as usize,
        inflight_bytes_max: config.limits.inflight_bytes_max.as_u64(),
        inflight_bytes_per_connection_max: config.limits.inflight_bytes_per_connection_max.as_u64(),
        authentication_timeout: config.limits.authentication_timeout.into(),
    };
    let address = config.listen;
    let failed = |source| StartError::Listen { address, source };
    let secret = identity.restart_secret();
    let endpoint = server::bind(network, address, identity.server_tls()?, &limits, secret);
    let endpoint = endpoint.map_err(failed)?;
    let credentials = identity.peer_credentials();
    let peers = Peers::new(identity.broker_id(), endpoint.clone(), credentials);
    Server::start(endpoint, limits, metrics.server.clone(), peers).map_err(failed)
}

impl Node {
    /// Opens all rooms of a broker but its server, which takes part in nothing yet.
    pub(super) async fn open(
        config: &BrokerConfig,
        environment: &Environment,
        identity: Identity,
        metrics: Metrics,
        started: Instant,
        peers: Peers,
    ) -> Result<Self, StartError> {
        let dir = identity.data_dir().to_owned();
        let disk = Arc::clone(&environment.disk);
        let wal_options = WalOptions {
            dir: dir.join("wal"),
            segment_bytes: config.wal.segment_bytes.as_u64(),
            bytes_max: config.wal.bytes_max.as_u64(),
            sync: config.wal.sync,
        };
        let wal_sync = config.wal.sync.to_string();
        let log_options = LogStoreOptions {
            tail_bytes_max: config.memory.tail_bytes_max.as_u64(),
            ..LogStoreOptions::default()
        };
        let opened = {
            let (disk, dir) = (Arc::clone(&disk), dir.clone());
            let observer = Arc::new(metrics.wal.clone());
            blocking(move || {
                let wal = open_wal(&disk, &dir, wal_options, observer)?;
                let dir = dir.join("log");
                let logs = LogStore::open(disk, &dir, log_options)
                    .map_err(|source| StartError::Log { dir, source })?;
                Ok::<_, StartError>((wal, logs))
            })
        };
        let (wal, logs) = opened.await?;
        let shard_options = ShardsOptions {
            broker_id: identity.broker_id().0,
            shard_count: config.shards.get(),
            checkpoint_interval: environment.upkeep_interval,
            retention_interval: environment.upkeep_interval,
            checkpoints: metrics.storage.checkpoints.clone(),
            ..ShardsOptions::new(dir.join("shards"))
        };
        let pace = Pace::new(config.replication.catch_up_rate.as_u64());
        let services = Services::counted(metrics.cluster.transfers.clone(), pace.clone());
        let reports = Reports::default();
        let replicas = services.replicas.clone();
        peers.serve(PeerService::Propose, Arc::new(replicas.proposals()));
        peers.serve(PeerService::Raft, Arc::new(replicas));
        peers.serve(PeerService::Records, Arc::new(services.records.clone()));
        peers.serve(PeerService::Status, Arc::new(reports.clone()));
        let network: Arc<dyn PeerNetwork> = Arc::new(peers.clone());
        let parts = ShardsParts {
            disk,
            wal: wal.clone(),
            logs: logs.clone(),
            cluster: Cluster {
                network: Arc::clone(&network),
                services,
                pace,
                founding: *identity.membership() == Membership::Bootstrap,
            },
        };
        let shards = Shards::open(shard_options, parts).await?;
        let on_shards = OnShards::open(&shards, &dir, &peers, &metrics).await;
        let OnShards { topics, plugins } = match on_shards {
            Ok(opened) => opened,
            Err(error) => {
                shards.shutdown().await;
                return Err(error);
            }
        };
        Ok(Self {
            network,
            peers,
            reports,
            steward: parking_lot::Mutex::new(None),
            cut_offs: watch::Sender::default(),
            background: parking_lot::Mutex::default(),
            identity,
            topics,
            plugins,
            metrics,
            address: parking_lot::RwLock::new(String::new()),
            zone: config.zone.as_ref().map(ToString::to_string),
            enrolments: Enrolments::default(),
            started,
            shown: health::Shown::default(),
            wal,
            wal_sync,
            batch_bytes_max: config.limits.batch_bytes_max.as_u64() as u32,
            logs,
            catalog: shards.catalog().clone(),
            shards,
            filters: AtomicBool::new(false),
            registered: AtomicBool::new(false),
        })
    }
}

/// What stands on the shards.
struct OnShards {
    topics: Topics,
    plugins: Arc<Plugins>,
}

impl OnShards {
    async fn open(
        shards: &Shards,
        dir: &Path,
        peers: &Peers,
        metrics: &Metrics,
    ) -> Result<Self, StartError> {
        shards.ready().await?;
        let catalog = shards.catalog().clone();
        peers.serve(PeerService::Plugins, Arc::new(catalog.plugin_server()));
        let topics = Topics::new(catalog.clone(), shards.clone());
        // Where there are other brokers, whoever leads the catalog does so once it takes part: that
        // it is the only one with a vote, as one of two is, does not say that all shards are here.
        let view = catalog.group().view();
        if view.voters == BTreeSet::from([shards.broker()]) && view.learners.is_empty() {
            topics
                .reconcile(&mut BTreeSet::new())
                .await
                .map_err(StartError::Reconcile)?;
        }
        let engine = PluginEngine::new(&dir.join("plugins"))?;
        let plugins = Plugins::new(catalog.clone(), engine, metrics.plugin.clone());
        let plugins = Arc::new(plugins);
        plugins.load().await;
        Ok(Self { topics, plugins })
    }
}

/// A file that says that this data directory has a write-ahead log: should the log be gone, an
/// empty one in its place would make acknowledged records vanish without a word.
const WAL_MARK_FILE: &str = "wal.made";

fn open_wal(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: WalOptions,
    observer: Arc<dyn WalObserver>,
) -> Result<Wal, StartError> {
    let mark = dir.join(WAL_MARK_FILE);
    let marked = read_file(&**disk, &mark, 1).is_ok_and(|file| file.is_some());
    if marked && !Wal::exists(&**disk, &options.dir)? {
        let dir = options.dir;
        return Err(StartError::WalMissing { dir, mark });
    }
    let wal = Wal::open(Arc::clone(disk), options, observer)?;
    if !marked {
        write_file_atomically(&**disk, &mark, b"")
            .map_err(|source| StartError::Log { dir: mark, source })?;
    }
    Ok(wal)
}

/// Runs what blocks on a thread of its own; a panic there goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match crate::executor::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
