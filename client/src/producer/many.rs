//! Many messages at once. Each message takes the lock around the open batches, and the processor
//! gives it back only once the message's bytes have reached the batch's memory. So messages are
//! taken by the chunk, and each chunk under one lock.
//!
//! Nothing of the caller's runs under the lock: neither its iterator nor its serialisation.

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
    /// Those of [`Producer::enqueue`]. The messages before the one that was not taken are on
    /// their way, and those behind it are not sent.
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
    /// Those of [`Producer::submit`]. The messages before the one that was not taken are on
    /// their way, with their receipts, and those behind it are not sent.
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
        mut handed_over: impl FnMut(Handed),
    ) -> Result<(), SendAllError> {
        let mut messages = messages.into_iter();
        let mut chunk = Chunk::default();
        let mut taken = 0;
        loop {
            // Others may want this thread, however many messages there are.
            tokio::task::coop::consume_budget().await;
            let ended = self.fill(&mut chunk, &mut messages);
            let mut at = 0;
            while at < chunk.messages.len() {
                let (count, refused) = self.push_chunk(&chunk, at, awaited, &mut handed_over);
                at += count;
                taken += count;
                let Some(refused) = refused else { break };
                let not_taken = |source| SendAllError { taken, source };
                if let Some(source) = self.explain(*refused) {
                    return Err(not_taken(source));
                }
                let waited = self.push_when_there_is_room(&chunk.messages[at], awaited);
                handed_over(waited.await.map_err(not_taken)?);
                at += 1;
                taken += 1;
            }
            match ended {
                Ended::NotYet => {}
                Ended::AllTaken => return Ok(()),
                Ended::By(source) => return Err(SendAllError { taken, source }),
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
                    text: error.to_string(),
                });
            }
        }
        Ended::NotYet
    }

    /// Adds the messages of a chunk from one on to their batches; returns how many, and why not
    /// the next.
    fn push_chunk(
        &self,
        chunk: &Chunk<T>,
        from: usize,
        awaited: bool,
        handed_over: &mut impl FnMut(Handed),
    ) -> (usize, Option<Box<NotTaken>>) {
        let shared = &self.handle.shared;
        let mut without_worker = Vec::new();
        let mut count = 0;
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
                        handed_over(Handed { taken, completion });
                        count += 1;
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
        (count, refused)
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
