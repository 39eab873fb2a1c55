//! QUIC towards clients: connections, sessions, streams.
//!
//! ```text
//! endpoint ── accept ──> session (one a connection) ── accept ──> stream (one task each)
//!               │        credential, bounds                       control | produce | consume
//!               └──────> Peers (connections of other brokers, from the beginning to the end)
//! ```
//!
//! Other brokers come to the same address and say by their protocol (ALPN) that they are none of
//! the clients; a broker needs them before it can serve anybody, and until it has handed over.
//!
//! Every stream is a task of its own; no stream waits for another. What a client may hold —
//! connections, streams, bytes under way — is bounded by [`ServerLimits`].

mod budget;
mod consume;
mod control;
mod credit;
mod produce;
mod session;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use flumen_protocol::{ALPN_PEER, close};
use flumen_transport::{
    endpoint::Network,
    quinn::{
        Connection, ConnectionError, Endpoint, Incoming, ServerConfig, TransportErrorCode, VarInt,
        crypto::rustls::{HandshakeData, QuicServerConfig},
    },
    tuning,
};
use rustls::AlertDescription;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{budget::ByteBudget, session::Session};
use crate::{metrics::ServerMetrics, node::Node, peer::Peers};

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// With this many connections open, a new address must prove that it can receive before it
/// costs anything: a flood of forged addresses then fills no table.
const CONNECTIONS_BEFORE_RETRY: usize = 256;

/// What clients are told when the broker stops.
const STOPPING_TEXT: &[u8] = b"the broker is stopping";

/// What clients are told that come too early.
const STARTING_TEXT: &[u8] = b"the broker is starting; try again soon";

/// What clients may hold.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections at the same time.
    pub connections_max: usize,
    /// Streams of one connection at the same time.
    pub streams_per_connection_max: u32,
    /// Bytes of one batch.
    pub batch_bytes_max: usize,
    /// Bytes of batches under way, of all connections together.
    pub inflight_bytes_max: u64,
    /// Bytes of batches and of requests under way, of one connection.
    pub inflight_bytes_per_connection_max: u64,
    /// How long a connection may take to show its credential.
    pub authentication_timeout: Duration,
}

/// The server, accepting connections.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    address: SocketAddr,
    acceptor: Arc<Acceptor>,
    accepting: JoinHandle<()>,
}

/// Decides what becomes of a connection.
#[derive(Debug)]
struct Acceptor {
    limits: ServerLimits,
    metrics: ServerMetrics,
    peers: Peers,
    /// Set once clients are served.
    clients: OnceLock<Arc<Shared>>,
    /// Cancelled when the broker stops: streams finish what they have and take no more.
    stopping: CancellationToken,
    sessions: TaskTracker,
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    node: Arc<Node>,
    limits: ServerLimits,
    budget: ByteBudget,
    metrics: ServerMetrics,
    stopping: CancellationToken,
}

/// Takes the address `listen`. Nobody is let in before [`Server::start`].
pub(crate) fn bind(
    network: &dyn Network,
    listen: SocketAddr,
    tls: QuicServerConfig,
    limits: &ServerLimits,
    restart_secret: &[u8],
) -> io::Result<Endpoint> {
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(tuning::transport_config(limits.streams_per_connection_max));
    // Clients of an earlier life, cut short, are told so with their first packet.
    network.server_with_secret(listen, config, restart_secret)
}

impl Server {
    /// Accepts connections: those of other brokers are handed to `peers` from now on, those of
    /// clients are served from [`Server::serve_clients`] on.
    pub(crate) fn start(
        endpoint: Endpoint,
        limits: ServerLimits,
        metrics: ServerMetrics,
        peers: Peers,
    ) -> io::Result<Self> {
        let acceptor = Arc::new(Acceptor {
            limits,
            metrics,
            peers,
            clients: OnceLock::new(),
            stopping: CancellationToken::new(),
            sessions: TaskTracker::new(),
        });
        let accepting = tokio::spawn(accept(endpoint.clone(), Arc::clone(&acceptor)));
        Ok(Self {
            address: endpoint.local_addr()?,
            endpoint,
            acceptor,
            accepting,
        })
    }

    /// Serves clients of `node` from now on.
    pub(crate) fn serve_clients(&self, node: Arc<Node>) {
        let acceptor = &self.acceptor;
        let shared = Shared {
            node,
            limits: acceptor.limits,
            budget: ByteBudget::new(acceptor.limits.inflight_bytes_max),
            metrics: acceptor.metrics.clone(),
            stopping: acceptor.stopping.clone(),
        };
        if acceptor.clients.set(Arc::new(shared)).is_err() {
            tracing::error!("clients are served already");
        }
    }

    /// The other brokers.
    pub(crate) fn peers(&self) -> &Peers {
        &self.acceptor.peers
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests of clients, and answers those under way for at most `grace`. Other
    /// brokers are still served.
    pub async fn drain(&self, grace: Duration) {
        let Acceptor {
            stopping, sessions, ..
        } = &*self.acceptor;
        stopping.cancel();
        sessions.close();
        if tokio::time::timeout(grace, sessions.wait()).await.is_err() {
            tracing::warn!(
                ?grace,
                "some requests did not finish in time and are cut off"
            );
        }
    }

    /// Closes all connections and gives the address up.
    pub async fn close(self) {
        self.acceptor.stopping.cancel();
        self.accepting.abort();
        self.endpoint
            .close(VarInt::from_u32(close::STOPPING), STOPPING_TEXT);
        // The close frames should leave; a peer that is gone must not hold us up.
        let _ = tokio::time::timeout(Duration::from_millis(200), self.endpoint.wait_idle()).await;
    }
}

async fn accept(endpoint: Endpoint, acceptor: Arc<Acceptor>) {
    while let Some(incoming) = endpoint.accept().await {
        let open = endpoint.open_connections();
        if open > acceptor.limits.connections_max {
            acceptor.metrics.connections_refused.inc();
            tracing::warn!(
                from = %incoming.remote_address(),
                limit = acceptor.limits.connections_max,
                "connection refused: limits.connections_max is reached"
            );
            incoming.refuse();
            continue;
        }
        if open > CONNECTIONS_BEFORE_RETRY
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            // Fails only for an address that is validated already.
            let _ = incoming.retry();
            continue;
        }
        tokio::spawn(welcome(incoming, Arc::clone(&acceptor)));
    }
}

async fn welcome(incoming: Incoming, acceptor: Arc<Acceptor>) {
    let from = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(connection)) if is_peer(&connection) => acceptor.peers.accepted(connection),
        Ok(Ok(connection)) => acceptor.serve_client(connection),
        Ok(Err(error)) => {
            acceptor.metrics.connections_refused.inc();
            match refused_certificate(&error) {
                Some(reason) => tracing::warn!(
                    %from,
                    reason,
                    "a connection was refused: its certificate is none of this cluster"
                ),
                None => tracing::debug!(%from, %error, "handshake failed"),
            }
        }
        Err(_) => {
            acceptor.metrics.connections_refused.inc();
            tracing::debug!(%from, "handshake took too long");
        }
    }
}

impl Acceptor {
    fn serve_client(&self, connection: Connection) {
        let code = VarInt::from_u32(close::STOPPING);
        if self.stopping.is_cancelled() {
            return connection.close(code, STOPPING_TEXT);
        }
        match self.clients.get() {
            Some(shared) => {
                let session = Session::new(connection, Arc::clone(shared));
                self.sessions.spawn(session.run());
            }
            None => connection.close(code, STARTING_TEXT),
        }
    }
}

/// Whether the other side speaks the protocol of brokers.
fn is_peer(connection: &Connection) -> bool {
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<HandshakeData>().ok());
    data.and_then(|data| data.protocol)
        .is_some_and(|protocol| protocol == ALPN_PEER)
}

/// What is wrong with the certificate that the other side has shown, if that is why there is no
/// connection.
fn refused_certificate(error: &ConnectionError) -> Option<&str> {
    let ConnectionError::TransportError(error) = error else {
        return None;
    };
    let is_about_certificate = [
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
    ]
    .into_iter()
    .any(|alert| error.code == TransportErrorCode::crypto(alert.into()));
    is_about_certificate.then_some(error.reason.as_str())
}
