//! One task a partition: takes batches, writes them to a produce stream, reads the answers,
//! and opens another stream when one is lost.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flumen_protocol::{
    batch::{Batch, BatchBuilder, BatchError, Codec, ProducerSequence},
    error::{ErrorCode, WireError},
    ids::{BrokerId, ProducerId, ShardId, TopicId},
    message::{ProduceAcks, ProduceBatch, ProduceOpen, StreamOpen, TopicMetadata},
    topic::{NoSuchPartition, TopicName},
};
use flumen_transport::stream::{DATA_LIMITS, FrameReader, FrameWriter, Payload};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, sleep_until},
};

use super::{
    ProducerOptions,
    accounts::{AccountId, Share},
    accumulator::{Accumulator, Gathered, Take, Took},
    completion::{BatchOutcome, Completion},
    delivery::{Delivery, DeliveryError, DeliveryOptions, Identity, Next, Resolved},
    error::SendError,
    setback::Setbacks,
};
use crate::{client::Client, config::LEADER_STALL, connection::backoff::Backoff};

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

/// After this long without an answer, records that gather look at the clock one by one.
const STALL: Duration = Duration::from_millis(5);

/// An answer that takes longer than this is a setback to be told of.
const ANSWER_OVERDUE: Duration = Duration::from_secs(2);

/// A delivery: what the producers and the tasks that send for them share.
#[derive(Debug)]
pub(super) struct Shared {
    client: Client,
    pub(super) topic: TopicName,
    producer_id: ProducerId,
    codec: Codec,
    pub(super) options: ProducerOptions,
    pub(super) accumulator: Mutex<Accumulator>,
    /// Told when memory comes back.
    pub(super) room: Notify,
    pub(super) setbacks: Setbacks,
    place: Mutex<TopicPlace>,
    /// When the leaders were last asked for; held while asking, so that one asks for all.
    refreshed: tokio::sync::Mutex<Instant>,
}

impl Shared {
    pub(super) fn start(
        client: Client,
        metadata: TopicMetadata,
        accumulator: Accumulator,
        options: ProducerOptions,
        codec: Codec,
    ) -> Arc<Self> {
        let shared = Arc::new(Self {
            client,
            topic: metadata.name,
            // Zero would ask for no duplicate detection.
            producer_id: ProducerId(rand::random_range(1..=u64::MAX)),
            codec,
            options,
            accumulator: Mutex::new(accumulator),
            room: Notify::new(),
            setbacks: Setbacks::default(),
            place: Mutex::new(TopicPlace {
                id: metadata.id,
                shards: metadata.shards,
            }),
            refreshed: tokio::sync::Mutex::new(Instant::now()),
        });
        tokio::spawn(watch_topic(Arc::downgrade(&shared)));
        shared
    }

    /// Another producer gives its records to this delivery; `None` if all others are closed
    /// or gone, and its tasks about to end.
    pub(super) fn join(&self) -> Option<AccountId> {
        let mut accumulator = self.accumulator.lock();
        (!accumulator.is_closed()).then(|| accumulator.open_account())
    }

    /// Takes over what was heard of the topic.
    pub(super) fn learn(&self, metadata: TopicMetadata) {
        let partitions = metadata.shards.len() as u32;
        let mut place = self.place.lock();
        if metadata.id < place.id {
            // Of a broker that is behind, from before the topic was made anew.
            return;
        }
        let is_made_anew = metadata.id > place.id;
        *place = TopicPlace {
            id: metadata.id,
            shards: metadata.shards,
        };
        let mut accumulator = self.accumulator.lock();
        if is_made_anew {
            accumulator.set_partitions(partitions);
        } else {
            // A broker that is behind may know fewer than there are.
            accumulator.grow(partitions);
        }
    }

    /// Asks for the leaders unless somebody did since `since`; false if the topic is gone.
    async fn refresh(&self, since: Instant) -> bool {
        let mut refreshed = self.refreshed.lock().await;
        if *refreshed > since {
            return true;
        }
        match self.client.topic(&self.topic).await {
            Ok(Some(metadata)) => {
                *refreshed = Instant::now();
                self.learn(metadata);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::debug!(topic = %self.topic, %error, "cannot look for leaders");
                true
            }
        }
    }
}

/// Where the topic is, as far as was heard.
#[derive(Debug)]
struct TopicPlace {
    id: TopicId,
    /// The shard that each partition lives in.
    shards: Vec<ShardId>,
}

/// Looks for new partitions from time to time, as long as the producer lives.
async fn watch_topic(shared: Weak<Shared>) {
    loop {
        let Some(interval) = shared
            .upgrade()
            .filter(|shared| !shared.accumulator.lock().is_closed())
            .map(|shared| shared.client.config().metadata_refresh)
        else {
            return;
        };
        sleep(interval).await;
        if let Some(shared) = shared.upgrade() {
            shared.refresh(Instant::now()).await;
        }
    }
}

/// Starts the task of a partition, unless it has one.
pub(super) fn spawn(shared: &Arc<Shared>, partition: u32) {
    let signal = Arc::new(Notify::new());
    if shared.accumulator.lock().assign_worker(partition, &signal) {
        signal.notify_one();
        let delivery = DeliveryOptions {
            in_flight_max: shared.options.in_flight_max,
            backoff: shared.client.config().reconnect,
        };
        let worker = Worker {
            shared: Arc::clone(shared),
            partition,
            signal,
            sent: Notify::new(),
            waiting_since: Mutex::new(Instant::now()),
            delivery: Mutex::new(Delivery::new(delivery, rand::random())),
            last_failure: Mutex::new(None),
            is_set_back: AtomicBool::new(false),
        };
        tokio::spawn(worker.run());
    }
}

/// A batch on its way: built when it is first sent, and kept until it is settled.
#[derive(Debug)]
struct Outgoing {
    form: Form,
    _memory: Memory,
}

#[derive(Debug)]
enum Form {
    Gathered(Box<BatchBuilder>),
    Built(Batch, Identity),
    /// It could not be built, or is being built.
    Gone,
}

/// Gives the bytes of a batch back when it is gone.
#[derive(Debug)]
struct Memory {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.accumulator.lock().release(self.bytes);
        self.shared.room.notify_waiters();
    }
}

/// Who waits for the outcome of a batch.
#[derive(Debug)]
struct Waiter {
    completion: Arc<Completion>,
    records: u32,
    shares: Vec<Share>,
}

type PartitionDelivery = Delivery<Outgoing, Waiter>;

/// Why a stream is no longer used.
enum End {
    /// There was nothing to send.
    Idle,
    /// Another broker leads the partition by now.
    Moved,
    /// It broke, or must be replaced.
    Lost(String),
}

/// Where a partition is, as far as was known when its stream was opened.
#[derive(Clone, Copy)]
struct Place {
    shard: ShardId,
    /// The leader; `None` if it was not known.
    leader: Option<BrokerId>,
}

struct Worker {
    shared: Arc<Shared>,
    partition: u32,
    /// Told when there is something to send.
    signal: Arc<Notify>,
    /// Told when there is something to wait for.
    sent: Notify,
    /// When the wait for the next answer began.
    waiting_since: Mutex<Instant>,
    /// Never contended: only the futures of this task use it.
    delivery: Mutex<PartitionDelivery>,
    last_failure: Mutex<Option<String>>,
    /// Whether there is a setback to be cleared; looked at with each answer, so no lock.
    is_set_back: AtomicBool,
}

impl Worker {
    async fn run(self) {
        let mut backoff = Backoff::new(self.shared.client.config().reconnect, rand::random());
        loop {
            if !self.has_work() {
                self.clear_setback();
                if self.shared.accumulator.lock().is_closed() {
                    return;
                }
                self.signal.notified().await;
                continue;
            }
            let place = self.place();
            let Some(opened) = self.unless_all_expire(self.open(place)).await else {
                continue;
            };
            let end = match opened {
                Ok((writer, reader)) => self.carry(place, writer, reader, &mut backoff).await,
                Err(end) => end,
            };
            match end {
                End::Idle => {}
                End::Moved => self.shared.accumulator.lock().suspend_clock(),
                End::Lost(text) => self.recover(place, text, &mut backoff).await,
            }
        }
    }

    /// Waits until another stream is worth a try.
    async fn recover(&self, place: Place, text: String, backoff: &mut Backoff) {
        tracing::debug!(topic = %self.shared.topic, partition = self.partition, text, "produce stream lost");
        self.note_setback(text.clone());
        *self.last_failure.lock() = Some(text);
        self.shared.accumulator.lock().suspend_clock();
        let since = Instant::now();
        let client = &self.shared.client;
        let again = async {
            sleep(backoff.next_delay()).await;
            Box::pin(self.shared.refresh(since)).await
        };
        let recovered = async {
            tokio::select! {
                biased;
                () = client.led_elsewhere(place.shard, place.leader, Duration::ZERO) => true,
                topic_is_there = again => topic_is_there,
            }
        };
        match self.unless_all_expire(recovered).await {
            Some(false) => self.fail_all_for_lack_of_topic(),
            Some(true) if self.partition_is_gone() => self.fail_all_for_lack_of_partition(),
            Some(true) | None => {}
        }
    }

    fn has_work(&self) -> bool {
        !self.delivery.lock().is_empty()
            || self
                .shared
                .accumulator
                .lock()
                .oldest(self.partition)
                .is_some()
    }

    fn place(&self) -> Place {
        let topic = self.shared.place.lock();
        let shard = topic.shards.get(self.partition as usize).copied();
        let shard = shard.unwrap_or_default();
        Place {
            shard,
            leader: self.shared.client.cluster().leader(shard),
        }
    }

    /// Opens a stream at the leader, unless it takes long and another one leads by then.
    async fn open(&self, place: Place) -> Result<(FrameWriter, FrameReader), End> {
        let Place { shard, leader } = place;
        tokio::select! {
            biased;
            opened = self.open_at(leader) => opened.map_err(End::Lost),
            () = self.shared.client.led_elsewhere(shard, leader, LEADER_STALL) => Err(End::Moved),
        }
    }

    async fn open_at(
        &self,
        leader: Option<BrokerId>,
    ) -> Result<(FrameWriter, FrameReader), String> {
        let broker = self.shared.client.broker(leader);
        let connection = broker.connection().await.map_err(|e| e.to_string())?;
        let (send, receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
        let mut writer = FrameWriter::new(send);
        let open = StreamOpen::Produce(ProduceOpen {
            topic: self.shared.topic.clone(),
            partition: self.partition,
        });
        writer.push(&open, Payload::None);
        Ok((writer, FrameReader::new(receive, DATA_LIMITS)))
    }

    /// Uses a stream until it is idle or lost.
    async fn carry(
        &self,
        place: Place,
        mut writer: FrameWriter,
        mut reader: FrameReader,
        backoff: &mut Backoff,
    ) -> End {
        self.delivery.lock().stream_opened();
        let end = tokio::select! {
            biased;
            end = self.read(&mut reader, backoff) => end,
            end = self.write(&mut writer) => end,
            end = self.watch_deadlines() => end,
            end = self.watch_leader(place) => end,
        };
        match end {
            End::Idle => writer.finish(),
            End::Moved | End::Lost(_) => writer.reset(0),
        }
        self.delivery.lock().stream_lost();
        end
    }

    async fn read(&self, reader: &mut FrameReader, backoff: &mut Backoff) -> End {
        loop {
            let acks = match reader.next::<ProduceAcks>().await {
                Ok(Some((acks, 0))) => acks,
                Ok(Some(_)) => return End::Lost("an answer came with a payload".to_owned()),
                Ok(None) => return End::Lost("the broker ended the stream".to_owned()),
                Err(error) => return End::Lost(error.to_string()),
            };
            let now = Instant::now();
            *self.waiting_since.lock() = now;
            for outcome in acks.outcomes {
                let refusal = outcome.as_ref().err().cloned();
                match &refusal {
                    None => {
                        backoff.reset();
                        self.clear_setback();
                    }
                    Some(error) => {
                        if let Some(leader) = error.leader {
                            self.shared.client.cluster().hear(leader);
                        }
                    }
                }
                let resolved = self.delivery.lock().on_outcome(now, outcome);
                match resolved {
                    Ok(resolved) => {
                        if let Some(refusal) = refusal.filter(|_| resolved.is_none()) {
                            self.note_refusal(refusal);
                        }
                        self.settle(resolved);
                    }
                    Err(unexpected) => return End::Lost(unexpected.to_string()),
                }
            }
            self.signal.notify_one();
        }
    }

    /// A batch was refused and is sent again.
    fn note_refusal(&self, error: WireError) {
        match error.code {
            // What came before it was refused, or may be stored: that is the reason to tell.
            ErrorCode::OutOfSequence | ErrorCode::ProducerFenced => {}
            _ => self.note_setback(error.text),
        }
    }

    fn note_setback(&self, reason: String) {
        self.is_set_back.store(true, Ordering::Relaxed);
        self.shared.setbacks.note(self.partition, reason);
    }

    fn clear_setback(&self) {
        if self.is_set_back.load(Ordering::Relaxed) {
            self.is_set_back.store(false, Ordering::Relaxed);
            self.shared.setbacks.clear(self.partition);
        }
    }

    async fn write(&self, writer: &mut FrameWriter) -> End {
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
            let stalls = !is_idle && in_flight > 0 && wake_at.is_none();
            tokio::select! {
                () = self.signal.notified() => {}
                () = sleep_until(wake_at.unwrap_or_else(Instant::now).into()), if wake_at.is_some() => {}
                () = sleep(STALL), if stalls => {
                    self.shared.accumulator.lock().suspend_clock();
                    self.signal.notified().await;
                }
                () = sleep(STREAM_IDLE), if is_idle => return End::Idle,
            }
        }
    }

    /// Writes all batches that may be sent now.
    async fn write_what_is_there(
        &self,
        writer: &mut FrameWriter,
    ) -> Result<Gathers, flumen_transport::stream::WriteError> {
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
    fn accept(&self, gathered: Gathered) {
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

    /// Leaves a stream as soon as another broker is known to lead. When answers are late, others
    /// are asked whether it is so: a leader that is gone does not say it.
    async fn watch_leader(&self, place: Place) -> End {
        let Place { shard, leader } = place;
        let client = &self.shared.client;
        let mut changes = client.cluster().changes();
        loop {
            if client.cluster().is_led_elsewhere(shard, leader) {
                return End::Moved;
            }
            let waits = self.delivery.lock().in_flight() > 0;
            let waited = self.waiting_since.lock().elapsed();
            if waits && waited >= ANSWER_OVERDUE {
                self.note_setback("the broker does not answer".to_owned());
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = self.sent.notified(), if !waits => {}
                () = sleep(LEADER_STALL.saturating_sub(waited)), if waits && waited < LEADER_STALL => {}
                () = client.led_elsewhere(shard, leader, Duration::ZERO), if waits && waited >= LEADER_STALL => {}
                () = sleep(LEADER_STALL), if waits && waited >= LEADER_STALL => {}
            }
        }
    }

    /// Gives up what is overdue, for as long as a stream is used.
    async fn watch_deadlines(&self) -> End {
        loop {
            sleep_until(self.next_deadline().into()).await;
            self.expire();
            if let Some(reason) = self.delivery.lock().wants_new_stream() {
                return End::Lost(reason.to_owned());
            }
            self.signal.notify_one();
        }
    }

    /// Awaits `future`, and gives up meanwhile what is overdue, and all when the client is
    /// closed; `None` if nothing is left.
    async fn unless_all_expire<R>(&self, future: impl Future<Output = R>) -> Option<R> {
        let mut future = std::pin::pin!(future);
        let mut closed = std::pin::pin!(self.shared.client.closed());
        loop {
            tokio::select! {
                biased;
                () = &mut closed => {
                    self.fail_all(&DeliveryError::GivenUp(None));
                    return None;
                }
                result = &mut future => return Some(result),
                () = sleep_until(self.next_deadline().into()) => {
                    self.expire();
                    if !self.has_work() {
                        return None;
                    }
                }
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let timeout = self.shared.options.delivery_timeout;
        let gathered = self.shared.accumulator.lock().oldest(self.partition);
        let sent = self.delivery.lock().next_deadline();
        let gathered = gathered.map(|created| created + timeout);
        let first = sent.into_iter().chain(gathered).min();
        // What comes later is due later.
        first.unwrap_or_else(|| Instant::now() + timeout)
    }

    fn expire(&self) {
        let now = Instant::now();
        if let Some(before) = now.checked_sub(self.shared.options.delivery_timeout) {
            loop {
                let overdue = self
                    .shared
                    .accumulator
                    .lock()
                    .take_older(self.partition, before);
                match overdue {
                    Some(batch) => self.accept(batch),
                    None => break,
                }
            }
        }
        let resolved = self.delivery.lock().expire(now);
        self.settle(resolved);
        if !self.has_work() {
            self.clear_setback();
        }
    }

    fn fail_all_for_lack_of_topic(&self) {
        let topic = &self.shared.topic;
        let text = format!("the topic was deleted; `flumen topic create {topic}` makes it anew");
        let error = WireError::new(ErrorCode::UnknownTopic, text);
        self.fail_all(&DeliveryError::Refused(error));
    }

    /// Whether the topic was deleted and made anew with fewer partitions.
    fn partition_is_gone(&self) -> bool {
        self.partition >= self.shared.accumulator.lock().partitions()
    }

    fn fail_all_for_lack_of_partition(&self) {
        let error = NoSuchPartition {
            topic: self.shared.topic.clone(),
            partition: self.partition,
            partitions: self.shared.accumulator.lock().partitions(),
        };
        let text = format!("the topic was deleted and made anew: {error}");
        let error = WireError::new(ErrorCode::UnknownPartition, text);
        self.fail_all(&DeliveryError::Refused(error));
    }

    /// Gives up all that waits.
    fn fail_all(&self, error: &DeliveryError) {
        while let Some(batch) = {
            let mut accumulator = self.shared.accumulator.lock();
            accumulator.take_older(self.partition, Instant::now())
        } {
            self.accept(batch);
        }
        let resolved = self.delivery.lock().fail_all(error);
        self.settle(resolved);
    }

    /// Tells those who wait what became of their batches.
    fn settle(&self, resolved: impl IntoIterator<Item = Resolved<Waiter>>) {
        for Resolved { waiter, result } in resolved {
            let result = result.map_err(|error| {
                let error = self.explain(error);
                for share in waiter.shares {
                    if !self.shared.accumulator.lock().note_failure(share, &error) {
                        let records = share.unawaited;
                        tracing::warn!(topic = %self.shared.topic, records, %error, "messages of a dropped producer failed");
                    }
                }
                Arc::new(error)
            });
            waiter.completion.complete(BatchOutcome {
                result,
                records: waiter.records,
            });
        }
    }

    fn explain(&self, error: DeliveryError) -> SendError {
        let error = match error {
            DeliveryError::NotSent(None) => {
                DeliveryError::NotSent(self.last_failure.lock().clone())
            }
            DeliveryError::GivenUp(None) => {
                DeliveryError::GivenUp(self.last_failure.lock().clone())
            }
            error => error,
        };
        let after = self.shared.options.delivery_timeout;
        SendError::of_delivery(&error, &self.shared.topic, after)
    }
}

/// Whether records wait that are not sent yet.
#[derive(Clone, Copy)]
enum Gathers {
    Nothing,
    Some,
    Until(Instant),
}

impl Identity {
    fn of(self, producer_id: ProducerId) -> ProducerSequence {
        ProducerSequence {
            producer_id,
            epoch: self.epoch,
            sequence: self.sequence,
        }
    }
}

impl Outgoing {
    /// The encoded batch under this identity.
    fn batch(
        &mut self,
        identity: Identity,
        producer_id: ProducerId,
        codec: Codec,
    ) -> Result<&Batch, BatchError> {
        let sequence = identity.of(producer_id);
        let batch = match std::mem::replace(&mut self.form, Form::Gone) {
            Form::Gathered(builder) => builder.build_sequenced(codec, sequence)?,
            Form::Built(batch, earlier) if earlier == identity => batch,
            Form::Built(batch, _) => batch.sequenced(sequence),
            Form::Gone => return Err(BatchError::Malformed("it could not be built before")),
        };
        self.form = Form::Built(batch, identity);
        match &self.form {
            Form::Built(batch, _) => Ok(batch),
            Form::Gathered(_) | Form::Gone => unreachable!("it was just built"),
        }
    }
}
