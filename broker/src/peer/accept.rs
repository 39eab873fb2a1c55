//! The accepting side: who comes, and what they ask for.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use flumen_protocol::{ids::BrokerId, limits::ERROR_TEXT_BYTES_MAX};
use flumen_transport::{
    quinn::{Connection, RecvStream, SendStream, VarInt},
    stream::{FrameReader, FrameWriter, Payload},
    tuning,
};
use futures_util::FutureExt;
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use super::{
    CALL_BYTES_MAX, PeerService,
    envelope::{
        self, CallHead, ENVELOPES_PER_FRAME_MAX, FRAME_BYTES_ENOUGH, FRAME_LIMITS, ReplyHead,
    },
    peers::Shared,
    refusal::Refusal,
    stream::{MESSAGE_LIMITS, stream},
    wire::{
        CLOSE_VIOLATION, Hello, OPEN_LIMITS, OPEN_TIMEOUT, PeerOpen, RESET_NOT_READY,
        RESET_VIOLATION, read_reason,
    },
};
use crate::identity::broker_in_certificate;

/// Calls of one broker that are answered at the same time; more wait.
const CALLS_SERVED_MAX: usize = 4096;

/// Streams that one broker may have open here: for the entries of each shard that it leads one that
/// stays, of 1,024 shards and the catalog, and for all else as many again.
const PEER_STREAMS_MAX: u32 = 2 * 1025;

/// Streams that it may have open at first. quinn makes room for all of them with each connection; so
/// there are twice as many, up to [`PEER_STREAMS_MAX`], whenever half of them are in use.
const PEER_STREAMS_MIN: u32 = 128;

/// Serves a connection of another broker until it ends.
pub(super) async fn serve(connection: Connection, shared: Arc<Shared>) {
    let address = connection.remote_address();
    let named = broker_of(&connection).and_then(|broker| shared.check_member(broker));
    if let Err(refusal) = named {
        return refuse(&connection, &shared, &refusal);
    }
    let mut streams_max = PEER_STREAMS_MIN;
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams_max));
    connection.set_receive_window(VarInt::from_u32(tuning::PEER_CONNECTION_WINDOW_BYTES));
    // Who only asks who is here opens no stream, and keeps the connection that it has.
    let first = tokio::time::timeout(OPEN_TIMEOUT, connection.accept_bi());
    let first = match first.await {
        Ok(Ok(first)) => first,
        Ok(Err(error)) => {
            if let Ok(broker) = named {
                shared.dialer.note_end(broker, &error);
            }
            return;
        }
        Err(_) => {
            let code = VarInt::from_u32(CLOSE_VIOLATION);
            return connection.close(code, b"nothing was asked for");
        }
    };
    let admitted = named.and_then(|broker| shared.admit(broker, &connection));
    let from = match admitted {
        Ok(broker) => broker,
        Err(refusal) => return refuse(&connection, &shared, &refusal),
    };
    tracing::debug!(broker = %from, %address, "a broker has connected");
    let streams = TaskTracker::new();
    let mut next = Some(first);
    while let Some((send, receive)) = next {
        let incoming = Incoming {
            from,
            connection: connection.clone(),
            shared: Arc::clone(&shared),
        };
        streams.spawn(incoming.serve_stream(send, receive));
        if let Some(more) = more_streams(streams.len(), streams_max) {
            streams_max = more;
            connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams_max));
        }
        next = connection.accept_bi().await.ok();
    }
    shared.forget(from, &connection);
    if let Some(error) = connection.close_reason() {
        shared.dialer.note_end(from, &error);
    }
    tracing::debug!(broker = %from, %address, "a broker has gone");
    streams.close();
    streams.wait().await;
}

/// How many streams there may be from now on where so many are open; `None` if no more than before.
fn more_streams(open: usize, streams_max: u32) -> Option<u32> {
    let is_half_used = open >= streams_max as usize / 2;
    let more = (2 * streams_max).min(PEER_STREAMS_MAX);
    (is_half_used && more > streams_max).then_some(more)
}

fn refuse(connection: &Connection, shared: &Shared, refusal: &Refusal) {
    // Who is refused comes again, every second for as long as it runs.
    if refusal.is_notable() && shared.refusals.is_news(&refusal.reason) {
        let (from, reason) = (connection.remote_address(), &refusal.reason);
        tracing::warn!(%from, reason, "a connection of a broker was refused");
    }
    let code = VarInt::from_u32(refusal.code);
    connection.close(code, refusal.reason.as_bytes());
}

/// The broker that the certificate of a connection names. TLS has verified who signed it.
pub(super) fn broker_of(connection: &Connection) -> Result<BrokerId, Refusal> {
    let certificates = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    match certificates.as_deref().and_then(|chain| chain.first()) {
        Some(certificate) => broker_in_certificate(certificate).map_err(Refusal::new),
        None => Err(Refusal::new("it shows no certificate")),
    }
}

/// A stream that another broker has opened.
struct Incoming {
    from: BrokerId,
    connection: Connection,
    shared: Arc<Shared>,
}

impl Incoming {
    async fn serve_stream(self, send: SendStream, receive: RecvStream) {
        let mut writer = FrameWriter::new(send);
        let mut reader = FrameReader::new(receive, OPEN_LIMITS);
        let open = tokio::time::timeout(OPEN_TIMEOUT, reader.next_with_payload::<PeerOpen>());
        match open.await {
            Ok(Ok(Some((PeerOpen::Calls(hello), _)))) => {
                self.serve_calls(&hello, reader, writer).await;
            }
            Ok(Ok(Some((PeerOpen::Stream(service), head)))) => {
                self.serve_messages(service, head, reader, writer).await;
            }
            Ok(Ok(None) | Err(_)) | Err(_) => writer.reset(RESET_VIOLATION),
        }
    }

    async fn serve_messages(
        self,
        service: PeerService,
        head: Bytes,
        mut reader: FrameReader,
        mut writer: FrameWriter,
    ) {
        let Some(handler) = self.shared.handler(service) else {
            return writer.reset(RESET_NOT_READY);
        };
        reader.set_limits(MESSAGE_LIMITS);
        let stream = stream(self.from, writer, reader);
        handler.stream(self.from, head, stream).await;
    }

    /// Answers the calls of a connection, each in a task of its own.
    async fn serve_calls(self, hello: &Hello, mut reader: FrameReader, mut writer: FrameWriter) {
        tracing::debug!(broker = %self.from, version = hello.version, "a broker says hello");
        if writer.send(&Hello::ours(), Payload::None).await.is_err() {
            return;
        }
        reader.set_limits(FRAME_LIMITS);
        let (replies, replied) = mpsc::channel(CALLS_SERVED_MAX);
        let reason = tokio::select! {
            reason = self.take_calls(&mut reader, &replies) => reason,
            () = write_replies(&mut writer, replied) => "replies cannot be written".to_owned(),
        };
        // Without its calls the connection is of no use: the other side makes a new one.
        let code = VarInt::from_u32(CLOSE_VIOLATION);
        self.connection.close(code, reason.as_bytes());
    }

    async fn take_calls(
        &self,
        reader: &mut FrameReader,
        replies: &mpsc::Sender<Answered>,
    ) -> String {
        let served = Arc::new(Semaphore::new(CALLS_SERVED_MAX));
        loop {
            let (header, len) = match reader.next_bytes().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return "the calls were finished".to_owned(),
                Err(error) => return read_reason(&error),
            };
            let payload = match reader.payload(len).await {
                Ok(payload) => payload,
                Err(error) => return read_reason(&error),
            };
            let calls = match envelope::open::<CallHead>(&header, payload) {
                Ok(calls) => calls,
                Err(error) => {
                    tracing::warn!(broker = %self.from, %error, "calls of a broker are refused");
                    return error.to_string();
                }
            };
            for (head, request) in calls {
                let permit = match Arc::clone(&served).acquire_owned().await {
                    Ok(permit) => permit,
                    Err(error) => return error.to_string(),
                };
                self.spawn_answer(head, request, permit, replies.clone());
            }
        }
    }

    fn spawn_answer(
        &self,
        head: CallHead,
        request: Bytes,
        permit: OwnedSemaphorePermit,
        replies: mpsc::Sender<Answered>,
    ) {
        let handler = self.shared.handler(head.service);
        let from = self.from;
        tokio::spawn(async move {
            let answer = match handler {
                Some(handler) => {
                    let answer = AssertUnwindSafe(async { handler.call(from, request).await });
                    let failed = |_| Err("the room that was asked has failed".to_owned());
                    answer.catch_unwind().await.unwrap_or_else(failed)
                }
                None => Err(format!("{:?} is not ready yet", head.service)),
            };
            // There is room for the answers of all calls that are served; the connection may be
            // gone.
            let answered = Answered::new(head.id, answer, permit);
            let _ = replies.send(answered).await;
        });
    }
}

/// A reply that waits to be written.
struct Answered {
    head: ReplyHead,
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl Answered {
    fn new(id: u64, answer: Result<Bytes, String>, permit: OwnedSemaphorePermit) -> Self {
        let answer = answer.and_then(|bytes| {
            if bytes.len() <= CALL_BYTES_MAX {
                return Ok(bytes);
            }
            let len = bytes.len();
            Err(format!(
                "a reply of {len} bytes is over the limit of {CALL_BYTES_MAX}"
            ))
        });
        let is_ok = answer.is_ok();
        let bytes = answer.unwrap_or_else(|mut reason| {
            reason.truncate(reason.floor_char_boundary(ERROR_TEXT_BYTES_MAX));
            reason.into()
        });
        Self {
            head: ReplyHead {
                id,
                is_ok,
                len: bytes.len() as u32,
            },
            bytes,
            _permit: permit,
        }
    }
}

async fn write_replies(writer: &mut FrameWriter, mut replied: mpsc::Receiver<Answered>) {
    let mut heads = Vec::new();
    let mut replies = Vec::new();
    while let Some(first) = replied.recv().await {
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(answered) = next {
            bytes += answered.bytes.len();
            heads.push(answered.head);
            replies.push(answered.bytes);
            if heads.len() == ENVELOPES_PER_FRAME_MAX || bytes >= FRAME_BYTES_ENOUGH {
                break;
            }
            next = replied.try_recv().ok();
        }
        if writer.send(&heads, Payload::Parts(&replies)).await.is_err() {
            return;
        }
        heads.clear();
        replies.clear();
    }
}
