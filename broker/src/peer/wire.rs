//! What brokers say to each other before rooms do: the first frame of every stream, and codes of
//! closes and resets.

use std::time::Duration;

use flumen_protocol::{ALPN_PEER, frame::FrameLimits};
use flumen_transport::{
    quinn::{self, ConnectionError, TransportErrorCode},
    stream::ReadError,
};
use serde::{Deserialize, Serialize};

use super::{CALL_BYTES_MAX, PeerService};

/// The first frame of a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum PeerOpen {
    /// Calls one way, replies the other way. The first stream of a connection.
    Calls(Hello),
    /// Messages of a room; the payload is the head.
    Stream(PeerService),
}

/// How a broker introduces itself, beyond what its certificate says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Its software version, for the other one's log.
    pub(super) version: String,
}

impl Hello {
    pub(super) fn ours() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What is taken as the first frame of a stream.
pub(super) const OPEN_LIMITS: FrameLimits = FrameLimits {
    header_bytes_max: 4 * 1024,
    payload_bytes_max: CALL_BYTES_MAX,
};

/// A stream whose first frame takes longer is reset.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection closes: the broker on the other side is not welcome; the reason says why.
pub(super) const CLOSE_REFUSED: u32 = 1;

/// The connection closes: the broker stops.
pub(super) const CLOSE_STOPPING: u32 = 2;

/// The connection closes: the same broker has come with a new one.
pub(super) const CLOSE_REPLACED: u32 = 3;

/// The connection closes: the other side broke the protocol; the reason says how.
pub(super) const CLOSE_VIOLATION: u32 = 4;

/// The connection closes: the broker on the other side was removed from the cluster, for good.
pub(super) const CLOSE_REMOVED: u32 = 5;

/// The connection closes: this broker has just started, and does not know who its peers are.
pub(super) const CLOSE_STARTING: u32 = 6;

/// Whether the other side says that this broker was removed from the cluster.
pub(super) fn says_removed(error: &ConnectionError) -> bool {
    let removed = u64::from(CLOSE_REMOVED);
    matches!(error, ConnectionError::ApplicationClosed(close)
        if close.error_code.into_inner() == removed)
}

/// The stream is abandoned.
pub(super) const RESET_DROPPED: u32 = 0;

/// The stream is for a room that does not serve yet.
pub(super) const RESET_NOT_READY: u32 = 1;

/// The stream's first frame is none.
pub(super) const RESET_VIOLATION: u32 = 2;

/// The alert of TLS by which a side refuses all protocols that it is offered (RFC 7301).
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Why a connection ended, as people read it.
pub(super) fn reason_of(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::crypto(ALERT_NO_APPLICATION_PROTOCOL) =>
        {
            let ours = String::from_utf8_lossy(ALPN_PEER);
            format!(
                "it speaks another version of the protocol between brokers than {ours}; run \
                 releases on both that have one in common"
            )
        }
        ConnectionError::TimedOut => "nothing was heard of it in time".to_owned(),
        ConnectionError::Reset => "it has restarted".to_owned(),
        ConnectionError::LocallyClosed => "the connection was closed".to_owned(),
        error => error.to_string(),
    }
}

/// Why nothing could be read, as people read it.
pub(super) fn read_reason(error: &ReadError) -> String {
    match error {
        ReadError::Broken(quinn::ReadError::ConnectionLost(error)) => reason_of(error),
        ReadError::Broken(quinn::ReadError::Reset(_)) => "it dropped the stream".to_owned(),
        error => error.to_string(),
    }
}
