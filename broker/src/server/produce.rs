//! Produce streams: batches in, acknowledgements out, in order.
//!
//! Two halves run in one task: one reads batches, checks them, runs the topic's plugins and
//! hands them to the shard; the other awaits the outcomes in order and acknowledges them.
//! Between them wait at most [`BATCHES_INFLIGHT_MAX`] batches.
//!
//! A batch that plugins refuse takes its number all the same: an empty one goes to the shard in
//! its place, so that those behind it are still next.

mod outcome;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use flumen_protocol::{
    batch::{Batch, HEADER_LEN},
    error::{ErrorCode, WireError},
    ids::ProducerId,
    message::{ProduceAcks, ProduceBatch, ProduceOpen, ProduceOutcome, ProduceReceipt},
    size::Size,
};
use flumen_transport::stream::{FrameReader, FrameWriter, Payload, ReadError, WriteError};
use futures_util::FutureExt;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use self::outcome::{Treated, Verdict};
use super::{budget::Taken, session::Session};
use crate::{
    metrics::{ErrorLabel, ServerMetrics, observe},
    node::Node,
    plugins::Processed,
    shard::PendingAppend,
    topics::{Beside, Held, ProduceTarget, SideAppend},
};

/// Batches of one stream that may wait for their outcome.
const BATCHES_INFLIGHT_MAX: usize = 256;

/// Acknowledgements that may share a frame.
const ACKS_PER_FRAME_MAX: usize = 256;

/// A batch whose bytes take longer to arrive ends its stream, so that what it holds of the
/// byte budget is free again.
const PAYLOAD_TIMEOUT: Duration = Duration::from_mins(1);

/// Code of streams that end because the client broke the protocol or is too slow.
const RESET_BAD_FRAME: u32 = 2;

/// A batch on its way through the shard.
struct Pending {
    outcome: Waiting,
    received: Instant,
    bytes: usize,
    _taken: Arc<Taken>,
}

/// Where a batch's outcome comes from.
enum Waiting {
    /// It was refused before it reached the shard.
    Decided(ProduceOutcome),
    /// The shard will tell.
    Appending {
        main: PendingAppend,
        /// Records that plugins sent elsewhere; the batch is not acknowledged before them.
        side: Vec<SideAppend>,
        treated: Treated,
    },
}

pub(super) async fn serve(
    session: &Arc<Session>,
    open: ProduceOpen,
    reader: FrameReader,
    mut writer: FrameWriter,
) {
    let target = match find(&session.shared.node, &open).await {
        Ok(target) => target,
        Err(error) => {
            let outcomes = vec![Err(error)];
            return session
                .refuse(&mut writer, reader, &ProduceAcks { outcomes })
                .await;
        }
    };
    let counted = Counted::new(&session.shared.metrics, &open);
    let (pending_tx, pending_rx) = mpsc::channel(BATCHES_INFLIGHT_MAX);
    let beside = session.shared.node.topics.beside(open.partition);
    let receiving = receive(session, &target, &beside, reader, pending_tx);
    let acknowledging = acknowledge(session, &counted, pending_rx, writer);
    tokio::pin!(receiving, acknowledging);
    tokio::select! {
        // The client is gone or reads no acknowledgements: nothing more is taken from it.
        () = &mut acknowledging => {}
        () = &mut receiving => acknowledging.await,
    }
}

async fn find(node: &Node, open: &ProduceOpen) -> Result<ProduceTarget, WireError> {
    node.ready_for_records().await?;
    node.topics.target(&open.topic, open.partition).await
}

/// Reads batches until the client finishes, breaks the protocol, or the broker stops.
async fn receive(
    session: &Session,
    target: &ProduceTarget,
    beside: &Beside,
    mut reader: FrameReader,
    pending: mpsc::Sender<Pending>,
) {
    loop {
        let next = tokio::select! {
            biased;
            () = session.shared.stopping.cancelled() => break,
            next = reader.next::<ProduceBatch>() => next,
        };
        let len = match next {
            Ok(Some((ProduceBatch, len))) => len,
            Ok(None) => break,
            Err(error) => return refuse_frame(error, &mut reader),
        };
        let Ok(room) = pending.reserve().await else {
            break;
        };
        let taken = session.budget.take(len).await;
        session.shared.budget.has_some().await;
        let payload =
            tokio::time::timeout(PAYLOAD_TIMEOUT, reader.payload_aligned(len, HEADER_LEN)).await;
        let bytes = match payload {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return refuse_frame(error, &mut reader),
            Err(_) => return reader.stop(RESET_BAD_FRAME),
        };
        // Only now, so that a batch that is announced and never sent holds what its own
        // connection may hold, and nothing of what all share.
        let all = session.shared.budget.take(len).await;
        let taken = Arc::new(Taken::both(taken, all));
        let received = Instant::now();
        let outcome = match Batch::decode(bytes) {
            Ok(batch) => submit(session, target, beside, batch, &taken).await,
            Err(error) => {
                let error = WireError::new(ErrorCode::CorruptBatch, error.to_string());
                Waiting::Decided(Err(error))
            }
        };
        room.send(Pending {
            outcome,
            received,
            bytes: len,
            _taken: taken,
        });
    }
    reader.stop(0);
}

fn refuse_frame(error: ReadError, reader: &mut FrameReader) {
    tracing::debug!(%error, "produce stream ends");
    reader.stop(RESET_BAD_FRAME);
}

/// Runs the topic's plugins over a batch and hands what is left to the shard.
async fn submit(
    session: &Session,
    target: &ProduceTarget,
    beside: &Beside,
    batch: Batch,
    taken: &Arc<Taken>,
) -> Waiting {
    let refuse = |code, text: String| Waiting::Decided(Err(WireError::new(code, text)));
    let (bytes, bytes_max) = (batch.encoded_len(), session.shared.limits.batch_bytes_max);
    if bytes > bytes_max {
        let text = format!(
            "a batch of {} is larger than the {} that the broker takes \
             (limits.batch_bytes_max): send smaller records, or raise the limit",
            Size::of(bytes),
            Size::of(bytes_max)
        );
        return refuse(ErrorCode::TooLarge, text);
    }
    let node = &session.shared.node;
    if let Err(error) = target.check(&node.topics) {
        return Waiting::Decided(Err(error));
    }
    let producer = batch.header().producer;
    let is_idempotent = producer.producer_id != ProducerId::NONE;
    let came = batch.record_count();
    let processed = node.plugins.hooks().process(target.topic, batch).await;
    let treated = |verdict, is_unchanged| Treated {
        came,
        is_unchanged,
        verdict,
    };
    let (batch, side, treated) = match processed {
        Ok(Processed {
            batch,
            is_unchanged,
            side,
        }) => {
            let verdict = Verdict::Keep(batch.record_count());
            (batch, side, treated(verdict, is_unchanged))
        }
        Err(error) if error.code == ErrorCode::Rejected && is_idempotent => {
            let treated = treated(Verdict::Refuse(error), false);
            (Batch::empty(producer), Vec::new(), treated)
        }
        Err(error) => return Waiting::Decided(Err(error)),
    };
    if batch.record_count() == 0 && !is_idempotent && side.is_empty() {
        return Waiting::Decided(Ok(nothing_stored()));
    }
    let prepared = match beside.prepare(side).await {
        Ok(prepared) => prepared,
        Err(error) => return Waiting::Decided(Err(error)),
    };
    match target.append(batch).await {
        Ok(main) => {
            let sent = prepared
                .into_iter()
                .map(|side| beside.send(side, Arc::clone(taken) as Held));
            Waiting::Appending {
                main,
                side: sent.collect(),
                treated,
            }
        }
        Err(error) => Waiting::Decided(Err(error)),
    }
}

fn nothing_stored() -> ProduceReceipt {
    ProduceReceipt {
        base_offset: None,
        stored: 0,
        append_time_ms: crate::clock::now_ms(),
        duplicate: false,
    }
}

/// Writes outcomes in the order of the batches; those that are known together share a frame.
async fn acknowledge(
    session: &Session,
    counted: &Counted,
    mut pending: mpsc::Receiver<Pending>,
    mut writer: FrameWriter,
) {
    let mut outcomes = Vec::new();
    while let Some(next) = pending.recv().await {
        let mut finishing = pin!(finish(counted, next));
        let outcome = match finishing.as_mut().now_or_never() {
            Some(outcome) => outcome,
            None => {
                // What is known already must not wait for what is not.
                if send(&mut writer, &mut outcomes).await.is_err() {
                    return;
                }
                finishing.await
            }
        };
        outcomes.push(outcome);
        let is_last = pending.is_empty() || outcomes.len() == ACKS_PER_FRAME_MAX;
        if is_last && send(&mut writer, &mut outcomes).await.is_err() {
            return;
        }
    }
    session.finish(&mut writer).await;
}

async fn send(
    writer: &mut FrameWriter,
    outcomes: &mut Vec<ProduceOutcome>,
) -> Result<(), WriteError> {
    if outcomes.is_empty() {
        return Ok(());
    }
    let outcomes = std::mem::take(outcomes);
    writer.send(&ProduceAcks { outcomes }, Payload::None).await
}

async fn finish(counted: &Counted, pending: Pending) -> ProduceOutcome {
    let outcome = match pending.outcome {
        Waiting::Decided(outcome) => outcome,
        Waiting::Appending {
            main,
            side,
            treated,
        } => settle(main, side, treated).await,
    };
    counted.count(&outcome, pending.bytes, pending.received);
    outcome
}

async fn settle(main: PendingAppend, side: Vec<SideAppend>, treated: Treated) -> ProduceOutcome {
    for append in side {
        append.await?;
    }
    outcome::outcome(treated, main.await?)
}

/// The counters of a stream, looked up once.
struct Counted {
    records: Counter,
    bytes: Counter,
    metrics: ServerMetrics,
}

impl Counted {
    fn new(metrics: &ServerMetrics, open: &ProduceOpen) -> Self {
        let [records, bytes] = metrics.produced(&open.topic);
        Self {
            records,
            bytes,
            metrics: metrics.clone(),
        }
    }

    fn count(&self, outcome: &ProduceOutcome, bytes: usize, received: Instant) {
        match outcome {
            Ok(receipt) => {
                self.records.inc_by(receipt.stored.into());
                self.bytes.inc_by(bytes as u64);
                observe(&self.metrics.produce_latency, received.elapsed());
            }
            Err(error) => {
                let code = format!("{:?}", error.code);
                let label = ErrorLabel { code };
                self.metrics.produce_errors.get_or_create(&label).inc();
            }
        }
    }
}
