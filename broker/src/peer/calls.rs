//! Calls to another broker over one connection. Whatever is queued when the writer gets to run
//! leaves in one frame, and replies come back in any order.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

use bytes::Bytes;
use flumen_protocol::ids::BrokerId;
use flumen_transport::{
    quinn::Connection,
    stream::{FrameReader, FrameWriter, Payload},
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    CALL_BYTES_MAX, PeerError, PeerService,
    envelope::{self, CallHead, ENVELOPES_PER_FRAME_MAX, FRAME_BYTES_ENOUGH, ReplyHead},
    wire::{read_reason, reason_of},
};

/// Calls to one broker whose reply somebody waits for.
pub(super) const CALLS_IN_FLIGHT_MAX: usize = 4096;

/// Bytes of calls to one broker that wait to be written.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;

type Outcome = Result<Bytes, PeerError>;

/// Makes calls over a connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Calls {
    to: BrokerId,
    queue: mpsc::Sender<Queued>,
    in_flight: Arc<Semaphore>,
    queued_bytes: Arc<Semaphore>,
}

struct Queued {
    service: PeerService,
    request: Bytes,
    reply: oneshot::Sender<Outcome>,
    _bytes: OwnedSemaphorePermit,
}

/// Does what [`Calls`] asks for.
pub(super) struct CallDriver {
    to: BrokerId,
    connection: Connection,
    queue: mpsc::Receiver<Queued>,
    waiting: Waiting,
}

/// Who waits for a reply, by the id of the call: in the order in which they called.
#[derive(Clone, Default)]
struct Waiting {
    replies: Arc<Mutex<BTreeMap<u64, oneshot::Sender<Outcome>>>>,
    last_id: Arc<AtomicU64>,
}

/// Calls over `connection`, as soon as the driver runs.
pub(super) fn calls(to: BrokerId, connection: Connection) -> (Calls, CallDriver) {
    let (queue, queued) = mpsc::channel(CALLS_IN_FLIGHT_MAX);
    let calls = Calls {
        to,
        queue,
        in_flight: Arc::new(Semaphore::new(CALLS_IN_FLIGHT_MAX)),
        queued_bytes: Arc::new(Semaphore::new(QUEUED_BYTES_MAX)),
    };
    let driver = CallDriver {
        to,
        connection,
        queue: queued,
        waiting: Waiting::default(),
    };
    (calls, driver)
}

impl Calls {
    pub(super) async fn call(&self, service: PeerService, request: Bytes) -> Outcome {
        let to = self.to;
        if request.len() > CALL_BYTES_MAX {
            let reason = format!(
                "a request of {} bytes is over the limit of {CALL_BYTES_MAX}",
                request.len()
            );
            return Err(PeerError::refused(to, reason));
        }
        let closed = || PeerError::unreachable(to, "the connection was lost");
        let _in_flight = self.in_flight.acquire().await.map_err(|_| closed())?;
        let queued_bytes = Arc::clone(&self.queued_bytes);
        let bytes = queued_bytes.acquire_many_owned(request.len() as u32).await;
        let (reply, replied) = oneshot::channel();
        let queued = Queued {
            service,
            request,
            reply,
            _bytes: bytes.map_err(|_| closed())?,
        };
        self.queue.send(queued).await.map_err(|_| closed())?;
        let lost = |_| Err(PeerError::lost(to, "the connection was lost"));
        replied.await.unwrap_or_else(lost)
    }
}

impl CallDriver {
    /// Runs until the connection ends, and says why it did. No caller is left waiting.
    pub(super) async fn run(mut self, mut writer: FrameWriter, mut reader: FrameReader) -> String {
        let connection = self.connection.clone();
        let reason = tokio::select! {
            // The connection knows best why streams broke.
            biased;
            error = connection.closed() => reason_of(&error),
            reason = read_replies(self.to, &mut reader, &self.waiting) => reason,
            reason = write_calls(&mut writer, &mut self.queue, &self.waiting) => reason,
        };
        let reason = match connection.close_reason() {
            Some(error) => reason_of(&error),
            None => reason,
        };
        let replies = std::mem::take(&mut *self.waiting.replies.lock());
        for reply in replies.into_values() {
            // Who gave up does not want to know.
            let _ = reply.send(Err(PeerError::lost(self.to, &*reason)));
        }
        self.queue.close();
        while let Some(queued) = self.queue.recv().await {
            let error = PeerError::unreachable(self.to, &*reason);
            let _ = queued.reply.send(Err(error));
        }
        reason
    }
}

async fn write_calls(
    writer: &mut FrameWriter,
    queue: &mut mpsc::Receiver<Queued>,
    waiting: &Waiting,
) -> String {
    let mut heads = Vec::new();
    let mut requests = Vec::new();
    while let Some(first) = queue.recv().await {
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Queued {
            service,
            request,
            reply,
            _bytes,
        }) = next
        {
            if !reply.is_closed() {
                bytes += request.len();
                heads.push(CallHead {
                    id: waiting.add(reply),
                    service,
                    len: request.len() as u32,
                });
                requests.push(request);
            }
            if heads.len() == ENVELOPES_PER_FRAME_MAX || bytes >= FRAME_BYTES_ENOUGH {
                break;
            }
            next = queue.try_recv().ok();
        }
        if heads.is_empty() {
            continue;
        }
        if let Err(error) = writer.send(&heads, Payload::Parts(&requests)).await {
            return error.to_string();
        }
        heads.clear();
        requests.clear();
    }
    "the connection was closed".to_owned()
}

async fn read_replies(to: BrokerId, reader: &mut FrameReader, waiting: &Waiting) -> String {
    loop {
        let (header, len) = match reader.next_bytes().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "it answers no more".to_owned(),
            Err(error) => return read_reason(&error),
        };
        let payload = match reader.payload(len).await {
            Ok(payload) => payload,
            Err(error) => return read_reason(&error),
        };
        let replies = match envelope::open::<ReplyHead>(&header, payload) {
            Ok(replies) => replies,
            Err(error) => return error.to_string(),
        };
        for (head, bytes) in replies {
            let outcome = if head.is_ok {
                Ok(bytes)
            } else {
                let reason = String::from_utf8_lossy(&bytes);
                Err(PeerError::refused(to, reason))
            };
            waiting.answer(head.id, outcome);
        }
    }
}

impl Waiting {
    fn add(&self, reply: oneshot::Sender<Outcome>) -> u64 {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        let mut replies = self.replies.lock();
        // Of calls that were given up, the other broker may answer many late, or never.
        if replies.len() >= 2 * CALLS_IN_FLIGHT_MAX {
            replies.retain(|_, reply| !reply.is_closed());
        }
        replies.insert(id, reply);
        id
    }

    fn answer(&self, id: u64, outcome: Outcome) {
        let reply = self.replies.lock().remove(&id);
        if let Some(reply) = reply {
            let _ = reply.send(outcome);
        }
    }
}
