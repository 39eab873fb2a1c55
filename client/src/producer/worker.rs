//! One task a partition: takes batches, writes them to a produce stream, reads the answers,
//! and opens another stream when one is lost.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `shared` | what all tasks of a delivery share with its producers |
//! | `outgoing` | a batch on its way, and who waits for it |
//! | `write` | which batches leave when |
//! | `answers` | what became of them |
//! | `give_up` | those whose time is up, or that have nowhere to go |

mod answers;
mod give_up;
mod outgoing;
mod shared;
mod write;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flumen_protocol::{
    ids::{BrokerId, ShardId},
    message::{ProduceOpen, StreamOpen},
};
use flumen_transport::stream::{DATA_LIMITS, FrameReader, FrameWriter, Payload};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, sleep_until},
};

use self::outgoing::{Outgoing, Waiter};
pub(super) use self::shared::Shared;
use super::delivery::{Delivery, DeliveryOptions};
use crate::{
    config::LEADER_STALL,
    connection::{Broker, backoff::Backoff},
    setback::Cause,
};

/// An answer that takes longer than this is a setback to be told of.
const ANSWER_OVERDUE: Duration = Duration::from_secs(2);

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
            has_ended: false,
        };
        tokio::spawn(worker.run());
    }
}

type PartitionDelivery = Delivery<Outgoing, Waiter>;

/// Why a stream is no longer used.
enum End {
    /// There was nothing to send, or others had no room for a stream; all that was sent is answered.
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

/// A produce stream, and the broker that it goes to.
struct Stream {
    broker: Arc<Broker>,
    writer: FrameWriter,
    reader: FrameReader,
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
    /// All is settled, and nothing more will come.
    has_ended: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.has_ended {
            self.stop();
        }
    }
}

impl Worker {
    async fn run(mut self) {
        let mut backoff = Backoff::new(self.shared.client.config().reconnect, rand::random());
        loop {
            // Asked for first: what came before the last producer closed is work.
            let is_closed = self.shared.accumulator.lock().is_closed();
            if !self.has_work() {
                self.clear_setback();
                if is_closed {
                    self.has_ended = true;
                    return;
                }
                self.signal.notified().await;
                continue;
            }
            let pause = self.delivery.lock().retry_at();
            if let Some(at) = pause
                && self
                    .unless_all_expire(sleep_until(at.into()))
                    .await
                    .is_none()
            {
                continue;
            }
            let place = self.place();
            let Some(opened) = self.unless_all_expire(self.open(place)).await else {
                continue;
            };
            let end = match opened {
                Ok(stream) => self.carry(place, stream, &mut backoff).await,
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
        let broker = self.shared.client.broker(place.leader);
        self.note_setback(broker.explain(&text));
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
    async fn open(&self, place: Place) -> Result<Stream, End> {
        let Place { shard, leader } = place;
        tokio::select! {
            biased;
            opened = self.open_at(leader) => opened.map_err(End::Lost),
            () = self.shared.client.led_elsewhere(shard, leader, LEADER_STALL) => Err(End::Moved),
        }
    }

    async fn open_at(&self, leader: Option<BrokerId>) -> Result<Stream, String> {
        let broker = self.shared.client.broker(leader);
        let connection = broker.connection().await.map_err(|e| e.to_string())?;
        let opened = broker.streams.open(&connection).await;
        let (send, receive) = opened.map_err(|e| e.to_string())?;
        let mut writer = FrameWriter::new(send);
        let open = StreamOpen::Produce(ProduceOpen {
            topic: self.shared.topic.clone(),
            partition: self.partition,
        });
        writer.push(&open, Payload::None);
        Ok(Stream {
            broker,
            writer,
            reader: FrameReader::new(receive, DATA_LIMITS),
        })
    }

    /// Uses a stream until it is idle or lost.
    async fn carry(&self, place: Place, stream: Stream, backoff: &mut Backoff) -> End {
        let Stream {
            broker,
            mut writer,
            mut reader,
        } = stream;
        self.delivery.lock().stream_opened();
        let end = tokio::select! {
            biased;
            end = self.read(&mut reader, backoff) => end,
            end = self.write(&broker, &mut writer) => end,
            end = self.watch_deadlines() => end,
            end = self.watch_leader(place) => end,
        };
        let mut delivery = self.delivery.lock();
        match end {
            End::Idle => {
                writer.finish();
                delivery.stream_left();
            }
            End::Moved | End::Lost(_) => {
                writer.reset(0);
                delivery.stream_lost();
            }
        }
        drop(delivery);
        end
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
                let broker = client.broker(leader);
                self.note_setback(format!("broker {} does not answer", broker.address()));
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

    fn note_setback(&self, reason: String) {
        self.is_set_back.store(true, Ordering::Relaxed);
        let setbacks = &self.shared.setbacks;
        setbacks.note(Cause::Attempts, self.partition, reason);
    }

    fn clear_setback(&self) {
        if self.is_set_back.load(Ordering::Relaxed) {
            self.is_set_back.store(false, Ordering::Relaxed);
            let setbacks = &self.shared.setbacks;
            setbacks.clear(Cause::Attempts, self.partition);
        }
    }
}
