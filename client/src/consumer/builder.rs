//! Settings of a consumer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::AtomicU64},
};

use flumen_protocol::{
    ids::Offset,
    message::{PartitionStart, StartAt, TopicMetadata},
    topic::{Name, NoSuchPartition, TopicName},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{
    Consumer,
    batch::{ReadValue, Reading, read_optional_value, read_value},
    ends::Ends,
    error::ConsumeError,
    fetch::{Buffer, EVENTS_MAX, Event, Fetch},
    outage::Outage,
    place::Places,
    position::Progress,
};
use crate::{
    client::Client,
    connection::backoff::Backoff,
    payload::Format,
    request::RequestError,
    setback::{Cause, SetbackWatch, Setbacks},
};

/// Bytes of batches that may wait for the consumer, in memory and checked, besides those
/// that QUIC's flow control lets through.
pub const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Says what a [`Consumer`] reads, and from where.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is awaited"]
pub struct ConsumerBuilder<T> {
    client: Client,
    topic: String,
    start: StartAt,
    /// Partitions with a start of their own.
    starts: BTreeMap<u32, StartAt>,
    /// Whether only these are read.
    reads_named_only: bool,
    format: Format,
    /// That of the format and the type.
    content_type: String,
    /// What the user says instead.
    other_content_type: Option<String>,
    checks_type: bool,
    read_value: ReadValue<T>,
    stops_at_end: bool,
    buffer_bytes: usize,
    setbacks: Arc<Setbacks>,
}

impl<T: DeserializeOwned + 'static> ConsumerBuilder<T> {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        let format = Format::of::<T>();
        Self {
            client,
            topic,
            start: StartAt::Beginning,
            starts: BTreeMap::new(),
            reads_named_only: false,
            format,
            content_type: format.content_type::<T>(),
            other_content_type: None,
            checks_type: true,
            read_value: read_value::<T>,
            stops_at_end: false,
            buffer_bytes: BUFFER_BYTES,
            setbacks: Arc::default(),
        }
    }

    /// Reads values as JSON: what was sent as JSON of the same type or of none, and bytes
    /// that nobody described, such as the lines that `flumen produce` sends.
    pub fn json(mut self) -> Self {
        self.format = Format::Json;
        self.content_type = self.format.content_type::<T>();
        self
    }

    /// Hands out records without a value, too, as `None`: the tombstones of compacted
    /// topics. A consumer without this passes them over.
    pub fn with_tombstones(self) -> ConsumerBuilder<Option<T>> {
        ConsumerBuilder {
            client: self.client,
            topic: self.topic,
            start: self.start,
            starts: self.starts,
            reads_named_only: self.reads_named_only,
            format: self.format,
            content_type: self.content_type,
            other_content_type: self.other_content_type,
            checks_type: self.checks_type,
            read_value: read_optional_value::<T>,
            stops_at_end: self.stops_at_end,
            buffer_bytes: self.buffer_bytes,
            setbacks: self.setbacks,
        }
    }
}

impl<T> ConsumerBuilder<T> {
    /// Sets where to start in every partition. Default: [`StartAt::Beginning`].
    ///
    /// With [`StartAt::End`], everything that is produced after `build` has returned is
    /// received.
    pub fn from(mut self, start: StartAt) -> Self {
        self.start = start;
        self
    }

    /// Reads this partition, and none but those that are named. Without any, all partitions
    /// are read, also those that the topic gets later: they are noticed within the client's
    /// [`metadata_refresh`](crate::ClientBuilder::metadata_refresh) and read from their
    /// beginning.
    pub fn partition(self, partition: u32, start: StartAt) -> Self {
        self.partitions([(partition, start)])
    }

    /// As [`ConsumerBuilder::partition`], for several. Where these are none, such as the share of a
    /// service that has more instances than the topic has partitions, none is read. To go on where
    /// another consumer stopped, see [`ConsumerBuilder::resume`].
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = (u32, StartAt)>) -> Self {
        self.starts.extend(partitions);
        self.reads_named_only = true;
        self
    }

    /// Goes on where another consumer stopped, as its [`Consumer::positions`] said: these
    /// partitions start at these offsets, and all others, which the topic has got since or gets
    /// later, are read, too. Those that are there when this consumer is built start where
    /// [`ConsumerBuilder::from`] says, by default at their beginning.
    ///
    /// ```no_run
    /// # use flumen_client::{Client, Offset};
    /// # async fn run(client: Client, kept: Vec<(u32, Offset)>) -> Result<(), Box<dyn std::error::Error>> {
    /// let orders = client.consumer::<String>("orders").resume(kept).build().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// With [`ConsumerBuilder::partitions`] beside it, only those are read that either names.
    pub fn resume(mut self, positions: impl IntoIterator<Item = (u32, Offset)>) -> Self {
        let starts = positions.into_iter();
        let starts = starts.map(|(partition, offset)| (partition, StartAt::Offset(offset)));
        self.starts.extend(starts);
        self
    }

    /// Stops at the end of each partition as it is when the consumer is built. Where nobody knows
    /// it then, since a partition has no leader, it is where the next leader finds it: until then
    /// the consumer hands out what a copy has, looks for a leader, and does not end.
    ///
    /// Partitions that were added to the topic before are read, too. Only where every broker that
    /// answers is cut off from the one that leads the catalog may the newest be missed.
    pub fn until_end(mut self) -> Self {
        self.stops_at_end = true;
        self
    }

    /// Sets the content type that is read; see [`ConsumerBuilder::any_content_type`].
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.other_content_type = Some(content_type.into());
        self
    }

    /// Reads values whatever their content type says. Without this, values of a type with another
    /// name are an error that names both.
    pub fn any_content_type(mut self) -> Self {
        self.checks_type = false;
        self
    }

    /// Sets the bytes of batches that may wait for the consumer. Default: [`BUFFER_BYTES`].
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Tells what [`ConsumerBuilder::build`] waits for, while it does, and after it
    /// [`Consumer::setback`].
    pub fn setbacks(&self) -> SetbackWatch {
        SetbackWatch(Arc::clone(&self.setbacks))
    }

    /// Looks the topic up, starts reading, and waits until every partition has started.
    ///
    /// # Errors
    /// When the topic or a partition does not exist, the broker refuses, or it cannot be
    /// reached within the client's request time-out.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves nothing behind.
    pub async fn build(self) -> Result<Consumer<T>, ConsumeError> {
        let topic = Name::new(self.topic.clone()).map_err(RequestError::from)?;
        let setbacks = Arc::clone(&self.setbacks);
        let first = self.starts.keys().next().copied();
        let first = first.filter(|_| self.reads_named_only).unwrap_or(0);
        let nobody = format!("no broker has said yet where topic {topic} is");
        let _starting = Starting::note(&setbacks, first, nobody);
        let Some(metadata) = self.client.topic(&topic).await? else {
            return Err(RequestError::UnknownTopic { topic }.into());
        };
        let starts = self.starts(&topic, &metadata)?;
        let partitions: BTreeSet<u32> = starts.iter().map(|(partition, _)| *partition).collect();
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let fetch = Fetch {
            client: self.client.clone(),
            topic: topic.clone(),
            topic_id: metadata.id,
            events: sender,
            buffer: Buffer::new(self.buffer_bytes),
            follows_growth: !self.reads_named_only,
            ends: Ends::new(self.stops_at_end),
            batches: AtomicU64::new(0),
            places: Places::new(self.client.clone()),
            outage: Mutex::new(Outage::new(Backoff::new(
                self.client.config().reconnect,
                rand::random(),
            ))),
            setbacks: Arc::clone(&setbacks),
        };
        tokio::spawn(fetch.run(metadata, starts));
        let content_type = self.other_content_type.unwrap_or(self.content_type);
        let reading = Reading {
            topic,
            format: self.format,
            content_type: self.checks_type.then_some(content_type),
            read_value: self.read_value,
        };
        let mut consumer = Consumer {
            reading: Arc::new(reading),
            events,
            early: VecDeque::new(),
            current: None,
            progress: Progress::default(),
            setbacks: Arc::clone(&setbacks),
            stops_at_end: self.stops_at_end,
            ended: false,
        };
        let after = self.client.config().request_timeout;
        match tokio::time::timeout(after, consumer.start(partitions)).await {
            Ok(started) => started.map(|()| consumer),
            Err(_) => {
                let setback = consumer.setback();
                Err(ConsumeError::NotStarted {
                    topic: consumer.topic().clone(),
                    after,
                    text: setback.map_or_else(
                        || "the broker does not answer".to_owned(),
                        |setback| setback.reason,
                    ),
                })
            }
        }
    }

    fn starts(
        &self,
        topic: &TopicName,
        metadata: &TopicMetadata,
    ) -> Result<Vec<(u32, StartAt)>, RequestError> {
        let count = metadata.shards.len() as u32;
        if let Some(partition) = self.starts.keys().find(|partition| **partition >= count) {
            let missing = NoSuchPartition {
                topic: topic.clone(),
                partition: *partition,
                partitions: count,
            };
            return Err(RequestError::Setting {
                text: missing.to_string(),
            });
        }
        let named = |partition: u32| self.starts.get(&partition).copied();
        let starts = (0..count).filter_map(|partition| match named(partition) {
            None if self.reads_named_only => None,
            start => Some((partition, start.unwrap_or(self.start))),
        });
        Ok(starts.collect())
    }
}

/// A consumer that has not started. Told for as long as this lives, however that ends: somebody may
/// cease to wait for it.
struct Starting<'a> {
    setbacks: &'a Setbacks,
    partition: u32,
}

impl<'a> Starting<'a> {
    fn note(setbacks: &'a Setbacks, partition: u32, reason: String) -> Self {
        setbacks.note(Cause::Start, partition, reason);
        Self {
            setbacks,
            partition,
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.setbacks.clear(Cause::Start, self.partition);
    }
}

impl<T> Consumer<T> {
    /// Waits until all of `partitions` have started. What comes meanwhile is kept, in its order: a
    /// partition that starts again starts behind batches that nobody has seen yet.
    async fn start(&mut self, mut partitions: BTreeSet<u32>) -> Result<(), ConsumeError> {
        while !partitions.is_empty() {
            match self.events.recv().await {
                Some(Event::Started(starts)) => {
                    let is_first = |start: &PartitionStart| partitions.remove(&start.partition);
                    let (first, again): (Vec<_>, Vec<_>) = starts.into_iter().partition(is_first);
                    for start in &first {
                        self.progress.started(start);
                    }
                    if !again.is_empty() {
                        self.early.push_back(Event::Started(again));
                    }
                }
                Some(Event::Failed(error)) => return Err(error),
                Some(event) => self.early.push_back(event),
                None => return Err(ConsumeError::stopped(self.topic(), "its task is gone")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flumen_protocol::batch::{BatchBuilder, Codec, RecordRef};
    use tokio::sync::Semaphore;

    use super::*;

    fn started(partition: u32, start: u64, end: u64) -> Event {
        Event::Started(vec![PartitionStart {
            partition,
            start_offset: Offset(start),
            end_offset: Some(Offset(end)),
        }])
    }

    async fn batch(values: &[&[u8]]) -> Event {
        let mut builder = BatchBuilder::new();
        for value in values {
            builder.push(&RecordRef::new(0, value)).unwrap();
        }
        let batch = builder.build(Codec::None).unwrap();
        let memory = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        Event::Batch {
            partition: 0,
            columns: batch.columns().unwrap(),
            from: Offset(0),
            end: Offset(values.len() as u64),
            memory,
        }
    }

    /// A consumer that stops at the end, and who gives it events.
    fn consumer() -> (mpsc::Sender<Event>, Consumer<Bytes>) {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let reading = Reading {
            topic: Name::new("t").unwrap(),
            format: Format::Raw,
            content_type: None,
            read_value: read_value::<Bytes>,
        };
        let consumer = Consumer {
            reading: Arc::new(reading),
            events,
            early: VecDeque::new(),
            current: None,
            progress: Progress::default(),
            setbacks: Arc::default(),
            stops_at_end: true,
            ended: false,
        };
        (sender, consumer)
    }

    #[tokio::test]
    async fn a_consumer_that_nobody_serves_any_more_does_not_end_as_if_all_were_read() {
        let (sender, mut consumer) = consumer();
        sender.send(started(0, 0, 2)).await.unwrap();
        consumer.start(BTreeSet::from([0])).await.unwrap();
        drop(sender);
        let error = consumer.next().await.unwrap().unwrap_err();
        assert!(matches!(error, ConsumeError::Stopped { .. }), "{error}");
        assert!(error.is_fatal());
        assert!(consumer.next().await.is_none());
    }

    #[tokio::test]
    async fn what_came_while_a_consumer_was_built_is_handed_out_though_its_stream_began_anew() {
        let (sender, mut consumer) = consumer();
        for event in [
            started(0, 0, 2),
            batch(&[b"a", b"b"]).await,
            started(0, 2, 2),
            started(1, 0, 0),
        ] {
            sender.send(event).await.unwrap();
        }
        consumer.start(BTreeSet::from([0, 1])).await.unwrap();
        let positions = [(0, Offset(0)), (1, Offset(0))];
        assert_eq!(consumer.positions(), positions, "nothing was handed out");
        for value in ["a", "b"] {
            let message = consumer.next().await.unwrap().unwrap();
            assert_eq!(message.value, value);
        }
        assert!(consumer.next().await.is_none());
        assert_eq!(consumer.positions(), [(0, Offset(2)), (1, Offset(0))]);
    }
}
