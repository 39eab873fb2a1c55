//! Consume streams: the broker pushes batches as they arrive.
//!
//! A stream carries any number of partitions. Those with something to deliver take turns of
//! at most [`TURN_BYTES_MAX`]; the others cost nothing until something is appended to them.
//! QUIC flow control is the back-pressure: a client that does not read holds one turn here
//! and what the connection's send window takes.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use flumen_protocol::{
    error::{ErrorCode, WireError},
    ids::{Offset, ShardId},
    limits::PARTITIONS_PER_CONSUMER_MAX,
    message::{ConsumeEvent, ConsumeOpen, PartitionStart},
};
use flumen_transport::stream::{FrameReader, FrameWriter, Payload, WriteError};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use super::session::Session;
use crate::{
    metrics::ServerMetrics,
    node::CutOffs,
    shard::News,
    topics::{ConsumeSource, Fetched},
};

/// Bytes that a partition delivers before the next one has its turn.
const TURN_BYTES_MAX: usize = 1024 * 1024;

pub(super) async fn serve(
    session: &Arc<Session>,
    open: ConsumeOpen,
    reader: FrameReader,
    mut writer: FrameWriter,
) {
    let _place = match session.credit.take_place() {
        Ok(place) => place,
        Err(error) => {
            return session
                .refuse(&mut writer, reader, &ConsumeEvent::Failed(error))
                .await;
        }
    };
    // From before the leaders are asked: what changes after that is told.
    let touch = Touch::new(session.shared.node.cut_offs());
    let sources = match start(session, &open).await {
        Ok(sources) => sources,
        Err(error) => {
            return session
                .refuse(&mut writer, reader, &ConsumeEvent::Failed(error))
                .await;
        }
    };
    let counted = Counted::new(&session.shared.metrics, &open);
    let mut delivery = Delivery::new(counted, sources, touch);
    let end = tokio::select! {
        end = delivery.run(&mut writer) => end,
        () = session.shared.stopping.cancelled() => End::Stopping,
    };
    let error = match end {
        End::ClientGone => return,
        End::Failed(error) => error,
        End::Stopping => WireError::new(ErrorCode::Unavailable, "the broker is stopping"),
    };
    session
        .refuse(&mut writer, reader, &ConsumeEvent::Failed(error))
        .await;
}

/// Why a delivery ended.
enum End {
    ClientGone,
    Failed(WireError),
    Stopping,
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        Self::Failed(error)
    }
}

impl From<WriteError> for End {
    fn from(_: WriteError) -> Self {
        Self::ClientGone
    }
}

/// Finds every partition's place.
async fn start(session: &Session, open: &ConsumeOpen) -> Result<Vec<ConsumeSource>, WireError> {
    if open.partitions.is_empty() || open.partitions.len() > PARTITIONS_PER_CONSUMER_MAX {
        let text = format!(
            "a consume stream carries 1 to {PARTITIONS_PER_CONSUMER_MAX} partitions, not {}",
            open.partitions.len()
        );
        return Err(WireError::new(ErrorCode::InvalidRequest, text));
    }
    let node = &session.shared.node;
    let indexes = open.partitions.iter().map(|(index, _)| *index);
    let ends = node.ends(&open.topic, indexes.collect()).await?;
    let mut sources = Vec::with_capacity(open.partitions.len());
    for (index, at) in &open.partitions {
        let mut source = node
            .topics
            .source(&open.topic, open.topic_id, *index, *at)
            .await?;
        if let Some(end) = ends.get(index) {
            source.reaches(*end);
        }
        sources.push(source);
    }
    Ok(sources)
}

struct Delivery {
    counted: Counted,
    sources: Vec<ConsumeSource>,
    /// Places in `sources` that may have something to deliver.
    ready: VecDeque<usize>,
    /// Where partitions that had nothing report that they have something.
    news: Arc<News>,
    touch: Touch,
}

impl Delivery {
    fn new(counted: Counted, mut sources: Vec<ConsumeSource>, touch: Touch) -> Self {
        let news = News::new();
        for (place, source) in sources.iter_mut().enumerate() {
            source.report_to(&news, place as u32);
        }
        Self {
            counted,
            ready: (0..sources.len()).collect(),
            sources,
            news,
            touch,
        }
    }

    async fn run(&mut self, writer: &mut FrameWriter) -> End {
        match self.deliver(writer).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn deliver(&mut self, writer: &mut FrameWriter) -> Result<Infallible, End> {
        let starts = self.sources.iter().map(start_of);
        let started = ConsumeEvent::Started(starts.collect());
        writer.send(&started, Payload::None).await?;
        loop {
            if self.touch.has_news() {
                self.tell_cut_off(writer).await?;
            }
            if let Some(place) = self.ready.pop_front() {
                match self.turn(place, writer).await {
                    Ok(more) => {
                        if more || self.sources[place].has_more()? {
                            self.ready.push_back(place);
                        }
                    }
                    Err(End::Failed(error)) if error.code == ErrorCode::StorageFailed => {
                        self.set_aside(place, error, writer).await?;
                    }
                    Err(end) => return Err(end),
                }
                continue;
            }
            tokio::select! {
                places = self.news.wait() => {
                    self.ready.extend(places.into_iter().map(|place| place as usize));
                }
                () = self.touch.news() => self.tell_cut_off(writer).await?,
                () = writer.stopped() => return Err(End::ClientGone),
            }
        }
    }

    /// Tells of which partitions nothing new may come, since this broker is cut off from their
    /// shards. What it has is delivered all the same.
    async fn tell_cut_off(&mut self, writer: &mut FrameWriter) -> Result<(), End> {
        let is_cut_off = self.touch.take_news();
        let mut partitions = Vec::new();
        for source in &mut self.sources {
            if is_cut_off(source.shard()) {
                source.loses_touch();
                partitions.push(source.index());
            }
        }
        if !partitions.is_empty() {
            let event = ConsumeEvent::CutOff { partitions };
            writer.send(&event, Payload::None).await?;
        }
        Ok(())
    }

    /// Tells that a partition cannot be read. It does not get another turn, nor armed again, and
    /// keeps nobody else from theirs.
    async fn set_aside(
        &mut self,
        place: usize,
        error: WireError,
        writer: &mut FrameWriter,
    ) -> Result<(), End> {
        let partition = self.sources[place].index();
        tracing::error!(partition, error = error.text, "a partition cannot be read");
        let event = ConsumeEvent::PartitionFailed { partition, error };
        Ok(writer.send(&event, Payload::None).await?)
    }

    /// Delivers up to one turn of a partition. Returns whether there may be more.
    async fn turn(&mut self, place: usize, writer: &mut FrameWriter) -> Result<bool, End> {
        let source = &mut self.sources[place];
        let before = source.next_offset();
        let fetched = source.fetch(TURN_BYTES_MAX).await?;
        let Fetched {
            batches,
            end_offset,
        } = fetched;
        if batches.is_empty() {
            if source.next_offset() > before {
                let goes_on = ConsumeEvent::Started(vec![start_of(source)]);
                writer.send(&goes_on, Payload::None).await?;
            }
            return Ok(false);
        }
        for batch in &batches {
            let event = ConsumeEvent::Batch {
                partition: source.index(),
                end_offset: Offset(end_offset.0.max(batch.end_offset().0)),
            };
            writer.push(&event, Payload::Batch(batch));
            self.counted.records.inc_by(batch.record_count().into());
            self.counted.bytes.inc_by(batch.encoded_len() as u64);
        }
        drop(batches);
        writer.flush().await?;
        Ok(true)
    }
}

/// Where a partition goes on, and where it ends.
fn start_of(source: &ConsumeSource) -> PartitionStart {
    PartitionStart {
        partition: source.index(),
        start_offset: source.next_offset(),
        end_offset: source.end_offset(),
    }
}

/// Whether this broker is in touch with the leaders of what a stream reads.
struct Touch {
    cut_offs: watch::Receiver<CutOffs>,
    /// What the client knows of.
    told: CutOffs,
}

impl Touch {
    fn new(mut cut_offs: watch::Receiver<CutOffs>) -> Self {
        let told = cut_offs.borrow_and_update().clone();
        Self { cut_offs, told }
    }

    /// Whether it was cut off from any shard since that was told.
    fn has_news(&self) -> bool {
        self.cut_offs.has_changed().unwrap_or(false)
    }

    /// Waits until it is.
    async fn news(&mut self) {
        if self.cut_offs.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Tells of which shards it was cut off since the last time.
    fn take_news(&mut self) -> impl Fn(ShardId) -> bool + use<> {
        let now = self.cut_offs.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.told, now.clone());
        move |shard| now.has_new(&before, shard)
    }
}

/// The counters of a stream, looked up once.
struct Counted {
    records: Counter,
    bytes: Counter,
}

impl Counted {
    fn new(metrics: &ServerMetrics, open: &ConsumeOpen) -> Self {
        let [records, bytes] = metrics.consumed(&open.topic);
        Self { records, bytes }
    }
}
