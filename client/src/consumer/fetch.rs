//! The task behind a consumer: one consume stream a broker, opened again when it is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flumen_protocol::{
    batch::{Batch, BatchHeader, Columns},
    error::{ErrorCode, WireError},
    ids::{BrokerId, Offset},
    limits::PARTITIONS_PER_CONSUMER_MAX,
    message::StreamOpen,
    message::{ConsumeEvent, ConsumeOpen, PartitionStart, StartAt, TopicMetadata},
    topic::TopicName,
};
use flumen_transport::stream::{DATA_LIMITS, FrameReader, FrameWriter, Payload};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};

use super::{
    error::ConsumeError,
    position::{Arrival, Positions},
};
use crate::{client::Client, connection::backoff::Backoff, request::RequestError};

/// Events that may wait for the consumer.
pub(super) const EVENTS_MAX: usize = 256;

/// A consumer that cannot be served says so this often.
pub(super) const DISCONNECTED_REPORT: Duration = Duration::from_secs(30);

/// A consumer that stops at the end and hears nothing for this long asks whether what it
/// waits for was removed by retention.
const END_CHECK: Duration = Duration::from_secs(1);

/// Bytes are counted in units of this many.
const PERMIT_BYTES: usize = 1024;

/// What reaches the consumer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is the usual one")]
pub(super) enum Event {
    Started(Vec<PartitionStart>),
    /// Where partitions that have started begin by now.
    Begins(Vec<PartitionStart>),
    Batch {
        partition: u32,
        columns: Columns,
        /// The first offset that was not handed out before.
        from: Offset,
        end: Offset,
        memory: OwnedSemaphorePermit,
    },
    /// A batch was passed over.
    PassedOver {
        partition: u32,
        end: Option<Offset>,
        error: ConsumeError,
    },
    /// A partition cannot be read any further; the others can.
    Unreadable {
        partition: u32,
        error: ConsumeError,
    },
    Failed(ConsumeError),
}

/// What the task needs.
pub(super) struct Fetch {
    pub(super) client: Client,
    pub(super) topic: TopicName,
    pub(super) events: mpsc::Sender<Event>,
    /// Bytes of batches that may wait for the consumer.
    pub(super) buffer: Arc<Buffer>,
    /// Whether partitions that the topic gets later are consumed, too.
    pub(super) follows_growth: bool,
    /// Whether the consumer stops at the end, and so must learn of records before it that
    /// will never come.
    pub(super) stops_at_end: bool,
    /// Batches that came so far.
    pub(super) batches: AtomicU64,
}

/// The account of bytes that wait for the consumer.
#[derive(Debug)]
pub(super) struct Buffer {
    permits: Arc<Semaphore>,
    permits_max: usize,
}

impl Buffer {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        let permits_max = (bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(permits_max)),
            permits_max,
        })
    }

    /// Waits until there is room; a batch larger than the whole buffer waits for all of it.
    async fn acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.permits_max);
        let acquired = Arc::clone(&self.permits).acquire_many_owned(permits as u32);
        acquired.await.ok()
    }
}

/// How a stream ended, and where it was.
struct Ended {
    positions: Positions,
    reason: Reason,
    /// Whether it carried anything.
    was_useful: bool,
}

enum Reason {
    Lost(String),
    Refused(WireError),
    /// Nobody listens any more.
    Unwanted,
}

impl Fetch {
    /// Serves the consumer until it is dropped or the broker refuses.
    pub(super) async fn run(self, metadata: TopicMetadata, starts: Vec<(u32, StartAt)>) {
        let events = self.events.clone();
        tokio::select! {
            biased;
            () = events.closed() => {}
            result = self.fetch(metadata, starts) => {
                if let Err(error) = result {
                    // The consumer may be gone by now.
                    let _ = events.send(Event::Failed(error)).await;
                }
            }
        }
    }

    async fn fetch(
        self,
        mut metadata: TopicMetadata,
        starts: Vec<(u32, StartAt)>,
    ) -> Result<(), ConsumeError> {
        let fetch = Arc::new(self);
        let mut known: BTreeSet<u32> = starts.iter().map(|(partition, _)| *partition).collect();
        known.extend(0..metadata.shards.len() as u32);
        let mut unserved = starts;
        let mut streams = JoinSet::new();
        let mut backoff = Backoff::new(fetch.client.config().reconnect, rand::random());
        let mut lost_since: Option<(Instant, Instant)> = None;
        loop {
            for (leader, positions) in
                by_leader(&fetch.client, &metadata, std::mem::take(&mut unserved))
            {
                streams.spawn(Arc::clone(&fetch).serve(leader, positions));
            }
            let refresh = sleep(fetch.client.config().metadata_refresh);
            let batches = fetch.batches.load(Ordering::Relaxed);
            tokio::select! {
                ended = streams.join_next(), if !streams.is_empty() => {
                    let Some(Ok(ended)) = ended else { continue };
                    unserved = ended.positions.to_request();
                    let text = match ended.reason {
                        Reason::Unwanted => return Ok(()),
                        Reason::Refused(error) if is_fatal(&error) => {
                            return Err(ConsumeError::refused(&fetch.topic, error));
                        }
                        Reason::Refused(error) => error.text,
                        Reason::Lost(text) => text,
                    };
                    tracing::debug!(topic = %fetch.topic, text, "consume stream lost");
                    if ended.was_useful {
                        backoff.reset();
                        lost_since = None;
                    }
                    let now = Instant::now();
                    let (since, reported) = *lost_since.get_or_insert((now, now));
                    if now - reported >= DISCONNECTED_REPORT {
                        lost_since = Some((since, now));
                        fetch.report_disconnected(now - since, text);
                    }
                    sleep(backoff.next_delay()).await;
                    fetch.refresh(&mut metadata).await?;
                }
                () = sleep(END_CHECK), if fetch.stops_at_end => {
                    if fetch.batches.load(Ordering::Relaxed) == batches {
                        fetch.tell_where_partitions_start().await;
                    }
                }
                () = refresh => {
                    fetch.refresh(&mut metadata).await?;
                }
            }
            if fetch.follows_growth {
                let partitions = 0..metadata.shards.len() as u32;
                let new = partitions.filter(|partition| known.insert(*partition));
                unserved.extend(new.map(|partition| (partition, StartAt::Beginning)));
            }
        }
    }

    async fn refresh(&self, metadata: &mut TopicMetadata) -> Result<(), ConsumeError> {
        match self.client.topic(&self.topic).await {
            Ok(Some(fresh)) => *metadata = fresh,
            Ok(None) => {
                let topic = self.topic.clone();
                return Err(RequestError::UnknownTopic { topic }.into());
            }
            // It is tried again when the stream cannot be opened.
            Err(error) => tracing::debug!(topic = %self.topic, %error, "cannot look for leaders"),
        }
        Ok(())
    }

    async fn tell_where_partitions_start(&self) {
        let Ok(topic) = self
            .client
            .admin()
            .describe_topic(self.topic.as_str())
            .await
        else {
            return;
        };
        let starts = topic.partitions.iter().map(|partition| PartitionStart {
            partition: partition.index,
            start_offset: partition.start_offset,
            end_offset: partition.end_offset,
        });
        // A consumer that is gone need not be told.
        let _ = self.events.send(Event::Begins(starts.collect())).await;
    }

    fn report_disconnected(&self, since: Duration, text: String) {
        let error = ConsumeError::Disconnected {
            topic: self.topic.clone(),
            since,
            text,
        };
        // Never waits: a consumer that does not listen need not be told.
        let _ = self.events.try_send(Event::PassedOver {
            partition: 0,
            end: None,
            error,
        });
    }

    /// Carries one stream from one broker, until it is lost.
    async fn serve(self: Arc<Self>, leader: Option<BrokerId>, positions: Positions) -> Ended {
        let mut ended = Ended {
            positions,
            reason: Reason::Unwanted,
            was_useful: false,
        };
        ended.reason = match self.carry(leader, &mut ended).await {
            Ok(reason) => reason,
            Err(text) => Reason::Lost(text),
        };
        ended
    }

    async fn carry(&self, leader: Option<BrokerId>, ended: &mut Ended) -> Result<Reason, String> {
        let broker = self.client.broker(leader);
        let connection = broker.connection().await.map_err(|e| e.to_string())?;
        let (send, receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
        let mut writer = FrameWriter::new(send);
        let open = StreamOpen::Consume(ConsumeOpen {
            topic: self.topic.clone(),
            partitions: ended.positions.to_request(),
        });
        writer
            .send(&open, Payload::None)
            .await
            .map_err(|e| e.to_string())?;
        let mut reader = FrameReader::new(receive, DATA_LIMITS);
        loop {
            let frame = reader.next_with_payload::<ConsumeEvent>().await;
            let event = match frame.map_err(|e| e.to_string())? {
                Some((ConsumeEvent::Failed(error), _)) => return Ok(Reason::Refused(error)),
                Some((ConsumeEvent::Started(starts), _)) => {
                    ended.positions.started(&starts);
                    Event::Started(starts)
                }
                Some((ConsumeEvent::Batch { partition, .. }, bytes)) => {
                    ended.was_useful = true;
                    self.batches.fetch_add(1, Ordering::Relaxed);
                    match self.take(partition, bytes, &mut ended.positions).await {
                        Some(event) => event,
                        None => continue,
                    }
                }
                Some((ConsumeEvent::PartitionFailed { partition, error }, _)) => {
                    let offset = ended.positions.expected(partition).unwrap_or_default();
                    Event::Unreadable {
                        partition,
                        error: ConsumeError::Unreadable {
                            topic: self.topic.clone(),
                            partition,
                            offset,
                            text: error.text,
                        },
                    }
                }
                Some(_) => return Err("the broker sent what this client does not know".to_owned()),
                None => return Err("the broker ended the stream".to_owned()),
            };
            if self.events.send(event).await.is_err() {
                return Ok(Reason::Unwanted);
            }
        }
    }

    /// Checks a batch and finds what is new in it.
    async fn take(&self, partition: u32, bytes: Bytes, positions: &mut Positions) -> Option<Event> {
        let header = BatchHeader::decode(&bytes).ok();
        let checked = Batch::decode(bytes).and_then(|batch| {
            let columns = batch.columns()?;
            Ok((batch, columns))
        });
        let (batch, columns) = match checked {
            Ok(checked) => checked,
            Err(source) => {
                let expected = positions.expected(partition).unwrap_or_default();
                let span =
                    header.map(|h| (h.base_offset, h.base_offset.plus(h.offset_span.into())));
                let end = span.map(|(_, end)| end);
                if let Some(end) = end {
                    positions.arrived(partition, end);
                }
                let error = ConsumeError::Damaged {
                    topic: self.topic.clone(),
                    partition,
                    offset: span.map_or(expected, |(base, _)| base.max(expected)),
                    source,
                };
                return Some(Event::PassedOver {
                    partition,
                    end,
                    error,
                });
            }
        };
        let end = batch.end_offset();
        let Arrival::From(from) = positions.arrived(partition, end) else {
            return None;
        };
        let size = batch.header().raw_len as usize;
        let memory = self.buffer.acquire(size).await?;
        Some(Event::Batch {
            partition,
            columns,
            from,
            end,
            memory,
        })
    }
}

/// Refusals that will not pass. A partition that its broker does not know yet will be known.
fn is_fatal(error: &WireError) -> bool {
    !error.retryable
        && !matches!(
            error.code,
            ErrorCode::NotLeader
                | ErrorCode::UnknownPartition
                | ErrorCode::Internal
                | ErrorCode::StorageFailed
        )
}

/// Groups partitions by the broker that leads them, in streams of a bounded size.
fn by_leader(
    client: &Client,
    metadata: &TopicMetadata,
    starts: Vec<(u32, StartAt)>,
) -> Vec<(Option<BrokerId>, Positions)> {
    let mut groups: BTreeMap<Option<BrokerId>, Vec<(u32, StartAt)>> = BTreeMap::new();
    for (partition, start) in starts {
        let shard = metadata.shards.get(partition as usize);
        let leader = shard.and_then(|shard| client.leader_of(*shard));
        groups.entry(leader).or_default().push((partition, start));
    }
    let streams = groups.iter().flat_map(|(leader, starts)| {
        starts
            .chunks(PARTITIONS_PER_CONSUMER_MAX)
            .map(|chunk| (*leader, Positions::new(chunk.iter().copied())))
    });
    streams.collect()
}
