//! Writing batches to a produce stream: which may leave now, and how long others gather.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use flumen_protocol::{
    batch::Batch,
    error::{ErrorCode, WireError},
    message::ProduceBatch,
};
use flumen_transport::stream::{FrameWriter, Payload, WriteError};
use tokio::time::{sleep, sleep_until};

use super::{
    End, Worker,
    outgoing::{Form, Memory, Outgoing, Waiter},
};
use crate::{
    connection::{Broker, streams::Spare},
    producer::{
        accumulator::{Gathered, Take, Took},
        delivery::{Ending, Next},
    },
};

/// Incomplete batches of a partition that may be on their way at once. With one, a record
/// that just missed a batch would wait for that batch's whole way and its own.
const INCOMPLETE_IN_FLIGHT_MAX: usize = 2;

/// Bytes of an incomplete batch that leave while another is on its way. Less than that waits for
/// its answer: what many tasks send one by one, each awaiting its receipt, would otherwise fall
/// into two halves for good that take turns, each with half of what a sync could carry.
const SECOND_INCOMPLETE_BYTES: usize = 16 * 1024;

/// Bytes of frames that are gathered before they are handed to the connection.
const WRITE_BYTES: usize = 256 * 1024;

/// A stream that carried nothing for this long is finished; the next batch opens another.
const STREAM_IDLE: Duration = Duration::from_secs(30);

/// A stream that is in use is left to others, if they have no room for theirs, after this long: where
/// more partitions are written to than a connection may have streams, they take turns.
const STREAM_TURN: Duration = Duration::from_secs(1);

/// After this long without an answer, records that gather look at the clock one by one.
const STALL: Duration = Duration::from_millis(5);

/// Whether records wait that are not sent yet.
#[derive(Clone, Copy)]
enum Gathers {
    Nothing,
    Some,
    Until(Instant),
}

impl Worker {
    pub(super) async fn write(&self, broker: &Broker, writer: &mut FrameWriter) -> End {
        let mut turn = pin!(sleep(STREAM_TURN));
        let mut had_turn = false;
        loop {
            if self.shared.accumulator.lock().is_gathering(self.partition) {
                // The first record of a batch wakes this task, and tokio runs what was woken last
                // first. Tasks that are ready send what they have before the batch leaves.
                tokio::task::yield_now().await;
            }
            let gathers = match self.write_what_is_there(writer).await {
                Ok(gathers) => gathers,
                Err(error) => return End::Lost(error.to_string()),
            };
            let (in_flight, is_empty, retry_at) = {
                let delivery = self.delivery.lock();
                if let Some(reason) = delivery.wants_new_stream() {
                    return End::Lost(reason.to_owned());
                }
                let retry_at = delivery.retry_at();
                (delivery.in_flight(), delivery.is_empty(), retry_at)
            };
            let is_idle = is_empty && matches!(gathers, Gathers::Nothing);
            if is_idle && self.shared.accumulator.lock().is_closed() {
                return End::Idle;
            }
            let wake_at = match gathers {
                Gathers::Until(at) => Some(retry_at.map_or(at, |retry_at| retry_at.min(at))),
                Gathers::Nothing | Gathers::Some => retry_at,
            };
            let spare = match (is_idle, had_turn) {
                (true, _) => Some(Spare::Idle),
                (false, true) => Some(Spare::Used),
                (false, false) => None,
            };
            let stalls = !is_idle && in_flight > 0 && wake_at.is_none();
            tokio::select! {
                // First, or one that always has something to do would not look.
                biased;
                () = broker.streams.wanted(spare) => return self.leave().await,
                () = self.signal.notified() => {}
                () = sleep_until(wake_at.unwrap_or_else(Instant::now).into()), if wake_at.is_some() => {}
                () = sleep(STALL), if stalls => {
                    self.shared.accumulator.lock().suspend_clock();
                    self.signal.notified().await;
                }
                () = &mut turn, if !had_turn => had_turn = true,
                () = sleep(STREAM_IDLE), if is_idle => return End::Idle,
            }
        }
    }

    /// Sends nothing more, and ends the stream once all is answered.
    async fn leave(&self) -> End {
        loop {
            let ending = self.delivery.lock().ending();
            match ending {
                Ending::Answered => return End::Idle,
                Ending::Lost(reason) => return End::Lost(reason.to_owned()),
                Ending::Awaits => self.signal.notified().await,
            }
        }
    }

    /// Writes all batches that may be sent now.
    async fn write_what_is_there(&self, writer: &mut FrameWriter) -> Result<Gathers, WriteError> {
        let now = Instant::now();
        let gathers = loop {
            self.push_frames(writer, now);
            if writer.buffered() > WRITE_BYTES {
                writer.flush().await?;
                continue;
            }
            let (accepts, in_flight) = {
                let delivery = self.delivery.lock();
                (delivery.accepts(), delivery.in_flight())
            };
            if !accepts {
                break Gathers::Some;
            }
            let bytes_min = match in_flight {
                0 => 1,
                n if n < INCOMPLETE_IN_FLIGHT_MAX => SECOND_INCOMPLETE_BYTES,
                _ => usize::MAX,
            };
            let take = Take {
                bytes_min,
                age_min: self.shared.options.linger,
            };
            let took = self
                .shared
                .accumulator
                .lock()
                .take(self.partition, take, now);
            match took {
                Took::Batch(batch) => self.accept(batch),
                Took::Later(Some(at)) => break Gathers::Until(at),
                Took::Later(None) => break Gathers::Some,
                Took::Nothing => break Gathers::Nothing,
            }
        };
        writer.flush().await?;
        Ok(gathers)
    }

    fn push_frames(&self, writer: &mut FrameWriter, now: Instant) {
        let mut delivery = self.delivery.lock();
        let waited = delivery.in_flight() > 0;
        while writer.buffered() <= WRITE_BYTES
            && let Some(next) = delivery.poll_send(now)
        {
            let (identity, outgoing) = match next {
                Next::Batch(identity, outgoing) => (identity, outgoing),
                Next::Fence(identity) => {
                    let fence = Batch::empty(identity.of(self.shared.producer_id));
                    writer.push(&ProduceBatch, Payload::Batch(&fence));
                    continue;
                }
            };
            match outgoing.batch(identity, self.shared.producer_id, self.shared.codec) {
                Ok(batch) => writer.push(&ProduceBatch, Payload::Batch(batch)),
                Err(error) => {
                    let text = format!("it cannot be encoded: {error}");
                    let error = WireError::new(ErrorCode::CorruptBatch, text);
                    let resolved = delivery.fail_unsendable(error);
                    self.settle(resolved);
                }
            }
        }
        if !waited && delivery.in_flight() > 0 {
            *self.waiting_since.lock() = now;
            self.sent.notify_one();
        }
    }

    /// Takes a gathered batch over.
    pub(super) fn accept(&self, gathered: Gathered) {
        let outgoing = Outgoing {
            form: Form::Gathered(Box::new(gathered.builder)),
            _memory: Memory {
                shared: Arc::clone(&self.shared),
                bytes: gathered.bytes,
            },
        };
        let Form::Gathered(builder) = &outgoing.form else {
            return;
        };
        let waiter = Waiter {
            completion: gathered.completion,
            records: builder.len() as u32,
            shares: gathered.shares,
        };
        let deadline = gathered.created + self.shared.options.delivery_timeout;
        self.delivery.lock().push(outgoing, waiter, deadline);
    }
}
