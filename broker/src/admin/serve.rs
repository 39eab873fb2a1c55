//! HTTP/1 connections, each bounded: in how many there are, and in how long one may take.
//!
//! A connection carries one request. It is closed when that is answered, or when its time is up:
//! then it does not matter whether a client is slow to send, slow to read, or idle. When there
//! are too many, the oldest one gives way, so that who asks for the health of a broker gets an
//! answer whatever others do to this port.

use std::{
    collections::VecDeque,
    io,
    pin::pin,
    time::{Duration, Instant},
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// Connections at the same time; with one more, the oldest is closed.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may take, from its start until its answer has been received.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that a request's head may have.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long open requests may take once the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause after the system could not accept a connection, for lack of file descriptors most
/// likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often that is said, at most.
const WARN_INTERVAL: Duration = Duration::from_secs(30);

/// What clients may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections_max: usize,
    pub(super) connection_timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            connection_timeout: CONNECTION_TIMEOUT,
        }
    }
}

/// Serves `routes` until `stop`; then finishes open requests, and closes those that take long.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let mut connections = Connections::default();
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                if connections.make_room(bounds.connections_max) {
                    tracing::debug!(%from, "too many admin connections: the oldest gives way");
                }
                connections.start(carry(stream, routes.clone(), bounds, stop.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= WARN_INTERVAL) {
                    told = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept admin connections; trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // A client that keeps its connection open must not hold up the broker's end.
    let _ = tokio::time::timeout(STOP_TIMEOUT, connections.finish()).await;
}

/// The client was gone before it was accepted; the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// The tasks of open connections; dropping this ends them.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first.
    handles: VecDeque<AbortHandle>,
}

impl Connections {
    /// Forgets those that have ended, and ends the oldest if there is no room for another one.
    fn make_room(&mut self, connections_max: usize) -> bool {
        while self.tasks.try_join_next().is_some() {}
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() < connections_max {
            return false;
        }
        if let Some(oldest) = self.handles.pop_front() {
            oldest.abort();
        }
        true
    }

    fn start(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(connection);
        self.handles.push_back(handle);
    }

    async fn finish(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Answers the one request of a connection.
async fn carry(stream: TcpStream, routes: Router, bounds: Bounds, stop: CancellationToken) {
    let serving = async {
        let service = TowerToHyperService::new(routes);
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            served = connection.as_mut() => return served,
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    match tokio::time::timeout(bounds.connection_timeout, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection took too long"),
    }
}

#[cfg(test)]
mod tests;
