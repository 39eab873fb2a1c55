//! One client connection: its credential, and the streams that it opens.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use flumen_protocol::{
    close,
    error::{ErrorCode, WireError},
    frame::FrameLimits,
    message::{ConsumeEvent, ProduceAcks, Reply, Request, Response, StreamOpen},
};
use flumen_transport::{
    quinn::{Connection, RecvStream, SendStream, VarInt},
    stream::{DATA_LIMITS, FrameReader, FrameWriter, Payload, ReadError},
};
use std::time::Duration;
use tokio_util::task::TaskTracker;

use super::{STOPPING_TEXT, Shared, budget::ByteBudget, consume, control, credit::Credit, produce};

/// A stream whose first frame takes longer is reset.
const STREAM_OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What is read from a connection that has shown no credential.
const STRANGER_LIMITS: FrameLimits = FrameLimits {
    header_bytes_max: 8 * 1024,
    payload_bytes_max: 0,
};

/// How long a broker that stops waits for a client to take what it was told last.
const STOP_LINGER: Duration = Duration::from_secs(1);

/// Code of streams that are reset because the client broke the protocol.
const RESET_PROTOCOL_VIOLATION: u32 = 1;

/// One client connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) budget: ByteBudget,
    pub(super) credit: Credit,
    authenticated: AtomicBool,
}

impl Session {
    pub(super) fn new(connection: Connection, shared: Arc<Shared>) -> Self {
        // TLS has verified the certificate, if there is one, against our authority.
        let authenticated = connection.peer_identity().is_some();
        Self {
            credit: Credit::new(shared.limits.streams_per_connection_max),
            budget: ByteBudget::new(shared.limits.inflight_bytes_per_connection_max),
            connection,
            shared,
            authenticated: AtomicBool::new(authenticated),
        }
    }

    pub(super) async fn run(self) {
        let session = Arc::new(self);
        let metrics = &session.shared.metrics;
        metrics.connections.inc();
        metrics.connections_accepted.inc();
        tracing::debug!(from = %session.connection.remote_address(), "client connected");
        let streams = TaskTracker::new();
        tokio::select! {
            () = session.accept_streams(&streams) => {}
            () = session.expel_strangers() => {}
            never = session.credit.announce(&session.connection, &streams) => match never {},
            () = session.shared.stopping.cancelled() => {}
        }
        streams.close();
        streams.wait().await;
        if session.shared.stopping.is_cancelled() {
            // A client that has just come learns that it may come again.
            let code = VarInt::from_u32(close::STOPPING);
            session.connection.close(code, STOPPING_TEXT);
        }
        metrics.connections.dec();
        tracing::debug!(from = %session.connection.remote_address(), "client gone");
    }

    async fn accept_streams(self: &Arc<Self>, streams: &TaskTracker) {
        while let Ok((send, receive)) = self.connection.accept_bi().await {
            let session = Arc::clone(self);
            streams.spawn(async move {
                session.shared.metrics.streams.inc();
                session.serve_stream(send, receive).await;
                session.shared.metrics.streams.dec();
                session.credit.stream_ended();
            });
        }
    }

    /// Returns when the time for authentication is over and nothing was shown.
    async fn expel_strangers(&self) {
        tokio::time::sleep(self.shared.limits.authentication_timeout).await;
        if self.is_authenticated() {
            return std::future::pending().await;
        }
        self.shared.metrics.connections_refused.inc();
        self.connection.close(
            VarInt::from_u32(close::UNAUTHENTICATED),
            b"no credential was shown in time; use a token or a client certificate",
        );
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Acquire)
    }

    async fn serve_stream(self: &Arc<Self>, send: SendStream, receive: RecvStream) {
        let limits = if self.is_authenticated() {
            DATA_LIMITS
        } else {
            STRANGER_LIMITS
        };
        let mut reader = FrameReader::new(receive, limits);
        let mut writer = FrameWriter::new(send);
        let first = tokio::time::timeout(STREAM_OPEN_TIMEOUT, reader.next::<StreamOpen>());
        let (open, payload_len) = match first.await {
            Ok(Ok(Some(open))) => open,
            Ok(Err(ReadError::Frame(error))) => {
                tracing::debug!(from = %self.connection.remote_address(), %error, "stream refused");
                let error = WireError::new(ErrorCode::InvalidRequest, error.to_string());
                return self.refuse(&mut writer, reader, &Reply::Err(error)).await;
            }
            Ok(Ok(None) | Err(_)) | Err(_) => {
                reader.stop(RESET_PROTOCOL_VIOLATION);
                return writer.reset(RESET_PROTOCOL_VIOLATION);
            }
        };
        if let StreamOpen::Control(Request::Authenticate { token }) = &open {
            let reply = self.authenticate(token);
            return self.refuse(&mut writer, reader, &reply).await;
        }
        if let StreamOpen::Control(Request::Enrol(enrolment)) = &open {
            let from = self.connection.remote_address();
            let reply = self.shared.node.enrol(from, enrolment).await;
            return self.refuse(&mut writer, reader, &reply).await;
        }
        if !self.is_authenticated() {
            return self.refuse_stranger(open, &mut writer, reader).await;
        }
        match open {
            StreamOpen::Control(request) => {
                control::serve(self, request, payload_len, reader, writer).await;
            }
            StreamOpen::Produce(open) => produce::serve(self, open, reader, writer).await,
            StreamOpen::Consume(open) => consume::serve(self, open, reader, writer).await,
            _ => writer.reset(RESET_PROTOCOL_VIOLATION),
        }
    }

    fn authenticate(&self, token: &str) -> Reply {
        if self.shared.node.identity.accepts_token(token) {
            self.authenticated.store(true, Ordering::Release);
            return Ok(Response::Done);
        }
        self.shared.metrics.connections_refused.inc();
        tracing::warn!(from = %self.connection.remote_address(), "a wrong token was shown");
        Err(WireError::new(
            ErrorCode::Unauthenticated,
            "the token is not one of this cluster; use the profile that the broker wrote (client.toml)",
        ))
    }

    async fn refuse_stranger(
        &self,
        open: StreamOpen,
        writer: &mut FrameWriter,
        reader: FrameReader,
    ) {
        let error = WireError::new(
            ErrorCode::Unauthenticated,
            "this connection has shown no credential; use a profile with a token or a client certificate",
        );
        match open {
            StreamOpen::Produce(_) => {
                let outcomes = vec![Err(error)];
                self.refuse(writer, reader, &ProduceAcks { outcomes }).await;
            }
            StreamOpen::Consume(_) => {
                self.refuse(writer, reader, &ConsumeEvent::Failed(error))
                    .await;
            }
            _ => self.refuse(writer, reader, &Reply::Err(error)).await,
        }
    }

    /// Answers with one frame and ends the stream.
    pub(super) async fn refuse<H: serde::Serialize>(
        &self,
        writer: &mut FrameWriter,
        mut reader: FrameReader,
        answer: &H,
    ) {
        let sent = tokio::select! {
            sent = writer.send(answer, Payload::None) => sent.is_ok(),
            () = self.linger() => false,
        };
        // A peer that is gone needs no answer.
        if sent {
            self.finish(writer).await;
        }
        reader.stop(0);
    }

    /// Returns when the broker has been stopping for long enough.
    async fn linger(&self) {
        self.shared.stopping.cancelled().await;
        tokio::time::sleep(STOP_LINGER).await;
    }

    /// Ends a stream, and waits until the client has received all of it; not for long when the
    /// broker stops.
    pub(super) async fn finish(&self, writer: &mut FrameWriter) {
        writer.finish();
        tokio::select! {
            () = writer.stopped() => {}
            () = self.linger() => {}
        }
    }
}
