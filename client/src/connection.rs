//! Connections to brokers: one each, made when needed and made again when lost.

pub(crate) mod backoff;
pub(crate) mod control;
mod race;
pub(crate) mod streams;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use flumen_protocol::{DEFAULT_PORT, close, error::WireError, message::Request};
use flumen_transport::{
    endpoint::Network,
    quinn::{self, Connection, Endpoint},
};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout_at},
};

use self::{
    backoff::Backoff,
    race::{Failed, race},
    streams::Streams,
};
use crate::config::{ANSWER_GRACE, ClientConfig, HEDGE_DELAY, SILENCE, TIMEOUT_MAX};

/// Why a broker cannot be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No broker is named.
    #[error("no broker to connect to: the profile names none")]
    NoBrokers,
    /// The client was closed.
    #[error("the client was closed; connect another one")]
    Closed,
    /// Certificates or keys cannot be used.
    #[error("cannot set up TLS: {text}")]
    Tls {
        /// Why.
        text: String,
    },
    /// The address is not `host:port`, or its host is not known.
    #[error("cannot find the address of broker {address}: {text}")]
    Address {
        /// The address.
        address: String,
        /// Why.
        text: String,
    },
    /// The token that is to be shown has nothing in it.
    #[error(
        "the token is empty: write one that the brokers accept, such as that in the client.toml of \
         a broker's data directory, or leave it away"
    )]
    EmptyToken,
    /// A time-out or a wait is longer than [`TIMEOUT_MAX`](crate::config::TIMEOUT_MAX).
    #[error("the {what} cannot be {set:?}: {TIMEOUT_MAX:?} is the most")]
    Timeout {
        /// Which.
        what: &'static str,
        /// What it was set to.
        set: Duration,
    },
    /// Nobody answers there, or not as a broker would.
    #[error(
        "cannot connect to broker {address}: {text}; is it running, and reached at that address?"
    )]
    Unreachable {
        /// The address.
        address: String,
        /// Why.
        text: String,
    },
    /// The broker answers, and takes no clients at the moment; it was asked again until the
    /// connect time-out.
    #[error("broker {address} takes no clients at the moment: {text}; try again later")]
    Refused {
        /// The address.
        address: String,
        /// Why.
        text: String,
    },
    /// Nothing was heard in time.
    #[error(
        "broker {address} did not answer within {after:?}: is it running, and is UDP let through?"
    )]
    TimedOut {
        /// The address.
        address: String,
        /// The connect time-out.
        after: Duration,
    },
    /// The broker does not accept the credential.
    #[error("broker {address} refuses the credential: {text}")]
    Unauthenticated {
        /// The address.
        address: String,
        /// The broker's words.
        text: String,
    },
}

/// The token that is shown to brokers. It stays out of logs.
#[derive(Clone)]
pub(crate) struct Token(pub(crate) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What every connection of a client shares.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) config: ClientConfig,
    pub(crate) tls: quinn::ClientConfig,
    pub(crate) token: Option<Token>,
    pub(crate) network: Arc<dyn Network>,
    /// One socket for each family of addresses, made when it is first needed.
    pub(crate) endpoints: Mutex<[Option<Endpoint>; 2]>,
    /// Set when the client is closed: nothing connects any more.
    pub(crate) closed: watch::Sender<bool>,
}

impl Dialer {
    /// The place of the socket for an address among the endpoints.
    pub(crate) fn family(address: SocketAddr) -> usize {
        usize::from(address.is_ipv6())
    }

    /// Waits until the client is closed.
    pub(crate) async fn until_closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives as long as this.
        let _ = closed.wait_for(|is_closed| *is_closed).await;
    }
}

/// What brokers hear when the client is closed.
const CLOSED: &[u8] = b"closed by the client";

/// A broker, by address, and the connection to it.
#[derive(Debug)]
pub(crate) struct Broker {
    address: String,
    dialer: Arc<Dialer>,
    current: Mutex<Option<Connection>>,
    /// Who wants a stream of it, and who has one to spare.
    pub(crate) streams: Streams,
    /// How many datagrams had come when this was last looked at, and since when it is so many.
    heard: Mutex<(u64, Instant)>,
    /// Held while connecting, so that many who need the broker make one connection.
    connecting: tokio::sync::Mutex<Retry>,
}

#[derive(Debug)]
struct Retry {
    backoff: Backoff,
    /// Nobody tries again before this.
    not_before: Option<Instant>,
}

impl Broker {
    pub(crate) fn new(address: String, dialer: Arc<Dialer>) -> Self {
        let backoff = Backoff::new(dialer.config.reconnect, rand::random());
        Self {
            address,
            dialer,
            current: Mutex::new(None),
            streams: Streams::default(),
            heard: Mutex::new((0, Instant::now())),
            connecting: tokio::sync::Mutex::new(Retry {
                backoff,
                not_before: None,
            }),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What went wrong, with the broker that it was about.
    pub(crate) fn explain(&self, text: &str) -> String {
        if text.contains(&self.address) {
            text.to_owned()
        } else {
            format!("broker {}: {text}", self.address)
        }
    }

    /// The connection, if there is one and it is not known to be dead.
    pub(crate) fn live(&self) -> Option<Connection> {
        let current = self.current.lock();
        let alive = |connection: &&Connection| connection.close_reason().is_none();
        current.as_ref().filter(alive).cloned()
    }

    /// Whether there is a connection that has heard nothing for [`SILENCE`]: the broker may be gone.
    /// Counted from the first look at it; those who depend on it look again and again.
    pub(crate) fn is_silent(&self) -> bool {
        let Some(connection) = self.live() else {
            return false;
        };
        let datagrams = connection.stats().udp_rx.datagrams;
        let now = Instant::now();
        let mut heard = self.heard.lock();
        if heard.0 != datagrams {
            *heard = (datagrams, now);
        }
        now - heard.1 >= SILENCE
    }

    /// The connection, made now if there is none. After failures an attempt waits for its
    /// turn first; a call makes one attempt.
    pub(crate) async fn connection(&self) -> Result<Connection, ConnectError> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let mut retry = self.connecting.lock().await;
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let connected = async {
            if let Some(not_before) = retry.not_before {
                sleep_until(not_before.into()).await;
            }
            self.connect().await
        };
        let connected = tokio::select! {
            biased;
            () = self.dialer.until_closed() => Err(ConnectError::Closed),
            connected = connected => connected,
        };
        match connected.and_then(|connection| self.keep(connection)) {
            Ok(connection) => {
                retry.backoff.reset();
                // A broker that accepts and at once closes is not asked without pause.
                retry.not_before = Some(Instant::now() + self.dialer.config.reconnect.first);
                Ok(connection)
            }
            Err(error) => {
                retry.not_before = Some(Instant::now() + retry.backoff.next_delay());
                tracing::debug!(broker = self.address, %error, "cannot connect");
                Err(error)
            }
        }
    }

    /// Keeps a connection, unless the client was closed while it was made.
    fn keep(&self, connection: Connection) -> Result<Connection, ConnectError> {
        let mut current = self.current.lock();
        // Whoever closes the client says so first and then looks for connections here.
        if *self.dialer.closed.borrow() {
            connection.close(quinn::VarInt::from_u32(0), CLOSED);
            return Err(ConnectError::Closed);
        }
        *self.heard.lock() = (0, Instant::now());
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Ends the connection, if there is one; says where it led if it was alive.
    pub(crate) fn close(&self) -> Option<SocketAddr> {
        let connection = self.live()?;
        connection.close(quinn::VarInt::from_u32(0), CLOSED);
        Some(connection.remote_address())
    }

    /// Connects within the connect time-out. A broker that takes no clients may be about to be
    /// followed by another one on its address, so it is asked again, as one that is down.
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let config = &self.dialer.config;
        let after = config.connect_timeout;
        let deadline = Instant::now() + after;
        let mut backoff = Backoff::new(config.reconnect, rand::random());
        let mut last = ConnectError::TimedOut {
            address: self.address.clone(),
            after,
        };
        loop {
            match timeout_at(deadline.into(), self.connect_and_authenticate()).await {
                Ok(Err(refused @ ConnectError::Refused { .. })) => last = refused,
                Ok(result) => return result,
                Err(_) => return Err(last),
            }
            let again = Instant::now() + backoff.next_delay();
            if again >= deadline {
                return Err(last);
            }
            sleep_until(again.into()).await;
        }
    }

    async fn connect_and_authenticate(&self) -> Result<Connection, ConnectError> {
        let connection = self.dial().await?;
        if let Some(Token(token)) = self.dialer.token.clone() {
            let request = Request::Authenticate { token };
            let reply = control::exchange(&self.streams, &connection, request, None).await;
            match reply {
                Ok(Ok(_)) => {}
                Ok(Err(WireError { text, .. })) => {
                    return Err(ConnectError::Unauthenticated {
                        address: self.address.clone(),
                        text,
                    });
                }
                Err(broken) => {
                    let reason = connection.close_reason();
                    return Err(reason
                        .and_then(|reason| self.refused(&reason))
                        .unwrap_or_else(|| self.unreachable(broken)));
                }
            }
        }
        tracing::debug!(broker = self.address, "connected");
        Ok(connection)
    }

    async fn dial(&self) -> Result<Connection, ConnectError> {
        let host = self.host()?;
        let addresses: Vec<_> = tokio::net::lookup_host(&self.address)
            .await
            .map_err(|error| self.bad_address(error))?
            .collect();
        let attempts = addresses
            .into_iter()
            .map(|address| self.dial_address(address, host));
        match race(attempts, HEDGE_DELAY, ANSWER_GRACE).await {
            Ok(connection) => Ok(connection),
            Err(Some(error)) => Err(error),
            Err(None) => Err(self.bad_address("it has no address")),
        }
    }

    async fn dial_address(&self, address: SocketAddr, host: &str) -> Result<Connection, Failed> {
        let not_tried = |error: &dyn ToString| Failed {
            error: self.unreachable(error.to_string()),
            is_answer: false,
        };
        let connecting = self
            .endpoint_for(address)
            .map_err(|error| not_tried(&error))?
            .connect_with(self.dialer.tls.clone(), address, host)
            .map_err(|error| not_tried(&error))?;
        connecting.await.map_err(|error| Failed {
            is_answer: !matches!(error, quinn::ConnectionError::TimedOut),
            error: self
                .refused(&error)
                .unwrap_or_else(|| self.unreachable(explain(&error))),
        })
    }

    fn host(&self) -> Result<&str, ConnectError> {
        match split_address(&self.address) {
            Some((host, _)) => Ok(host),
            None => Err(bad_address(&self.address)),
        }
    }

    fn endpoint_for(&self, peer: SocketAddr) -> io::Result<Endpoint> {
        let mut endpoints = self.dialer.endpoints.lock();
        let slot = &mut endpoints[Dialer::family(peer)];
        match slot {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(slot.insert(self.dialer.network.client(peer)?).clone()),
        }
    }

    /// What the broker says by ending a connection: that it takes no clients, which may pass, or
    /// not this one's certificate.
    fn refused(&self, error: &quinn::ConnectionError) -> Option<ConnectError> {
        let address = self.address.clone();
        match turned_away(error) {
            Some(text) => Some(ConnectError::Refused { address, text }),
            None => self.refused_certificate(error),
        }
    }

    /// Why the connection is closed, if the broker does not accept the client's certificate. It
    /// says so after the client's side of the handshake is done, so that a request finds out.
    pub(crate) fn refusal(&self, connection: &Connection) -> Option<ConnectError> {
        self.refused_certificate(&connection.close_reason()?)
    }

    fn refused_certificate(&self, error: &quinn::ConnectionError) -> Option<ConnectError> {
        let quinn::ConnectionError::ConnectionClosed(close) = error else {
            return None;
        };
        let (_, why) = CERTIFICATE_ALERTS
            .iter()
            .find(|(alert, _)| close.error_code == quinn::TransportErrorCode::crypto(*alert))?;
        Some(ConnectError::Unauthenticated {
            address: self.address.clone(),
            text: format!("the client certificate {why}"),
        })
    }

    fn unreachable(&self, error: impl ToString) -> ConnectError {
        ConnectError::Unreachable {
            address: self.address.clone(),
            text: error.to_string(),
        }
    }

    fn bad_address(&self, error: impl ToString) -> ConnectError {
        ConnectError::Address {
            address: self.address.clone(),
            text: error.to_string(),
        }
    }
}

/// What is wrong with an address that [`split_address`] makes nothing of.
pub(crate) fn bad_address(address: &str) -> ConnectError {
    let host = match address.rsplit_once(':') {
        Some((host, _)) if !host.is_empty() => host,
        Some(_) => "localhost",
        None => address,
    };
    ConnectError::Address {
        address: address.to_owned(),
        text: format!("it has no host or no port; write host:port, such as {host}:{DEFAULT_PORT}"),
    }
}

/// Host and port of an address; the host of an IPv6 address without its brackets.
pub(crate) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().ok()?;
    (!host.is_empty()).then_some((host, port))
}

/// TLS alert 120: no application protocol in common.
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// TLS alert 48: a certificate that no known authority has signed.
const UNKNOWN_AUTHORITY: u8 = 48;

/// Why the broker takes no clients, if that is what it says and if it may pass.
fn turned_away(error: &quinn::ConnectionError) -> Option<String> {
    use quinn::{ConnectionError, TransportErrorCode};
    match error {
        ConnectionError::ConnectionClosed(closed)
            if closed.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            Some("it is stopping, or has as many as it may have".to_owned())
        }
        ConnectionError::ApplicationClosed(closed)
            if closed.error_code == quinn::VarInt::from_u32(close::STOPPING) =>
        {
            Some("it is stopping".to_owned())
        }
        // It has started anew since the connection was made.
        ConnectionError::Reset => Some("it has just been started again".to_owned()),
        _ => None,
    }
}

/// The TLS alerts by which a broker refuses a client's certificate (RFC 8446, section 6.2).
const CERTIFICATE_ALERTS: [(u8, &str); 8] = [
    (42, "cannot be used"),
    (43, "is of a kind that it does not take"),
    (44, "was revoked"),
    (45, "has expired, or is not valid yet"),
    (46, "is not one that it accepts"),
    (UNKNOWN_AUTHORITY, "is not signed by its authority"),
    (49, "is not allowed to connect"),
    (51, "does not belong to the key"),
];

fn explain(error: &quinn::ConnectionError) -> String {
    let unknown_authority = quinn::TransportErrorCode::crypto(UNKNOWN_AUTHORITY);
    let alert = quinn::TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
    match error {
        quinn::ConnectionError::TransportError(e) if e.code == alert => {
            "it speaks another version of the protocol; use a client of its version".to_owned()
        }
        quinn::ConnectionError::ConnectionClosed(e) if e.error_code == alert => {
            "it speaks another version of the protocol; use a client of its version".to_owned()
        }
        quinn::ConnectionError::TransportError(e) if e.code == unknown_authority => {
            "its certificate is not signed by the given authority; use the profile that the \
             broker wrote (client.toml in its data directory)"
                .to_owned()
        }
        error => error.to_string(),
    }
}
