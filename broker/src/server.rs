//! QUIC towards clients: connections, sessions, streams.
//!
//! ```text
//! endpoint ── accept ──> session (one a connection) ── accept ──> stream (one task each)
//!                        credential, bounds                       control | produce | consume
//! ```
//!
//! Every stream is a task of its own; no stream waits for another. What a client may hold —
//! connections, streams, bytes under way — is bounded by [`ServerLimits`].

mod budget;
mod consume;
mod control;
mod produce;
mod session;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use flumen_protocol::close;
use flumen_transport::{
    endpoint,
    quinn::{Endpoint, Incoming, ServerConfig, VarInt, crypto::rustls::QuicServerConfig},
    tuning,
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{budget::ByteBudget, session::Session};
use crate::{metrics::ServerMetrics, node::Node};

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// With this many connections open, a new address must prove that it can receive before it
/// costs anything: a flood of forged addresses then fills no table.
const CONNECTIONS_BEFORE_RETRY: usize = 256;

/// What clients are told when the broker stops.
const STOPPING_TEXT: &[u8] = b"the broker is stopping";

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
    /// How long a connection may take to show its credential.
    pub authentication_timeout: Duration,
}

/// The server, accepting connections.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    node: Arc<Node>,
    limits: ServerLimits,
    budget: ByteBudget,
    metrics: ServerMetrics,
    /// Cancelled when the broker stops: streams finish what they have and take no more.
    stopping: CancellationToken,
    sessions: TaskTracker,
}

impl Server {
    /// Listens on `listen` and serves clients of `node`.
    pub(crate) fn start(
        listen: SocketAddr,
        tls: QuicServerConfig,
        limits: ServerLimits,
        node: Arc<Node>,
    ) -> io::Result<Self> {
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config.transport_config(tuning::transport_config(limits.streams_per_connection_max));
        // Clients of an earlier life, cut short, are told so with their first packet.
        let secret = node.identity.restart_secret();
        let endpoint = endpoint::server_with_secret(listen, config, secret)?;
        let shared = Arc::new(Shared {
            metrics: node.metrics.server.clone(),
            budget: ByteBudget::new(limits.inflight_bytes_max),
            node,
            limits,
            stopping: CancellationToken::new(),
            sessions: TaskTracker::new(),
        });
        let accepting = tokio::spawn(accept(endpoint.clone(), Arc::clone(&shared)));
        Ok(Self {
            address: endpoint.local_addr()?,
            endpoint,
            shared,
            accepting,
        })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, answers those under way for at most `grace`, and closes.
    pub async fn stop(self, grace: Duration) {
        self.shared.stopping.cancel();
        self.shared.sessions.close();
        if tokio::time::timeout(grace, self.shared.sessions.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                ?grace,
                "some requests did not finish in time and are cut off"
            );
        }
        self.accepting.abort();
        self.endpoint
            .close(VarInt::from_u32(close::STOPPING), STOPPING_TEXT);
        // The close frames should leave; a peer that is gone must not hold us up.
        let _ = tokio::time::timeout(Duration::from_millis(200), self.endpoint.wait_idle()).await;
    }
}

async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let open = endpoint.open_connections();
        if open > shared.limits.connections_max {
            shared.metrics.connections_refused.inc();
            tracing::warn!(
                from = %incoming.remote_address(),
                limit = shared.limits.connections_max,
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
        if shared.stopping.is_cancelled() {
            incoming.refuse();
            continue;
        }
        let session = welcome(incoming, Arc::clone(&shared));
        shared.sessions.spawn(session);
    }
}

async fn welcome(incoming: Incoming, shared: Arc<Shared>) {
    let from = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => Session::new(connection, shared).run().await,
        Ok(Err(error)) => {
            shared.metrics.connections_refused.inc();
            tracing::debug!(%from, %error, "handshake failed");
        }
        Err(_) => {
            shared.metrics.connections_refused.inc();
            tracing::debug!(%from, "handshake took too long");
        }
    }
}
