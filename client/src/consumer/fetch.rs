//! The task behind a consumer: one consume stream a broker, opened again when it is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flumen_protocol::{
    batch::{Batch, BatchHeader, Columns},
    error::{ErrorCode, WireError},
    ids::{BrokerId, Offset, ShardId, TopicId},
    limits::PARTITIONS_PER_CONSUMER_MAX,
    message::StreamOpen,
    message::{ConsumeEvent, ConsumeOpen, PartitionStart, StartAt, TopicMetadata},
    topic::TopicName,
};
use flumen_transport::stream::{DATA_LIMITS, FrameReader, FrameWriter, Payload};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};

use super::{
    avoided::Useless,
    ends::Ends,
    error::ConsumeError,
    outage::{Lost, Outage},
    place::{Leave, Places},
    position::{Arrival, Positions, Start},
};
use crate::{
    client::Client,
    request::RequestError,
    setback::{Cause, Setbacks},
};

/// Events that may wait for the consumer.
pub(super) const EVENTS_MAX: usize = 256;

/// A broker that knows fewer records than were received from others is asked again for so long.
const BEHIND_PATIENCE: Duration = Duration::from_secs(10);

/// A stream that was not lost for so long is one that reads, though nothing may come of it.
const HOLDS_AFTER: Duration = Duration::from_secs(1);

/// Bytes are counted in units of this many.
const PERMIT_BYTES: usize = 1024;

/// What reaches the consumer.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is the usual one")]
pub(super) enum Event {
    Started(Vec<PartitionStart>),
    /// Where partitions begin by now, and end as far as that is known.
    Described(Vec<PartitionStart>),
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
    /// A topic that was made anew is another one.
    pub(super) topic_id: TopicId,
    pub(super) events: mpsc::Sender<Event>,
    /// Bytes of batches that may wait for the consumer.
    pub(super) buffer: Arc<Buffer>,
    /// Whether partitions that the topic gets later are consumed, too.
    pub(super) follows_growth: bool,
    /// What is known of the ends of partitions.
    pub(super) ends: Ends,
    /// Batches that came so far.
    pub(super) batches: AtomicU64,
    pub(super) places: Places,
    pub(super) outage: Mutex<Outage>,
    /// Why partitions are not read at the moment.
    pub(super) setbacks: Arc<Setbacks>,
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
    /// There is a better broker to read from.
    Moved,
    Lost(String),
    Refused(WireError),
    /// Nobody listens any more.
    Unwanted,
}

impl Fetch {
    /// Serves the consumer until it is dropped or the broker refuses.
    pub(super) async fn run(self, metadata: TopicMetadata, starts: Vec<(u32, StartAt)>) {
        let fetch = Arc::new(self);
        let events = fetch.events.clone();
        tokio::select! {
            biased;
            () = events.closed() => {}
            () = fetch.client.closed() => {
                let topic = fetch.topic.clone();
                let _ = events.send(Event::Failed(ConsumeError::Closed { topic })).await;
            }
            never = fetch.look_after_ends() => match never {},
            result = Arc::clone(&fetch).fetch(metadata, starts) => {
                if let Err(error) = result {
                    // The consumer may be gone by now.
                    let _ = events.send(Event::Failed(error)).await;
                }
            }
        }
    }

    async fn fetch(
        self: Arc<Self>,
        mut metadata: TopicMetadata,
        starts: Vec<(u32, StartAt)>,
    ) -> Result<(), ConsumeError> {
        let mut known: BTreeSet<u32> = starts.iter().map(|(partition, _)| *partition).collect();
        known.extend(0..metadata.shards.len() as u32);
        let unconfirmed = |(partition, at): (u32, StartAt)| (partition, at.into());
        let mut unserved: Vec<(u32, Start)> = starts.into_iter().map(unconfirmed).collect();
        let mut streams = JoinSet::new();
        loop {
            for (broker, positions) in self.plan(&metadata, std::mem::take(&mut unserved)) {
                let shards = shards_of(&metadata, &positions);
                streams.spawn(Arc::clone(&self).serve(broker, shards, positions));
            }
            let refresh = sleep(self.client.config().metadata_refresh);
            tokio::select! {
                ended = streams.join_next(), if !streams.is_empty() => {
                    let ended = match ended {
                        Some(Ok(ended)) => ended,
                        Some(Err(fault)) => {
                            return Err(ConsumeError::stopped(&self.topic, &fault.to_string()));
                        }
                        None => continue,
                    };
                    unserved = ended.positions.to_request();
                    match ended.reason {
                        Reason::Unwanted => return Ok(()),
                        Reason::Moved => {}
                        Reason::Refused(error) if is_fatal(&error) => {
                            return Err(ConsumeError::refused(&self.topic, error));
                        }
                        Reason::Refused(_) | Reason::Lost(_) => {
                            self.refresh(&mut metadata).await?;
                        }
                    }
                }
                () = refresh => {
                    self.refresh(&mut metadata).await?;
                }
            }
            if self.follows_growth {
                let partitions = 0..metadata.shards.len() as u32;
                let new = partitions.filter(|partition| known.insert(*partition));
                unserved.extend(new.map(|partition| (partition, StartAt::Beginning.into())));
            }
        }
    }

    /// Groups partitions by the broker that they are read from, in streams of a bounded size.
    fn plan(
        &self,
        metadata: &TopicMetadata,
        starts: Vec<(u32, Start)>,
    ) -> Vec<(Option<BrokerId>, Positions)> {
        let mut groups: BTreeMap<Option<BrokerId>, Vec<(u32, Start)>> = BTreeMap::new();
        for (partition, start) in starts {
            let shard = metadata.shards.get(partition as usize);
            let broker = shard.and_then(|shard| self.places.of(*shard, start.at));
            groups.entry(broker).or_default().push((partition, start));
        }
        let streams = groups.iter().flat_map(|(broker, starts)| {
            starts
                .chunks(PARTITIONS_PER_CONSUMER_MAX)
                .map(|chunk| (*broker, Positions::new(chunk.iter().copied())))
        });
        streams.collect()
    }

    async fn refresh(&self, metadata: &mut TopicMetadata) -> Result<(), ConsumeError> {
        match self.client.topic(&self.topic).await {
            Ok(Some(fresh)) => match fresh.id.cmp(&self.topic_id) {
                std::cmp::Ordering::Greater => {
                    let topic = self.topic.clone();
                    return Err(ConsumeError::TopicReplaced { topic });
                }
                std::cmp::Ordering::Equal if fresh.shards.len() >= metadata.shards.len() => {
                    *metadata = fresh;
                }
                // Of a broker that is behind.
                std::cmp::Ordering::Equal | std::cmp::Ordering::Less => {}
            },
            Ok(None) => {
                let topic = self.topic.clone();
                return Err(RequestError::UnknownTopic { topic }.into());
            }
            // It is tried again when the stream cannot be opened.
            Err(error) => tracing::debug!(topic = %self.topic, %error, "cannot look for leaders"),
        }
        Ok(())
    }

    /// Carries one stream from one broker, until it is lost or there is a better place. Returns
    /// when another stream is worth a try.
    async fn serve(
        self: Arc<Self>,
        broker: Option<BrokerId>,
        shards: BTreeMap<u32, ShardId>,
        positions: Positions,
    ) -> Ended {
        let mut ended = Ended {
            positions,
            reason: Reason::Unwanted,
            was_useful: false,
        };
        let starts = starts_of(&shards, &ended.positions);
        ended.reason = match self.carry(broker, &starts, &mut ended).await {
            Ok(reason) => reason,
            Err(text) => Reason::Lost(text),
        };
        if ended.was_useful {
            self.outage.lock().over();
        }
        let text = match &ended.reason {
            Reason::Unwanted => return ended,
            Reason::Moved => {
                tracing::debug!(topic = %self.topic, ?broker, "reading from another broker");
                return ended;
            }
            Reason::Refused(error) => {
                if let Some(leader) = error.leader {
                    self.client.cluster().hear(leader);
                }
                error.text.clone()
            }
            Reason::Lost(text) => text.clone(),
        };
        let starts = starts_of(&shards, &ended.positions);
        let distinct: Vec<_> = starts.iter().map(|(shard, _)| *shard).collect();
        let is_leader = self.places.leads(broker, &distinct);
        if let Some(broker) = broker.filter(|_| !is_leader) {
            // A copy that does not know is no reason to give up; the leader knows.
            self.places.avoid(broker, Useless::Unreadable);
            ended.reason = Reason::Lost(text.clone());
        }
        if let Reason::Refused(error) = &ended.reason
            && error.code == ErrorCode::OffsetOutOfRange
            && ended.positions.all_confirmed()
            && self.outage.lock().goes_on() < BEHIND_PATIENCE
        {
            // A leader that has just taken over may not know yet that it has these records.
            ended.reason = Reason::Lost(text.clone());
        }
        if let Reason::Refused(error) = &ended.reason
            && is_fatal(error)
        {
            return ended;
        }
        let text = self.client.broker(broker).explain(&text);
        let wait = self.note_loss(&ended.positions, text);
        self.places.elsewhere(broker, &starts, wait).await;
        ended
    }

    /// Notes that a stream was lost, and says how long to wait before the next is tried.
    fn note_loss(&self, positions: &Positions, text: String) -> Duration {
        tracing::debug!(topic = %self.topic, text, "consume stream lost");
        for partition in positions.partitions() {
            self.setbacks.note(Cause::Attempts, partition, text.clone());
        }
        let Lost {
            since,
            wait,
            is_to_be_logged,
        } = self.outage.lock().lost();
        if is_to_be_logged {
            tracing::warn!(topic = %self.topic, ?since, text, "nothing can be read, still trying");
        }
        wait
    }

    /// The partitions of a stream are read again.
    fn clear_setbacks(&self, positions: &Positions) {
        for partition in positions.partitions() {
            self.setbacks.clear(Cause::Attempts, partition);
        }
    }

    async fn carry(
        &self,
        broker: Option<BrokerId>,
        starts: &[(ShardId, StartAt)],
        ended: &mut Ended,
    ) -> Result<Reason, String> {
        let has_started = AtomicBool::new(ended.positions.all_confirmed());
        // The broker that is tried may be one that knows no leader, again and again.
        let mut search = self.outage.lock().is_on().then(|| self.client.search());
        let mut left = std::pin::pin!(self.places.left(broker, starts, &has_started));
        if let Some(partition) = ended.positions.partitions().next() {
            let address = self.client.broker(broker).address().to_owned();
            let silent =
                format!("broker {address} has not said yet where partition {partition} starts");
            self.setbacks.renew(Cause::Start, partition, silent);
        }
        let (mut writer, mut reader) = tokio::select! {
            biased;
            opened = self.open(broker, &ended.positions) => opened?,
            leave = &mut left => return leave.into(),
        };
        let mut holds = std::pin::pin!(sleep(HOLDS_AFTER));
        // Whether the broker has taken the stream, and whether that has held.
        let (mut is_taken, mut is_held) = (false, false);
        loop {
            let frame = tokio::select! {
                biased;
                frame = reader.next_with_payload::<ConsumeEvent>() => frame,
                leave = &mut left => {
                    writer.reset(0);
                    return leave.into();
                }
                () = &mut holds, if is_taken && !is_held => {
                    is_held = true;
                    self.clear_setbacks(&ended.positions);
                    continue;
                }
            };
            let event = match frame.map_err(|e| e.to_string())? {
                Some((ConsumeEvent::Failed(error), _)) => return Ok(Reason::Refused(error)),
                Some((ConsumeEvent::Started(starts), _)) => {
                    ended.positions.started(&starts);
                    has_started.store(true, Ordering::Relaxed);
                    is_taken = true;
                    drop(search.take());
                    holds
                        .as_mut()
                        .reset(tokio::time::Instant::now() + HOLDS_AFTER);
                    Event::Started(starts)
                }
                Some((ConsumeEvent::Batch { partition, .. }, bytes)) => {
                    ended.was_useful = true;
                    if !is_held {
                        is_held = true;
                        self.clear_setbacks(&ended.positions);
                    }
                    self.batches.fetch_add(1, Ordering::Relaxed);
                    match self.take(partition, bytes, &mut ended.positions).await {
                        Some(event) => event,
                        None => continue,
                    }
                }
                Some((ConsumeEvent::PartitionFailed { partition, error }, _)) => {
                    let offset = ended.positions.expected(partition).unwrap_or_default();
                    self.give_up_end(partition);
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
                Some((ConsumeEvent::CutOff { partitions }, _)) => {
                    self.note_cut_off(broker, &partitions);
                    continue;
                }
                Some(_) => return Err("the broker sent what this client does not know".to_owned()),
                None => return Err("the broker ended the stream".to_owned()),
            };
            let started = match &event {
                Event::Started(starts) => starts.clone(),
                _ => Vec::new(),
            };
            if self.events.send(event).await.is_err() {
                return Ok(Reason::Unwanted);
            }
            // After the consumer heard of them, or what it hears of their ends meant nothing to it.
            self.note_ends(broker, &started);
        }
    }

    async fn open(
        &self,
        broker: Option<BrokerId>,
        positions: &Positions,
    ) -> Result<(FrameWriter, FrameReader), String> {
        let broker = self.client.broker(broker);
        let connection = broker.connection().await.map_err(|e| e.to_string())?;
        let opened = broker.streams.open(&connection).await;
        let (send, receive) = opened.map_err(|e| e.to_string())?;
        let mut writer = FrameWriter::new(send);
        let starts = positions.to_request().into_iter();
        let open = StreamOpen::Consume(ConsumeOpen {
            topic: self.topic.clone(),
            topic_id: Some(self.topic_id),
            partitions: starts
                .map(|(partition, start)| (partition, start.at))
                .collect(),
        });
        writer
            .send(&open, Payload::None)
            .await
            .map_err(|e| e.to_string())?;
        Ok((writer, FrameReader::new(receive, DATA_LIMITS)))
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

impl From<Leave> for Result<Reason, String> {
    fn from(leave: Leave) -> Self {
        match leave {
            Leave::Moved => Ok(Reason::Moved),
            Leave::Silent => Err("the broker is silent".to_owned()),
        }
    }
}

/// Where a stream starts in each shard, one partition for all that start alike.
fn starts_of(shards: &BTreeMap<u32, ShardId>, positions: &Positions) -> Vec<(ShardId, StartAt)> {
    let kind = |start: StartAt| match start {
        StartAt::Beginning | StartAt::Offset(_) => StartAt::Beginning,
        end => end,
    };
    let mut starts = Vec::new();
    for (partition, start) in positions.to_request() {
        if let Some(shard) = shards.get(&partition) {
            let start = (*shard, kind(start.at));
            if !starts.contains(&start) {
                starts.push(start);
            }
        }
    }
    starts
}

/// The shards of the partitions of a stream.
fn shards_of(metadata: &TopicMetadata, positions: &Positions) -> BTreeMap<u32, ShardId> {
    let partitions = positions.to_request().into_iter();
    let with_shard = |(partition, _): (u32, Start)| {
        let shard = metadata.shards.get(partition as usize)?;
        Some((partition, *shard))
    };
    partitions.filter_map(with_shard).collect()
}
