//! HTTP for operators, on an address of its own: `/metrics`, `/healthz`, `/readyz`.
//!
//! Nothing here changes anything, and nothing here is secret; still the address should not
//! be one that the world reaches.

mod serve;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpSocket, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::serve::{Bounds, serve};
use crate::metrics::Metrics;

/// Connections that wait to be accepted, at most.
const BACKLOG: u32 = 1024;

/// What the endpoints show of the broker.
pub trait Health: Send + Sync + 'static {
    /// Why the broker must be restarted, if it must.
    fn failure(&self) -> Option<String>;
    /// Why the broker should get no traffic at the moment, if it should not.
    fn not_ready(&self) -> Option<String>;
    /// Brings gauges up to date before they are shown.
    fn refresh(&self, metrics: &Metrics);
}

/// The admin server, running.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Why the admin server did not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for HTTP (metrics and health): {source}; choose another address with --admin"
)]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

struct Shown {
    metrics: Metrics,
    health: Arc<dyn Health>,
}

/// The address of an admin server, taken before there is anything to show: who connects is refused
/// until [`Admin::start`].
#[derive(Debug)]
pub struct AdminAddress {
    address: SocketAddr,
    socket: TcpSocket,
}

impl AdminAddress {
    /// Takes the address.
    ///
    /// # Errors
    /// When it is another one's.
    pub fn take(address: SocketAddr) -> Result<Self, AdminError> {
        let taken = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        let socket = taken().map_err(|source| AdminError { address, source })?;
        Ok(Self { address, socket })
    }
}

impl Admin {
    /// Listens and serves until [`Admin::stop`].
    ///
    /// # Errors
    /// When another one was faster to listen on the address.
    pub fn start(
        at: AdminAddress,
        metrics: Metrics,
        health: Arc<dyn Health>,
    ) -> Result<Self, AdminError> {
        let AdminAddress { address, socket } = at;
        let failed = |source| AdminError { address, source };
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let routes = Router::new()
            .route("/metrics", get(show_metrics))
            .route("/healthz", get(show_health))
            .route("/readyz", get(show_readiness))
            .with_state(Arc::new(Shown { metrics, health }));
        let stop = CancellationToken::new();
        let serving = serve(listener, routes, Bounds::default(), stop.clone());
        let task = tokio::spawn(serving);
        Ok(Self {
            address,
            stop,
            task,
        })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Finishes open requests, for a second at most, and stops.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the admin server ended early");
        }
    }
}

async fn show_metrics(State(shown): State<Arc<Shown>>) -> Response {
    shown.health.refresh(&shown.metrics);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, content_type)],
        shown.metrics.encode(),
    )
        .into_response()
}

async fn show_health(State(shown): State<Arc<Shown>>) -> Response {
    answer(shown.health.failure())
}

async fn show_readiness(State(shown): State<Arc<Shown>>) -> Response {
    answer(shown.health.failure().or_else(|| shown.health.not_ready()))
}

fn answer(trouble: Option<String>) -> Response {
    match trouble {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
    .into_response()
}
