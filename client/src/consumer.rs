//! Consumers: messages of a topic as a stream, pushed by the broker.
//!
//! A background task keeps one consume stream to each broker that leads partitions of the
//! topic ([`fetch`]) and checks what comes; the consumer takes it batch by batch and decodes
//! message by message ([`batch`]). What is not taken fills a bounded buffer and then QUIC's
//! flow control, which stops the broker.

mod avoided;
mod batch;
mod builder;
mod ends;
mod error;
mod fetch;
mod outage;
mod place;
mod position;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use flumen_protocol::{ids::Offset, topic::TopicName};
use futures_core::Stream;
use tokio::sync::mpsc;

use self::{batch::Reading, fetch::Event, position::Progress};
pub use self::{
    batch::ReceivedBatch,
    builder::{BUFFER_BYTES, ConsumerBuilder},
    error::ConsumeError,
};
use crate::{
    message::Received,
    setback::{Setback, Setbacks},
};

/// Receives the messages of a topic as values of type `T`.
///
/// ```no_run
/// # use flumen_client::{Client, StartAt};
/// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let mut greetings = client
///     .consumer::<String>("greetings")
///     .from(StartAt::Beginning)
///     .build()
///     .await?;
/// while let Some(message) = greetings.next().await {
///     let message = message?;
///     println!("{}/{}: {}", message.partition, message.offset, message.value);
/// }
/// # Ok(()) }
/// ```
///
/// Messages of one partition come in order, each once per consumer, also over reconnects;
/// partitions are read side by side. A consumer is also a [`Stream`].
///
/// # Errors
/// An error stands in the place of what could not be read, such as a value of another type. The loop
/// above ends there. Unless [`ConsumeError::is_fatal`] says otherwise, the next call goes on behind
/// it:
///
/// ```no_run
/// # use flumen_client::{ConsumeError, Consumer};
/// # async fn run(mut greetings: Consumer<String>) -> Result<(), ConsumeError> {
/// while let Some(message) = greetings.next().await {
///     match message {
///         Ok(message) => println!("{}", message.value),
///         Err(error) if error.is_fatal() => return Err(error),
///         Err(error) => eprintln!("passed over: {error}"),
///     }
/// }
/// # Ok(()) }
/// ```
///
/// That no broker can be reached for a while is no error: the consumer waits, and goes on where it
/// was.
#[derive(Debug)]
pub struct Consumer<T> {
    reading: Arc<Reading<T>>,
    events: mpsc::Receiver<Event>,
    /// What came before all partitions had started.
    early: VecDeque<Event>,
    current: Option<Current<T>>,
    progress: Progress,
    setbacks: Arc<Setbacks>,
    stops_at_end: bool,
    ended: bool,
}

/// The batch whose messages are handed out.
#[derive(Debug)]
struct Current<T> {
    batch: ReceivedBatch<T>,
    /// The offset after the batch.
    end: Offset,
}

type Item<T> = Result<T, ConsumeError>;

impl<T> Consumer<T> {
    /// The next message; waits until there is one, also while no broker can be read from
    /// ([`Consumer::setback`] tells). `None` after a fatal error, and at the end if the consumer was
    /// told to stop there.
    ///
    /// # Cancel safety
    /// A call that is dropped has taken no message.
    #[inline]
    pub async fn next(&mut self) -> Option<Item<Received<T>>> {
        std::future::poll_fn(|ctx| self.poll_message(ctx)).await
    }

    /// All messages of the next batch, or those that are left of it: less work a message
    /// than [`Consumer::next`].
    ///
    /// # Cancel safety
    /// A call that is dropped has taken no message.
    pub async fn next_batch(&mut self) -> Option<Item<ReceivedBatch<T>>> {
        std::future::poll_fn(|ctx| self.poll_batch(ctx)).await
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.reading.topic
    }

    /// The offset of the next message of each partition: where another consumer would have
    /// to start to go on behind what this one has handed out, as with
    /// [`ConsumerBuilder::resume`].
    pub fn positions(&self) -> Vec<(u32, Offset)> {
        let current = self.current.as_ref();
        let at = |partition: u32, reached: Offset| match current {
            Some(current) if current.batch.partition == partition => {
                current.batch.next_offset().unwrap_or(current.end)
            }
            _ => reached,
        };
        let positions = self.progress.positions();
        positions
            .map(|(partition, reached)| (partition, at(partition, reached)))
            .collect()
    }

    /// Why nothing comes at the moment, if the attempts to read fail: of the partition where that
    /// has lasted longest. `None` if all is well.
    ///
    /// Nothing is lost by a setback, and it is no error: the consumer waits, however long it takes,
    /// and goes on where it was. To end instead, look at this while [`Consumer::next`] takes long.
    pub fn setback(&self) -> Option<Setback> {
        self.setbacks.longest()
    }

    #[inline]
    fn poll_message(&mut self, ctx: &mut Context<'_>) -> Poll<Option<Item<Received<T>>>> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(message) = current.batch.next() {
                    return Poll::Ready(Some(message));
                }
                self.finish_current();
            }
            match ready!(self.poll_current(ctx)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn poll_batch(&mut self, ctx: &mut Context<'_>) -> Poll<Option<Item<ReceivedBatch<T>>>> {
        loop {
            if let Some(current) = self.current.take() {
                self.progress.reached(current.batch.partition, current.end);
                if !current.batch.is_empty() {
                    return Poll::Ready(Some(Ok(current.batch)));
                }
            }
            match ready!(self.poll_current(ctx)) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Receives events until there is a batch to hand out.
    fn poll_current(&mut self, ctx: &mut Context<'_>) -> Poll<Option<Item<()>>> {
        loop {
            if self.ended || self.stops_at_end && self.progress.is_complete() {
                self.ended = true;
                return Poll::Ready(None);
            }
            let received = match self.early.pop_front() {
                Some(event) => Some(event),
                None => ready!(self.events.poll_recv(ctx)),
            };
            let Some(event) = received else {
                // Whoever fetches says why it ends, if nothing is wrong.
                self.ended = true;
                let stopped = ConsumeError::stopped(self.topic(), "its task is gone");
                return Poll::Ready(Some(Err(stopped)));
            };
            match self.on_event(event) {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(Some(Ok(()))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Takes an event; true if there is a batch to hand out now.
    fn on_event(&mut self, event: Event) -> Item<bool> {
        match event {
            Event::Started(starts) => {
                for start in &starts {
                    self.progress.started(start);
                }
                Ok(false)
            }
            Event::Described(starts) => {
                for start in &starts {
                    self.progress.described(start);
                }
                Ok(false)
            }
            Event::Batch {
                partition,
                columns,
                from,
                end,
                memory,
            } => {
                drop(memory);
                let to = self.progress.end(partition).filter(|_| self.stops_at_end);
                let reading = Arc::clone(&self.reading);
                let batch = ReceivedBatch::new(reading, partition, columns, from, to);
                if let Err(error) = batch.check_type() {
                    self.progress.reached(partition, end);
                    return Err(error);
                }
                self.current = Some(Current { batch, end });
                Ok(true)
            }
            Event::PassedOver {
                partition,
                end,
                error,
            } => {
                if let Some(end) = end {
                    self.progress.reached(partition, end);
                }
                Err(error)
            }
            Event::Unreadable { partition, error } => {
                self.progress.given_up(partition);
                Err(error)
            }
            Event::Failed(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }

    fn finish_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.progress.reached(current.batch.partition, current.end);
        }
    }
}

impl<T> Stream for Consumer<T> {
    type Item = Item<Received<T>>;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_message(ctx)
    }
}
