//! The streams of a connection.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use flumen_protocol::{
    batch::Batch,
    error::{ErrorCode, WireError},
    ids::Offset,
    message::{
        ConsumeEvent, ConsumeOpen, PartitionStart, ProduceAcks, ProduceBatch, ProduceOpen, Reply,
        Request, Response, StartAt, StreamOpen,
    },
};
use flumen_transport::{
    quinn::{Connection, VarInt},
    stream::{FrameReader, FrameWriter, Payload},
};
use tokio::sync::watch;

use super::{
    Shared,
    fault::{ConsumeFault, Fault},
};

pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    pub(super) authenticated: Arc<watch::Sender<bool>>,
    pub(super) writer: FrameWriter,
    pub(super) reader: FrameReader,
}

impl Session {
    pub(super) async fn serve(mut self) {
        let opened = self.reader.next_with_payload::<StreamOpen>().await;
        self.shared.until_not_mute().await;
        match opened {
            Ok(Some((StreamOpen::Control(request), payload))) => {
                let reply: Reply = self.answer(request, &payload);
                let _ = self.writer.send(&reply, Payload::None).await;
                self.writer.finish();
            }
            Ok(Some((StreamOpen::Produce(open), _))) => self.produce(open).await,
            Ok(Some((StreamOpen::Consume(open), _))) => {
                self.shared.note_reader();
                self.shared.until_not_stalled().await;
                if let Err(error) = self.consume(open).await {
                    let failed = ConsumeEvent::Failed(error);
                    let _ = self.writer.send(&failed, Payload::None).await;
                    self.writer.finish();
                }
            }
            _ => {}
        }
    }

    fn answer(&self, request: Request, payload: &Bytes) -> Reply {
        let mut state = self.shared.world.state.lock();
        if let Request::Authenticate { token } = &request {
            if state.token.as_ref() != Some(token) {
                return Err(WireError::new(ErrorCode::Unauthenticated, "unknown token"));
            }
            self.authenticated.send_replace(true);
            return Ok(Response::Done);
        }
        if !*self.authenticated.borrow() {
            return Err(WireError::new(
                ErrorCode::Unauthenticated,
                "show a token first",
            ));
        }
        match request {
            Request::Metadata { topics } => {
                Ok(Response::Metadata(state.metadata(self.shared.id, &topics)))
            }
            Request::CreateTopic { name, config } => {
                if state.topics.contains_key(name.as_str()) {
                    let text = format!("topic {name} exists already");
                    return Err(WireError::new(ErrorCode::TopicExists, text));
                }
                state.create(name.as_str(), config);
                Ok(Response::Done)
            }
            Request::DeleteTopic { name } => match state.topics.remove(name.as_str()) {
                Some(_) => Ok(Response::Done),
                None => Err(WireError::new(ErrorCode::UnknownTopic, "no such topic")),
            },
            Request::ListTopics => Ok(Response::Topics(state.list())),
            Request::DescribeTopic { name } => {
                state.describe(self.shared.id, name).map(Response::Topic)
            }
            Request::DeployPlugin { name, .. } => Err(WireError::new(
                ErrorCode::InvalidPlugin,
                format!("{name}: {} bytes are no component", payload.len()),
            )),
            Request::Rebalance => Err(WireError::new(
                ErrorCode::Timeout,
                "it is noted, but not by all",
            )),
            Request::Status => Err(WireError::new(ErrorCode::Unavailable, "starting")),
            other => Err(WireError::new(ErrorCode::InvalidRequest, other.name())),
        }
    }

    pub(super) async fn produce(mut self, open: ProduceOpen) {
        while let Ok(Some((ProduceBatch, bytes))) = self.reader.next_with_payload().await {
            self.shared.until_unstuck().await;
            let outcome = {
                let mut state = self.shared.world.state.lock();
                state.batches_received += 1;
                let fault = state.faults.pop_front();
                let batch = Batch::decode(bytes).unwrap();
                let batch = if state.keeps_nothing {
                    Batch::empty(batch.header().producer)
                } else {
                    batch
                };
                let topic = open.topic.as_str();
                let refusal = state.refusal(self.shared.id, open.partition);
                let take = |keep| match (refusal, state.partition(topic, open.partition)) {
                    (Some(refusal), _) => Err(refusal),
                    (None, Ok(partition)) => partition.take(batch, keep),
                    (None, Err(error)) => Err(error),
                };
                match fault {
                    None => take(None),
                    Some(Fault::Keep(count)) => take(Some(count)),
                    Some(Fault::Reject(text)) => match take(Some(0)) {
                        Ok(_) => Err(WireError::new(ErrorCode::Rejected, text)),
                        Err(error) => Err(error),
                    },
                    Some(Fault::Refuse(code, text)) => Err(WireError::new(code, text)),
                    Some(Fault::LoseAnswer) => {
                        take(None).unwrap();
                        self.connection.close(VarInt::from_u32(9), b"lost");
                        return;
                    }
                    Some(Fault::LoseBatch) => {
                        self.connection.close(VarInt::from_u32(9), b"lost");
                        return;
                    }
                    Some(Fault::EndStream) => {
                        self.writer.finish();
                        return;
                    }
                }
            };
            self.shared.world.appended.send_modify(|count| *count += 1);
            let mut held = self.shared.held.subscribe();
            let _ = held.wait_for(|held| !held).await;
            let acks = ProduceAcks {
                outcomes: vec![outcome],
            };
            if self.writer.send(&acks, Payload::None).await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn consume(&mut self, open: ConsumeOpen) -> Result<(), WireError> {
        let topic = open.topic.as_str().to_owned();
        self.shared
            .world
            .state
            .lock()
            .check_topic(&topic, open.topic_id)?;
        let mut appended = self.shared.world.appended.subscribe();
        let mut starts = Vec::new();
        for (index, at) in open.partitions {
            let mut state = self.shared.world.state.lock();
            let end = state.end(self.shared.id, &topic, index)?;
            let partition = state.partition(&topic, index)?;
            let start_offset = match at {
                StartAt::End => end,
                StartAt::Offset(offset) if offset.0 > end => {
                    let text = format!("offset {offset} is past the end {end}");
                    return Err(WireError::new(ErrorCode::OffsetOutOfRange, text));
                }
                StartAt::Offset(offset) => offset.0.max(partition.start),
                StartAt::Beginning | StartAt::Time(_) => partition.start,
            };
            starts.push(PartitionStart {
                partition: index,
                start_offset: Offset(start_offset),
                end_offset: state
                    .end_is_known(self.shared.id, index)
                    .then_some(Offset(end)),
            });
        }
        let mut next: BTreeMap<u32, Offset> = starts
            .iter()
            .map(|s| (s.partition, s.start_offset))
            .collect();
        let started = ConsumeEvent::Started(starts);
        if self.writer.send(&started, Payload::None).await.is_err() {
            return Ok(());
        }
        let mut is_cut_off = self.shared.is_cut_off();
        loop {
            appended.borrow_and_update();
            if !is_cut_off && self.shared.is_cut_off() {
                is_cut_off = true;
                let partitions = next.keys().copied().collect();
                let event = ConsumeEvent::CutOff { partitions };
                if self.writer.send(&event, Payload::None).await.is_err() {
                    return Ok(());
                }
            }
            let mut found = Vec::new();
            for (index, next) in &mut next {
                let mut state = self.shared.world.state.lock();
                let end = state.end(self.shared.id, &topic, *index)?;
                let partition = state.partition(&topic, *index)?;
                for batch in &partition.batches {
                    if batch.end_offset() > *next && batch.end_offset().0 <= end {
                        found.push((*index, Offset(partition.end), batch.clone()));
                        *next = batch.end_offset();
                    }
                }
            }
            for (partition, end_offset, batch) in found {
                let fault = self.shared.world.state.lock().consume_faults.pop_front();
                let event = ConsumeEvent::Batch {
                    partition,
                    end_offset,
                };
                let mut bytes = batch.to_bytes();
                if matches!(fault, Some(ConsumeFault::Damage)) {
                    let mut damaged = bytes.to_vec();
                    *damaged.last_mut().unwrap() ^= 1;
                    bytes = damaged.into();
                }
                let times = match fault {
                    Some(ConsumeFault::Skip) => 0,
                    Some(ConsumeFault::Twice) => 2,
                    _ => 1,
                };
                for _ in 0..times {
                    self.writer.push(&event, Payload::Bytes(&bytes));
                }
                if self.writer.flush().await.is_err() {
                    return Ok(());
                }
                if matches!(fault, Some(ConsumeFault::BreakAfter)) {
                    // Let it arrive before the connection breaks.
                    self.writer.finish();
                    self.writer.stopped().await;
                    self.connection.close(VarInt::from_u32(9), b"lost");
                    return Ok(());
                }
            }
            if appended.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}
