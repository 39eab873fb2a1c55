//! Time-outs and other settings of a client, with their defaults.

use std::time::Duration;

use crate::connection::backoff::BackoffOptions;

/// How long a connection may take, TLS and authentication included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may take, connecting and repeating included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request is repeated while a broker answers that it does not reach a majority. One
/// that fails is replaced within a second or two; beyond this somebody has to start others.
pub const NO_MAJORITY_PATIENCE: Duration = Duration::from_secs(10);

/// The wait after the first failed attempt to connect; it doubles with each further one, and
/// a random part of up to a half is taken off.
pub const RECONNECT_DELAY: Duration = Duration::from_millis(20);

/// The shortest wait that can be set: without any, a broker that is down would be asked as fast as the
/// machine can.
pub const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(1);

/// The longest wait between two attempts to connect.
pub const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);

/// How often producers and consumers look for new partitions of their topics.
pub const METADATA_REFRESH: Duration = Duration::from_secs(30);

/// How long [`Client::close`](crate::Client::close) waits for brokers to notice.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest time-out and the longest wait that can be set. More is as good as none, and moments
/// too far off cannot be told.
pub const TIMEOUT_MAX: Duration = Duration::from_hours(365 * 24);

/// How long one broker is waited for until another one is asked, too.
pub const HEDGE_DELAY: Duration = Duration::from_millis(200);

/// How long a client waits for the other addresses of a name when somebody at one of them has said no.
pub const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// How long a produce stream may wait for an answer until other brokers are asked who leads.
pub const LEADER_STALL: Duration = Duration::from_millis(200);

/// A connection that heard nothing for this long is silent: others are asked who leads what is
/// read from it. Keep-alive packets are answered several times within this.
pub const SILENCE: Duration = Duration::from_millis(600);

/// Streams that a broker may open to a client: none yet.
pub(crate) const STREAMS_FROM_BROKER_MAX: u32 = 0;

#[derive(Clone, Debug)]
pub(crate) struct ClientConfig {
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) reconnect: BackoffOptions,
    pub(crate) metadata_refresh: Duration,
    /// Where the client stands.
    pub(crate) zone: Option<String>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            reconnect: BackoffOptions {
                first: RECONNECT_DELAY,
                max: RECONNECT_DELAY_MAX,
            },
            metadata_refresh: METADATA_REFRESH,
            zone: None,
        }
    }
}
