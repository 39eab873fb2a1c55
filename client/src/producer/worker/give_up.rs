//! Giving batches up: those whose time is up, and all when there is nothing left to send them to.

use std::time::{Duration, Instant};

use flumen_protocol::{
    error::{ErrorCode, WireError},
    topic::NoSuchPartition,
};
use tokio::time::sleep_until;

use super::{End, Worker};
use crate::producer::delivery::DeliveryError;

/// A batch is given up as a whole, when the time of its first record is up. Where it cannot leave, it
/// takes records for this part of that time, or its linger if that is longer: what is handed over
/// later has nearly all of its own time.
const GATHERING_PART: u32 = 10;

impl Worker {
    /// Gives up what is overdue, for as long as a stream is used.
    pub(super) async fn watch_deadlines(&self) -> End {
        loop {
            sleep_until(self.next_look().into()).await;
            if !self.expire() {
                // Who writes is not woken for nothing: it counts for how long it has nothing to do.
                continue;
            }
            if let Some(reason) = self.delivery.lock().wants_new_stream() {
                return End::Lost(reason.to_owned());
            }
            self.signal.notify_one();
        }
    }

    /// Awaits `future`, and gives up meanwhile what is overdue, and all when the client is
    /// closed; `None` if nothing is left.
    pub(super) async fn unless_all_expire<R>(&self, future: impl Future<Output = R>) -> Option<R> {
        let mut future = std::pin::pin!(future);
        let mut closed = std::pin::pin!(self.shared.client.closed());
        loop {
            tokio::select! {
                biased;
                () = &mut closed => {
                    self.fail_all(&DeliveryError::GivenUp(None));
                    return None;
                }
                result = &mut future => return Some(result),
                () = sleep_until(self.next_look().into()) => {
                    self.expire();
                    if !self.has_work() {
                        return None;
                    }
                }
            }
        }
    }

    /// When to look again for what is overdue, or gathers for too long.
    fn next_look(&self) -> Instant {
        self.next_deadline()
            .min(Instant::now() + self.gathering_max())
    }

    fn gathering_max(&self) -> Duration {
        let options = &self.shared.options;
        options
            .linger
            .max(options.delivery_timeout / GATHERING_PART)
    }

    fn next_deadline(&self) -> Instant {
        let timeout = self.shared.options.delivery_timeout;
        let gathered = self.shared.accumulator.lock().oldest(self.partition);
        let sent = self.delivery.lock().next_deadline();
        let gathered = gathered.map(|created| created + timeout);
        let first = sent.into_iter().chain(gathered).min();
        // What comes later is due later.
        first.unwrap_or_else(|| Instant::now() + timeout)
    }

    /// Tells whether there was anything to do.
    fn expire(&self) -> bool {
        let now = Instant::now();
        let before = now.checked_sub(self.gathering_max());
        let is_parted = before.is_some_and(|before| {
            let mut accumulator = self.shared.accumulator.lock();
            accumulator.part(self.partition, before)
        });
        if let Some(before) = now.checked_sub(self.shared.options.delivery_timeout) {
            loop {
                let overdue = self
                    .shared
                    .accumulator
                    .lock()
                    .take_older(self.partition, before);
                match overdue {
                    Some(batch) => self.accept(batch),
                    None => break,
                }
            }
        }
        let resolved = self.delivery.lock().expire(now);
        let is_overdue = !resolved.is_empty();
        self.settle(resolved);
        if !self.has_work() {
            self.clear_setback();
        }
        is_parted || is_overdue
    }

    pub(super) fn fail_all_for_lack_of_topic(&self) {
        let topic = &self.shared.topic;
        let text = format!("the topic was deleted; `flumen topic create {topic}` makes it anew");
        let error = WireError::new(ErrorCode::UnknownTopic, text);
        self.fail_all(&DeliveryError::Refused(error));
    }

    /// Whether the topic was deleted and made anew with fewer partitions.
    pub(super) fn partition_is_gone(&self) -> bool {
        self.partition >= self.shared.accumulator.lock().partitions()
    }

    pub(super) fn fail_all_for_lack_of_partition(&self) {
        let error = NoSuchPartition {
            topic: self.shared.topic.clone(),
            partition: self.partition,
            partitions: self.shared.accumulator.lock().partitions(),
        };
        let text = format!("the topic was deleted and made anew: {error}");
        let error = WireError::new(ErrorCode::UnknownPartition, text);
        self.fail_all(&DeliveryError::Refused(error));
    }

    /// This task ends though it should not: it has panicked, or its runtime shuts down. Nobody can take
    /// its place, since what it has sent is not known to others; so the delivery takes nothing more,
    /// and those who wait are told.
    pub(super) fn stop(&self) {
        self.shared.accumulator.lock().stop();
        self.fail_all(&DeliveryError::Stopped);
        self.clear_setback();
        self.shared.room.made();
    }

    /// Gives up all that waits.
    fn fail_all(&self, error: &DeliveryError) {
        while let Some(batch) = {
            let mut accumulator = self.shared.accumulator.lock();
            accumulator.take_older(self.partition, Instant::now())
        } {
            self.accept(batch);
        }
        let resolved = self.delivery.lock().fail_all(error);
        self.settle(resolved);
    }
}
