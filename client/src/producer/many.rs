//! Many messages at once. Each message takes the lock around the open batches, and the processor
//! gives it back only once the message's bytes have reached the batch's memory. So messages are
//! taken by the chunk, and each chunk under one lock.
//!
//! Nothing of the caller's runs under the lock: neither its iterator nor its serialisation.

use std::sync::Arc;

use serde::Serialize;

use super::{
    Handed, PendingReceipt, Producer,
    accumulator::{NewRecord, NotTaken},
    completion::Wait,
    error::{SendAllError, SendError},
    worker,
};
use crate::{message::Message, payload};

/// Messages of one chunk.
const CHUNK_MESSAGES_MAX: usize = 64;

/// A chunk with more bytes than this takes no more messages: a task that sends batches may wait
/// for the lock.
const CHUNK_BYTES_ENOUGH: usize = 64 * 1024;

impl<T: Serialize + 'static> Producer<T> {
    /// Hands many messages over, as [`Producer::enqueue`] does with one: for those who have
    /// them at hand, the fastest way to send. Waits only while the producer's memory is full.
    ///
    /// ```no_run
    /// # use flumen_client::Client;
    /// # async fn run(client: Client, lines: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    /// let producer = client.producer::<String>("lines").build().await?;
    /// producer.enqueue_all(lines).await?;
    /// producer.flush().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`Producer::enqueue`]. [`SendAllError::taken`] messages are on their way, and those
    /// behind them are not sent. With [`SendError::Earlier`] every message that was taken from the
    /// iterator is on its way.
    ///
    /// # Cancel safety
    /// Not safe to cancel: of a call that is dropped nobody knows how many messages were taken, and
    /// up to 64 that were taken from the iterator are not sent.
    pub async fn enqueue_all<M: Into<Message<T>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<(), SendAllError> {
        self.hand_over_all(messages, false, |_| {}).await
    }

    /// Hands many messages over, as [`Producer::submit`] does with one, and adds a future of the
    /// receipt of each to `receipts`, in their order.
    ///
    /// # Errors
    /// Those of [`Producer::submit`]. [`SendAllError::taken`] messages are on their way, with their
    /// receipts, and those behind them are not sent.
    ///
    /// # Cancel safety
    /// Of a call that is dropped the messages with a receipt in `receipts` are on their way. Up to 64
    /// behind them that were taken from the iterator are not sent.
    pub async fn submit_all<M: Into<Message<T>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
        receipts: &mut Vec<PendingReceipt>,
    ) -> Result<(), SendAllError> {
        self.hand_over_all(messages, true, |handed| receipts.push(handed.receipt()))
            .await
    }

    async fn hand_over_all<M: Into<Message<T>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
        awaited: bool,
        each: impl FnMut(Handed),
    ) -> Result<(), SendAllError> {
        let mut messages = messages.into_iter();
        let mut chunk = Chunk::default();
        let mut handed = HandedOver {
            awaited,
            taken: 0,
            has_failures: false,
            each,
        };
        loop {
            // Others may want this thread, however many messages there are.
            tokio::task::coop::consume_budget().await;
            let ended = self.fill(&mut chunk, &mut messages);
            let before = handed.taken;
            while let Some(refused) = self.push_chunk(&chunk, handed.taken - before, &mut handed) {
                let taken = handed.taken;
                let not_taken = |source| SendAllError { taken, source };
                if let Some(source) = self.explain(*refused) {
                    return Err(not_taken(source));
                }
                let next = &chunk.messages[taken - before];
                let waited = self.push_when_there_is_room(next, awaited);
                handed.add(waited.await.map_err(not_taken)?);
            }
            let taken = handed.taken;
            let not_taken = |source| SendAllError { taken, source };
            if let Ended::By(source) = ended {
                return Err(not_taken(source));
            }
            // Nothing that the caller's iterator has given is left.
            if handed.has_failures && !awaited {
                self.report_failures().map_err(not_taken)?;
                handed.has_failures = false;
            }
            if let Ended::AllTaken = ended {
                return Ok(());
            }
        }
    }

    /// Takes messages from the caller until the chunk is full.
    fn fill<M: Into<Message<T>>>(
        &self,
        chunk: &mut Chunk<T>,
        messages: &mut impl Iterator<Item = M>,
    ) -> Ended {
        chunk.clear();
        while chunk.messages.len() < CHUNK_MESSAGES_MAX && chunk.bytes < CHUNK_BYTES_ENOUGH {
            let Some(message) = messages.next() else {
                return Ended::AllTaken;
            };
            if let Err(error) = chunk.add(self.handle.format, message.into()) {
                return Ended::By(SendError::Encode {
                    topic: self.topic().clone(),
                    source: Arc::new(error),
                });
            }
        }
        Ended::NotYet
    }

    /// Adds the messages of a chunk from one on to their batches; returns why not one of them.
    fn push_chunk(
        &self,
        chunk: &Chunk<T>,
        from: usize,
        handed: &mut HandedOver<impl FnMut(Handed)>,
    ) -> Option<Box<NotTaken>> {
        let shared = &self.handle.shared;
        let awaited = handed.awaited;
        let mut without_worker = Vec::new();
        let mut refused = None;
        {
            let mut accumulator = shared.accumulator.lock();
            for index in from..chunk.messages.len() {
                let message = &chunk.messages[index];
                let record = NewRecord {
                    value: chunk.value(index),
                    key: message.key.as_deref(),
                    headers: &message.headers,
                    timestamp_ms: message.timestamp_ms,
                    partition: message.partition,
                    awaited,
                    has_turn: false,
                };
                match accumulator.push(self.handle.account, &record) {
                    Ok(taken) => {
                        let completion = if awaited {
                            accumulator.last_completion(taken.partition())
                        } else {
                            None
                        };
                        if accumulator.needs_worker(taken.partition()) {
                            without_worker.push(taken.partition());
                        }
                        handed.add(Handed { taken, completion });
                    }
                    Err(error) => {
                        refused = Some(error);
                        break;
                    }
                }
            }
        }
        for partition in without_worker {
            worker::spawn(shared, partition);
        }
        refused
    }
}

impl Handed {
    /// A future of the receipt of a message that is awaited.
    pub(super) fn receipt(self) -> PendingReceipt {
        let completion = self.completion.expect("an awaited record has a completion");
        PendingReceipt {
            wait: Wait::new(completion),
            partition: self.taken.partition(),
            index: self.taken.index(),
        }
    }
}

/// What was handed over so far.
struct HandedOver<F> {
    awaited: bool,
    taken: usize,
    /// Whether messages have failed that were enqueued before.
    has_failures: bool,
    each: F,
}

impl<F: FnMut(Handed)> HandedOver<F> {
    fn add(&mut self, handed: Handed) {
        self.taken += 1;
        self.has_failures |= handed.taken.has_failures();
        (self.each)(handed);
    }
}

/// Why no more messages come into a chunk.
enum Ended {
    /// It is full.
    NotYet,
    AllTaken,
    /// A message cannot be encoded.
    By(SendError),
}

/// Messages that are handed over together.
struct Chunk<T> {
    messages: Vec<Message<T>>,
    /// The values that are no bytes by themselves, one after the other.
    encoded: Vec<u8>,
    /// Where the encoded value of each message ends, if it has one.
    ends: Vec<usize>,
    bytes: usize,
}

impl<T> Default for Chunk<T> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            encoded: Vec::new(),
            ends: Vec::new(),
            bytes: 0,
        }
    }
}

impl<T: Serialize + 'static> Chunk<T> {
    fn clear(&mut self) {
        self.messages.clear();
        self.encoded.clear();
        self.ends.clear();
        self.bytes = 0;
    }

    fn add(
        &mut self,
        format: payload::Format,
        message: Message<T>,
    ) -> Result<(), payload::EncodeError> {
        if let Some(value) = &message.value {
            if let Some(bytes) = payload::as_bytes(value) {
                self.bytes += bytes.len();
            } else {
                let encoded = &mut self.encoded;
                payload::encode(format, value, |bytes| encoded.extend_from_slice(bytes))?;
            }
        }
        self.bytes += self.encoded.len() - self.ends.last().copied().unwrap_or(0);
        self.ends.push(self.encoded.len());
        self.messages.push(message);
        Ok(())
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        let value = self.messages[index].value.as_ref()?;
        payload::as_bytes(value).or_else(|| {
            let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
            self.encoded.get(start..self.ends[index])
        })
    }
}
