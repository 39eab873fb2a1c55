//! Producers: typed values in, durable receipts out.
//!
//! Records gather in the open batch of their partition ([`accumulator`]); one task a
//! partition takes the batches, writes them to a stream of its own and reads the answers
//! ([`worker`]); what to send, to repeat and to give up is decided by a state machine that
//! does no I/O ([`delivery`]). Producers of one client that send the same way share all of that
//! ([`registry`]), and each has an account of what is its own ([`accounts`]).

mod accounts;
mod accumulator;
mod builder;
mod clock;
mod completion;
mod delivery;
mod error;
mod many;
mod partitioner;
mod registry;
mod room;
mod worker;

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use flumen_protocol::{
    ids::Offset,
    topic::{NoSuchPartition, TopicName},
};
use serde::Serialize;

pub(crate) use self::registry::Deliveries;
use self::{
    accounts::AccountId,
    accumulator::{NewRecord, NotTaken, Taken},
    completion::{BatchOutcome, Completion, Wait},
    room::Queued,
    worker::Shared,
};
pub use self::{
    builder::{
        BATCH_BYTES, DELIVERY_TIMEOUT, IN_FLIGHT_BATCHES_MAX, LINGER, MEMORY_BYTES_MAX,
        ProducerBuilder,
    },
    error::{FlushError, SendAllError, SendError},
};
use crate::{
    message::Message,
    payload::{self, Format},
    setback::Setback,
};

/// A message is durable: the broker has acknowledged it as its sync policy says (`always`:
/// synced to disk on a majority of replicas; `every …`: written by a majority).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The partition.
    pub partition: u32,
    /// Its place in the partition. `None`: it cannot be told. Plugins on the topic have dropped
    /// records of its batch, sent some elsewhere, or returned others for them, and do not say which
    /// became which; this one may be stored or not. Of a message that is alone in its batch, `None`
    /// says that it was dropped, sent elsewhere, or made several; or, of a `duplicate`, that the
    /// broker has forgotten.
    pub offset: Option<Offset>,
    /// When it was appended, in milliseconds since the epoch.
    pub append_time_ms: u64,
    /// Whether the broker had it already, from an attempt whose answer was lost. It is
    /// stored once.
    pub duplicate: bool,
}

/// Sends values of type `T` to one topic. Cheap to clone; a clone is the same producer.
///
/// ```no_run
/// # use flumen_client::{Client, Message};
/// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let producer = client.producer::<String>("greetings").build().await?;
/// // Wait for the receipt: the message is durable.
/// let receipt = producer.send(Message::new("hello".to_owned()).key("en")).await?;
/// println!("at {:?} of partition {}", receipt.offset, receipt.partition);
/// // Or go on at once, and wait for all of them together.
/// for n in 0..1_000 {
///     producer.enqueue(format!("hello {n}")).await?;
/// }
/// producer.flush().await?;
/// # Ok(()) }
/// ```
///
/// # Order
/// Messages of one partition are stored in the order in which they were given to the
/// producer, and each once, whatever is lost and repeated on the way.
///
/// # Sharing
/// Producers that a client (or its clones) builds for one topic with equal settings share a
/// delivery: their records travel in the same batches and streams, under one limit of memory.
/// That is what makes many tasks with a producer each fast, so there is no need to hand one
/// producer around. Order holds for each, and for all together. Each stays its own otherwise:
/// it is told of the failures of its own messages, waits when flushing for batches with
/// messages of its own, and closing or dropping it closes none of the others. What is shared
/// is the fate of a batch: messages that are sent together are refused together, as those that
/// one producer sends at once, and while one producer fills the memory all wait for room.
/// [`ProducerBuilder::dedicated`] gives a producer a delivery of its own.
///
/// # Dropping
/// When the last clone is dropped, what was enqueued is still sent in the background, until
/// it is settled or its time is up, if the runtime lives that long. [`Producer::close`]
/// waits for that and tells what failed.
#[derive(Debug)]
pub struct Producer<T> {
    handle: Arc<Handle>,
    marker: PhantomData<fn(T)>,
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            marker: PhantomData,
        }
    }
}

/// Closes the producer when the last clone is gone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    account: AccountId,
    format: Format,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let failures = self.shared.accumulator.lock().leave_account(self.account);
        if let Some(failures) = failures {
            tracing::warn!(topic = %self.shared.topic, "producer dropped without being flushed: {failures}");
        }
    }
}

impl<T: Serialize + 'static> Producer<T> {
    /// Sends a message and waits for its receipt.
    ///
    /// Messages are taken in the order in which the calls are first polled; many calls may
    /// wait at the same time.
    ///
    /// # Cancel safety
    /// A message is taken at the first poll, or, while the producer's memory is full, when its turn
    /// comes. Until it is taken, dropping the call withdraws it; from then on it is sent all the
    /// same. To know which, use [`Producer::submit`].
    ///
    /// # Errors
    /// [`SendError::is_unknown`] tells whether the message may be stored in spite of the
    /// error.
    pub async fn send(&self, message: impl Into<Message<T>>) -> Result<Receipt, SendError> {
        self.submit(message).await?.await
    }

    /// Hands a message over, and returns a future of its receipt: for many in flight from
    /// one task. Waits only while the producer's memory is full.
    ///
    /// # Cancel safety
    /// A call that is dropped has not taken the message; once it has returned, the message is sent,
    /// whatever becomes of the future.
    pub async fn submit(
        &self,
        message: impl Into<Message<T>>,
    ) -> Result<PendingReceipt, SendError> {
        let message = message.into();
        let handed = match self.try_push(&message, true, false) {
            Err(None) => self.push_when_there_is_room(&message, true).await?,
            Err(Some(error)) => return Err(error),
            Ok(handed) => handed,
        };
        Ok(handed.receipt())
    }

    /// Hands a message over without waiting for its receipt: the fast way to send many.
    /// Waits only while the producer's memory is full.
    ///
    /// # Errors
    /// Those of this message at once: it was not taken. Those of enqueued messages that failed later
    /// by the next call or by [`Producer::flush`], whichever comes first. That is
    /// [`SendError::Earlier`], the one error with which this message was taken all the same.
    ///
    /// # Cancel safety
    /// A call that is dropped before it has returned has not taken the message.
    #[inline]
    pub async fn enqueue(&self, message: impl Into<Message<T>>) -> Result<(), SendError> {
        let message = message.into();
        let handed = match self.try_push(&message, false, false) {
            Err(None) => self.push_when_there_is_room(&message, false).await?,
            Err(Some(error)) => return Err(error),
            Ok(handed) => handed,
        };
        if handed.taken.has_failures() {
            self.report_failures()?;
        }
        Ok(())
    }

    /// Waits until everything that was given to the producer before is settled.
    ///
    /// # Errors
    /// How many enqueued messages failed since this was last reported.
    ///
    /// # Cancel safety
    /// A call that is dropped only does not wait; failures are told by the next one.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let Handle {
            shared, account, ..
        } = &*self.handle;
        let unsettled = shared.accumulator.lock().hurry(*account);
        for completion in unsettled {
            Wait::new(completion).await;
        }
        let failures = shared.accumulator.lock().take_failures(*account);
        match failures {
            Some(failures) => Err(*failures),
            None => Ok(()),
        }
    }

    /// Takes no more messages, from any clone, and waits until all are settled.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    ///
    /// # Cancel safety
    /// The producer is closed at the first poll. A call that is dropped only does not wait, and
    /// failures are told by nobody but the log.
    pub async fn close(self) -> Result<(), FlushError> {
        let Handle {
            shared, account, ..
        } = &*self.handle;
        shared.accumulator.lock().close(*account);
        self.flush().await
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.handle.shared.topic
    }

    /// How many partitions the topic has, as far as the producer knows.
    pub fn partitions(&self) -> u32 {
        self.handle.shared.accumulator.lock().partitions()
    }

    /// Why messages wait at the moment, if the attempts to deliver them fail: of the partition
    /// where that has lasted longest. `None` if all is well, or nothing waits. Producers that
    /// share a delivery have their setbacks in common.
    ///
    /// Nothing is lost by a setback: the messages are sent again until their time is up.
    pub fn setback(&self) -> Option<Setback> {
        self.handle.shared.setbacks.longest()
    }

    #[cold]
    async fn push_when_there_is_room(
        &self,
        message: &Message<T>,
        awaited: bool,
    ) -> Result<Handed, SendError> {
        let shared = &self.handle.shared;
        let queued = Queued::enter(shared, self.handle.account);
        let push = |has_turn| match self.try_push(message, awaited, has_turn) {
            Ok(handed) => Some(Ok(handed)),
            Err(Some(error)) => Some(Err(error)),
            Err(None) => None,
        };
        let pushed = queued.until_room(push);
        let after = shared.options.delivery_timeout;
        let in_time = tokio::time::timeout(after, pushed).await;
        in_time.unwrap_or_else(|_| {
            Err(SendError::Full {
                topic: shared.topic.clone(),
                bytes_max: shared.options.memory_bytes_max,
                after,
            })
        })
    }

    /// Adds a message to its batch. The error is `None` when there is no room for it, or others
    /// wait for some and it is not its turn.
    fn try_push(
        &self,
        message: &Message<T>,
        awaited: bool,
        has_turn: bool,
    ) -> Result<Handed, Option<SendError>> {
        let Handle {
            shared, account, ..
        } = &*self.handle;
        let push = |value: Option<&[u8]>| {
            let record = NewRecord {
                value,
                key: message.key.as_deref(),
                headers: &message.headers,
                timestamp_ms: message.timestamp_ms,
                partition: message.partition,
                awaited,
                has_turn,
            };
            let mut accumulator = shared.accumulator.lock();
            let taken = accumulator.push(*account, &record)?;
            let completion = if awaited {
                accumulator.last_completion(taken.partition())
            } else {
                None
            };
            if accumulator.needs_worker(taken.partition()) {
                drop(accumulator);
                worker::spawn(shared, taken.partition());
            }
            Ok(Handed { taken, completion })
        };
        let pushed: Result<Handed, Box<NotTaken>> = match &message.value {
            None => push(None),
            Some(value) => {
                let pushed = payload::encode(self.handle.format, value, |bytes| push(Some(bytes)));
                pushed.map_err(|error| SendError::Encode {
                    topic: shared.topic.clone(),
                    source: Arc::new(error),
                })?
            }
        };
        pushed.map_err(|refused| self.explain(*refused))
    }

    /// An error if messages have failed that were enqueued before, the first time it is asked.
    #[cold]
    fn report_failures(&self) -> Result<(), SendError> {
        let Handle {
            shared, account, ..
        } = &*self.handle;
        match shared.accumulator.lock().take_failures(*account) {
            Some(failures) => Err(SendError::Earlier(Arc::new(*failures))),
            None => Ok(()),
        }
    }

    #[cold]
    fn explain(&self, refused: NotTaken) -> Option<SendError> {
        let topic = self.handle.shared.topic.clone();
        match refused {
            NotTaken::Full => None,
            NotTaken::Closed => Some(SendError::Closed { topic }),
            NotTaken::Stopped => Some(SendError::Stopped { topic }),
            NotTaken::Invalid(source) => Some(SendError::Invalid { topic, source }),
            NotTaken::UnknownPartition {
                partition,
                partitions,
            } => Some(SendError::UnknownPartition(NoSuchPartition {
                topic,
                partition,
                partitions,
            })),
        }
    }
}

/// A message that was handed over.
struct Handed {
    taken: Taken,
    /// Where the outcome will be, if somebody awaits it.
    completion: Option<Arc<Completion>>,
}

/// The receipt of a message that was handed over, once there is one.
#[derive(Debug)]
#[must_use = "the message is sent in any case, but nobody learns whether that failed"]
pub struct PendingReceipt {
    wait: Wait,
    partition: u32,
    index: u32,
}

impl PendingReceipt {
    /// The partition that the message goes to.
    pub fn partition(&self) -> u32 {
        self.partition
    }
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(outcome) = Pin::new(&mut self.wait).poll(ctx) else {
            return Poll::Pending;
        };
        Poll::Ready(receipt(&outcome, self.partition, self.index))
    }
}

fn receipt(outcome: &BatchOutcome, partition: u32, index: u32) -> Result<Receipt, SendError> {
    let batch = match &outcome.result {
        Ok(batch) => batch,
        Err(error) => return Err(SendError::clone(error)),
    };
    let is_whole = batch.stored == outcome.records;
    let base_offset = batch.base_offset.filter(|_| is_whole);
    Ok(Receipt {
        partition,
        offset: base_offset.map(|base| base.plus(index.into())),
        append_time_ms: batch.append_time_ms,
        duplicate: batch.duplicate,
    })
}

/// The settings of a producer, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ProducerOptions {
    linger: Duration,
    memory_bytes_max: usize,
    in_flight_max: usize,
    delivery_timeout: Duration,
}
