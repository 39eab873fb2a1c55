//! The settings of a broker: one struct, of which the configuration file, the flags of
//! `flumen serve`, the `FLUMEN_…` variables and the reference page are all made.
//!
//! Each setting is written down once, below: its documentation, type, default and range. The
//! `section!` macro makes of it a field, a row of [`settings`], a parser and a check, so that
//! none of them can forget it.
//!
//! ```
//! use flumen_broker::config::{BrokerConfig, Source};
//!
//! let mut config = BrokerConfig::from_toml("[wal]\nsync = \"every 100ms\"")?;
//! config.set("wal.bytes_max", "1GiB", Source::Flag)?;
//! config.validate()?;
//! assert_eq!(config.wal.sync.to_string(), "every 100ms");
//! # Ok::<(), flumen_broker::config::ConfigError>(())
//! ```

mod address;
mod reference;
mod section;
mod shard_count;
pub mod units;
mod value;

#[cfg(test)]
mod tests;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use flumen_protocol::{DEFAULT_PORT, limits, topic::Name};

pub use self::{
    address::{HostPort, HostPorts},
    reference::reference,
    section::{Setting, Source},
    shard_count::ShardCount,
    units::{ByteSize, Interval},
    value::LogFormat,
};
use self::{section::section, value::Value};
use crate::{
    shard::{BATCH_HEAD_BYTES_MAX, raft::CATCH_UP_RATE},
    wal::{SEGMENTS_MIN, SYNC_INTERVAL_MAX, SyncPolicy, WalOptions},
};

section! {
    /// Every setting of a broker.
    pub struct BrokerConfig("") {
        /// Where the broker keeps everything: records, certificates, plugins, `client.toml`.
        /// Best on a disk of its own. Only one broker can use it at a time.
        data_dir: PathBuf = PathBuf::from("flumen-data");
        /// The UDP address that clients connect to. Port 0 takes any free port.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT));
        /// The `host` or `host:port` that clients are told to connect to, when it differs from
        /// `listen`. The broker's certificate is made for this host.
        advertise: Option<HostPort> = None;
        /// Where the broker stands, such as a data centre or a rack: replicas are spread over
        /// zones, and consumers read from their own.
        zone: Option<Name> = None;
        /// Where other brokers of the cluster may be found, beside the addresses that the cluster
        /// knows: looked at whenever one of them cannot be reached. Needed when all brokers move to
        /// other addresses at once; may stay. Without a port, 4650.
        seed_brokers: Option<HostPorts> = None;
        /// The TCP address of `/metrics`, `/healthz` and `/readyz`, over plain HTTP and without
        /// a password: keep it off the public network. `none` switches it off.
        admin: Option<SocketAddr> = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT + 1)));
        /// How many Raft groups share the partitions. It counts when a cluster is made, and is not
        /// changed afterwards: a start that asks for another number goes on with what the cluster
        /// has, and warns. More shards spread the work over more cores; each costs about 100 KiB
        /// of memory.
        shards: ShardCount = ShardCount::unless_asked(16), in ShardCount::asked(1)..=ShardCount::asked(1024);
        /// How long a stopping broker waits for requests that are under way.
        shutdown_grace: Interval = Interval::from_secs(10), in Interval::ZERO..=Interval::from_secs(600);
        /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, also per module, such as
        /// `info,flumen_broker::wal=debug`.
        log: String = "info".to_owned();
        /// How log lines look: `text` for people, `json` for machines.
        log_format: LogFormat = LogFormat::Text;
    }
    sections {
        /// The write-ahead log.
        wal: WalConfig,
        /// Memory budgets.
        memory: MemoryConfig,
        /// What clients may use.
        limits: LimitsConfig,
        /// Copies on other brokers.
        replication: ReplicationConfig,
    }
}

section! {
    /// The write-ahead log: what makes an acknowledged record durable.
    pub struct WalConfig("wal") {
        /// When a record is acknowledged. `always`: after it has been synced to disk.
        /// `every <duration>`: after it has been written; it is synced on that interval, and a
        /// loss of power may take the records of the last one.
        sync: SyncPolicy = SyncPolicy::Always;
        /// The size of one file of the log. Files are filled ahead and used again. A batch must
        /// fit: for those of 16 MiB, the default of `limits.batch_bytes_max`, it is at least
        /// 43 MiB, for smaller ones eight thirds of their size.
        segment_bytes: ByteSize = ByteSize::mib(64), in ByteSize::mib(1)..=ByteSize::gib(1);
        /// The disk space that the log may take. A larger log makes checkpoints rarer and
        /// the restart after a crash longer. When it is full, producers wait. At least four
        /// times `wal.segment_bytes`.
        bytes_max: ByteSize = ByteSize::mib(512), in ByteSize::mib(4)..=ByteSize::gib(64);
    }
}

section! {
    /// Memory budgets. Each is an upper bound for the whole broker; unused budget costs nothing.
    pub struct MemoryConfig("memory") {
        /// Recent batches kept in memory, of all partitions together, so that consumers that
        /// keep up are served without touching the disk.
        tail_bytes_max: ByteSize = ByteSize::mib(64), in ByteSize::mib(1)..=ByteSize::gib(256);
    }
}

section! {
    /// What clients may use. A client that goes past a limit gets an error; the others are
    /// not disturbed.
    pub struct LimitsConfig("limits") {
        /// Client connections at the same time.
        connections_max: u32 = 10_000, in 1..=1_000_000;
        /// Streams that one connection may have open: one for each partition that it produces
        /// to, one for each consumer, one for each request under way. Consumers get seven eighths of
        /// them at most; partitions take turns where there are too few for all.
        streams_per_connection_max: u32 = 4_096, in 1..=100_000;
        /// Bytes of one batch as it travels. Clients learn of it and make their batches no larger;
        /// a single record that is larger is refused.
        batch_bytes_max: ByteSize = BATCH_BYTES_MAX, in BATCH_BYTES_LEAST..=BATCH_BYTES_MAX;
        /// Bytes of batches that all producers together may have sent and that are not yet
        /// acknowledged. Beyond it, the broker stops reading from producers until there is room.
        inflight_bytes_max: ByteSize = ByteSize::mib(256), in INFLIGHT_BYTES_MIN..=ByteSize::gib(64);
        /// The same for one connection, and with the plugins that it deploys: their bytes count until
        /// the request is answered. What is larger than all of it is taken when nothing else is under
        /// way.
        inflight_bytes_per_connection_max: ByteSize = ByteSize::mib(64), in BATCH_BYTES_LEAST..=ByteSize::gib(64);
        /// How long a new connection may take to show its credential.
        authentication_timeout: Interval = Interval::from_secs(10), in Interval::from_millis(100)..=Interval::from_secs(300);
    }
}

section! {
    /// Copies of records on other brokers.
    pub struct ReplicationConfig("replication") {
        /// Bytes a second that a broker sends to replicas that are behind, all together: those
        /// that were away, that are new, or whose files were damaged. A higher rate brings them
        /// back sooner, and makes producers and consumers wait longer meanwhile. What is produced
        /// while a replica keeps up does not count.
        catch_up_rate: ByteSize = ByteSize::new(CATCH_UP_RATE), in ByteSize::mib(1)..=ByteSize::gib(16);
    }
}

/// The largest batch of the protocol.
const BATCH_BYTES_MAX: ByteSize = ByteSize::new(limits::BATCH_BYTES_MAX as u64);

/// The lowest bound on batches: below it, a batch has too few records to be worth its syncs.
const BATCH_BYTES_LEAST: ByteSize = ByteSize::new(64 * 1024);

/// Sizes that are made up for people are rounded up to this.
const SEGMENT_BYTES_STEP: u64 = 1024 * 1024;

/// Room for at least one batch of the largest size and its neighbours.
const INFLIGHT_BYTES_MIN: ByteSize = ByteSize::new(4 * limits::BATCH_BYTES_MAX as u64);

/// The shortest interval between syncs; below it, `always` is both safer and as fast.
const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A setting or a configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("cannot read the configuration file {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is not TOML, or holds what is no setting.
    #[error("the configuration{of} cannot be used: {text}", of = of_file(path.as_deref()))]
    File {
        /// The file, if the text came from one.
        path: Option<PathBuf>,
        /// Line, column and what is wrong.
        text: String,
    },
    /// No setting of that name.
    #[error("there is no setting {0:?}; `flumen serve --help` lists them")]
    UnknownSetting(String),
    /// The value is not of the setting's type.
    #[error("{name}: {text}", name = place.name_of(key))]
    Invalid {
        /// The setting.
        key: &'static str,
        /// Where the value came from.
        place: Source,
        /// The value and what is expected.
        text: String,
    },
    /// The value is outside of the setting's range.
    #[error("{key} is {value}, but must be {expected}")]
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// The range, or the relation to another setting.
        expected: String,
    },
}

fn of_file(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| format!(" file {}", path.display()))
}

impl BrokerConfig {
    /// Reads a configuration file. Settings that it does not name keep their defaults; one
    /// that does not exist is an error.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(&text, Some(path))
    }

    /// Reads the text of a configuration file.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text, None)
    }

    fn parse(text: &str, path: Option<&Path>) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::File {
            path: path.map(Path::to_owned),
            text: error.to_string().trim_end().to_owned(),
        })
    }

    /// Sets one setting by its key, such as `wal.sync`, from text.
    pub fn set(&mut self, key: &str, text: &str, source: Source) -> Result<(), ConfigError> {
        if self.set_if_known(key, text, source)? {
            Ok(())
        } else {
            Err(ConfigError::UnknownSetting(key.to_owned()))
        }
    }

    /// Checks every setting against its range, and settings against each other.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_ranges()?;
        let segment_bytes_min = self.segment_bytes_min();
        if self.wal.segment_bytes < segment_bytes_min {
            return Err(ConfigError::OutOfRange {
                key: "wal.segment_bytes",
                value: self.wal.segment_bytes.to_string(),
                expected: format!(
                    "at least {segment_bytes_min}, so that a batch of limits.batch_bytes_max, \
                     which is {}, fits: raise the one or lower the other",
                    self.limits.batch_bytes_max
                ),
            });
        }
        let segments_bytes_min = self.wal.segment_bytes.as_u64() * SEGMENTS_MIN;
        if self.wal.bytes_max.as_u64() < segments_bytes_min {
            return Err(ConfigError::OutOfRange {
                key: "wal.bytes_max",
                value: self.wal.bytes_max.to_string(),
                expected: format!(
                    "at least {SEGMENTS_MIN} times wal.segment_bytes, which is {}",
                    ByteSize::new(segments_bytes_min)
                ),
            });
        }
        if let SyncPolicy::Every(interval) = self.wal.sync
            && !(SYNC_INTERVAL_MIN..=SYNC_INTERVAL_MAX).contains(&interval)
        {
            return Err(ConfigError::OutOfRange {
                key: "wal.sync",
                value: self.wal.sync.to_string(),
                expected: format!(
                    "always, or every {} to {}",
                    Interval::from(SYNC_INTERVAL_MIN),
                    Interval::from(SYNC_INTERVAL_MAX)
                ),
            });
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            return Err(ConfigError::OutOfRange {
                key: "advertise",
                value: "none".to_owned(),
                expected: format!(
                    "set when listen is {}: clients must be told an address that they can reach",
                    self.listen
                ),
            });
        }
        Ok(())
    }

    /// The smallest segment of the write-ahead log that takes every batch that clients may send.
    fn segment_bytes_min(&self) -> ByteSize {
        let entry_bytes = self.limits.batch_bytes_max.as_u64() + BATCH_HEAD_BYTES_MAX as u64;
        let segment_bytes = WalOptions::segment_bytes_for(entry_bytes);
        ByteSize::new(segment_bytes.next_multiple_of(SEGMENT_BYTES_STEP))
    }

    /// The `host:port` that clients are told, once the broker knows the port that it got.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        match &self.advertise {
            Some(address) => address.with_port(bound.port()),
            None => bound.to_string(),
        }
    }
}

/// Every setting, in the order of the reference page.
pub fn settings() -> Vec<Setting> {
    let mut all = Vec::new();
    BrokerConfig::default().describe(&mut all);
    all
}

/// The time of an interval that is also used as a plain duration.
impl From<Interval> for Duration {
    fn from(interval: Interval) -> Self {
        interval.duration()
    }
}
