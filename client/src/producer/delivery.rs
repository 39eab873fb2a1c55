//! What one partition's producer has sent, what it waits for and what it does next, as a
//! pure state machine: time and answers go in, batches to send and outcomes come out.
//!
//! # How nothing is lost, doubled or reordered
//! Batches leave in the order in which they were pushed, each with the next sequence of the
//! current epoch, assigned when it is first sent. The broker takes sequence `n` only after
//! `n - 1` and answers a batch it has already with the receipt of the first time. Therefore:
//!
//! - After a lost connection everything unanswered is sent again, in order and under the same
//!   sequences. Until it is answered it *may be stored*.
//! - After a retryable refusal nothing new is sent. The answers to what is in flight are
//!   awaited (the broker refuses those batches as out of sequence), and then, after a pause,
//!   everything is sent again from the oldest on.
//! - A batch that is given up leaves a gap in the sequence, and the broker refuses all that
//!   follows as out of sequence. Then a new epoch begins, in which what is pending is numbered
//!   anew.
//! - A batch that may be stored is never numbered anew. That it was refused as out of sequence
//!   proves nothing: what was sent on a stream that is lost may still be on its way, together
//!   with what was missing, and be stored a moment later. So the new epoch begins with a fence,
//!   an empty batch; once it is acknowledged the broker takes nothing of the old epoch any
//!   more. Then the batch is sent again under its old number, and the answer is final: the
//!   receipt of the first time, or *fenced*, which proves that it is not stored.
//! - A batch whose time is up is reported as *unknown* if it may be stored. It keeps its
//!   place until those sent after it are settled, too, because their numbers build on it.

use std::{collections::VecDeque, time::Instant};

use flumen_protocol::{
    error::{ErrorCode, WireError},
    message::{ProduceOutcome, ProduceReceipt},
};

use crate::connection::backoff::{Backoff, BackoffOptions};

#[cfg(test)]
mod tests;

/// The limits of one partition's delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeliveryOptions {
    /// Batches that may be sent and not yet answered.
    pub(crate) in_flight_max: usize,
    /// Waits between attempts after a retryable refusal.
    pub(crate) backoff: BackoffOptions,
}

/// The number of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) epoch: u32,
    pub(crate) sequence: u64,
}

/// Why a batch was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryError {
    /// A plugin refused it, in its own words. It is not stored.
    Rejected(WireError),
    /// The broker refused it. It is not stored.
    Refused(WireError),
    /// Its time was up before the broker could take it. It is not stored.
    NotSent(Option<String>),
    /// It was given up before the broker could take it, and why that took so long. It is not
    /// stored.
    GivenUp(Option<String>),
    /// Who delivers has stopped before the broker could take it. It is not stored.
    Stopped,
    /// Its time was up while it was on its way. It may be stored.
    TimedOut,
    /// It may be stored, and trying again cannot tell.
    Unknown(String),
}

/// A batch whose outcome is settled; `waiter` is who wants to know.
#[derive(Debug)]
pub(crate) struct Resolved<W> {
    pub(crate) waiter: W,
    pub(crate) result: Result<ProduceReceipt, DeliveryError>,
}

/// What to write to the stream next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a, B> {
    /// This batch, under this number.
    Batch(Identity, &'a mut B),
    /// An empty batch under this number.
    Fence(Identity),
}

/// The fence before the next epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    NotSent,
    /// It may stand.
    Sent,
    Stands,
}

/// What stands for the fence among the ids of what is in flight.
const FENCE_ID: u64 = u64::MAX;

/// Why a stream is given up.
const MOVED: &str = "the broker does not lead the partition any more";
const OVERDUE: &str = "batches had no answer in time";
const GIVEN_UP: &str = "what was sent on it is given up";

/// An answer to a batch that was not sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker answered a batch that was not sent")]
pub(crate) struct UnexpectedAnswer;

#[derive(Debug)]
struct Pending<B, W> {
    id: u64,
    /// Set when it is first sent.
    identity: Option<Identity>,
    deadline: Instant,
    batch: B,
    /// Gone once the outcome was reported.
    waiter: Option<W>,
    /// Sent on the present stream and not answered.
    in_flight: bool,
    /// An attempt had no answer that says whether the batch is stored.
    maybe_stored: bool,
    last_error: Option<WireError>,
}

/// How a stream ends on which nothing more is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All is answered.
    Answered,
    /// It is of no use any more, and why.
    Lost(&'static str),
    /// Not yet: answers are to come.
    Awaits,
}

/// Whether only another broker can take what this one refuses.
fn leads_elsewhere(error: &WireError) -> bool {
    error.code == ErrorCode::NotLeader || error.retryable && error.leader.is_some()
}

impl<B, W> Pending<B, W> {
    fn has_expired(&self) -> bool {
        self.waiter.is_none()
    }
}

/// The batches of one partition. `B` is the batch, `W` who waits for its outcome.
#[derive(Debug)]
pub(crate) struct Delivery<B, W> {
    options: DeliveryOptions,
    /// In order. Those with an identity come before those without.
    queue: VecDeque<Pending<B, W>>,
    /// The ids of what is in flight, in the order in which answers come.
    in_flight: VecDeque<u64>,
    next_id: u64,
    epoch: u32,
    next_sequence: u64,
    has_stream: bool,
    /// Why the stream is of no use any more.
    stream_spoilt: Option<&'static str>,
    /// The broker does not have the partition: the stream is of no use once all is answered.
    partition_is_unknown: bool,
    /// The sequence has a gap that only a new epoch closes.
    new_epoch_wanted: bool,
    fence: Fence,
    /// Set by a retryable refusal: when, and not before all is answered, to send again.
    retry_at: Option<Instant>,
    backoff: Backoff,
}

impl<B, W> Delivery<B, W> {
    pub(crate) fn new(options: DeliveryOptions, seed: u64) -> Self {
        Self {
            options,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_id: 0,
            epoch: 0,
            next_sequence: 0,
            has_stream: false,
            stream_spoilt: None,
            partition_is_unknown: false,
            new_epoch_wanted: false,
            fence: Fence::NotSent,
            retry_at: None,
            backoff: Backoff::new(options.backoff, seed),
        }
    }

    /// Adds a batch behind all others.
    pub(crate) fn push(&mut self, batch: B, waiter: W, deadline: Instant) {
        self.queue.push_back(Pending {
            id: self.next_id,
            identity: None,
            deadline,
            batch,
            waiter: Some(waiter),
            in_flight: false,
            maybe_stored: false,
            last_error: None,
        });
        self.next_id += 1;
    }

    /// Whether no batch is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many batches are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a batch that is pushed now would be sent at once.
    pub(crate) fn accepts(&self) -> bool {
        self.has_stream
            && self.wants_new_stream().is_none()
            && self.retry_at.is_none()
            && !self.new_epoch_wanted
            && self.in_flight.len() < self.options.in_flight_max
            && self.in_flight.len() == self.queue.len()
    }

    /// A new stream is there; what was in flight on the last one is sent again.
    pub(crate) fn stream_opened(&mut self) {
        debug_assert!(self.in_flight.is_empty(), "the last stream was lost first");
        self.has_stream = true;
        self.stream_spoilt = None;
        self.partition_is_unknown = false;
    }

    /// The stream is gone; no answer will come to what is in flight.
    pub(crate) fn stream_lost(&mut self) {
        for pending in &mut self.queue {
            if pending.in_flight {
                pending.in_flight = false;
                pending.maybe_stored = true;
            }
        }
        self.in_flight.clear();
        self.has_stream = false;
        self.stream_spoilt = None;
        self.partition_is_unknown = false;
        self.retry_at = None;
    }

    /// The stream was left, with nothing in flight. A pause after a refusal goes on.
    pub(crate) fn stream_left(&mut self) {
        let retry_at = self.retry_at();
        self.stream_lost();
        self.retry_at = retry_at;
    }

    /// How a stream ends on which nothing more is sent.
    pub(crate) fn ending(&self) -> Ending {
        match self.wants_new_stream() {
            Some(reason) => Ending::Lost(reason),
            None if self.in_flight.is_empty() => Ending::Answered,
            None => Ending::Awaits,
        }
    }

    /// Why the stream must be given up and another one opened, to the leader as it is by then;
    /// `None` if it need not.
    pub(crate) fn wants_new_stream(&self) -> Option<&'static str> {
        let is_unknown = self.partition_is_unknown && self.in_flight.is_empty();
        self.stream_spoilt
            .or(is_unknown.then_some("the broker does not have the partition"))
    }

    /// What to write to the stream next, now in flight.
    pub(crate) fn poll_send(&mut self, now: Instant) -> Option<Next<'_, B>> {
        if !self.may_send(now) {
            return None;
        }
        self.retry_at = None;
        if self.new_epoch_wanted {
            let mut pending = self.queue.iter();
            if pending.all(|p| p.has_expired() || !p.maybe_stored) {
                self.start_epoch();
            } else if self.fence != Fence::Stands {
                self.fence = Fence::Sent;
                self.in_flight.push_back(FENCE_ID);
                return Some(Next::Fence(Identity {
                    epoch: self.epoch + 1,
                    sequence: 0,
                }));
            }
        }
        let probing = self.new_epoch_wanted;
        let index = self.queue.iter().position(|pending| {
            !pending.in_flight && (!probing || pending.maybe_stored && !pending.has_expired())
        })?;
        let pending = &mut self.queue[index];
        let identity = *pending.identity.get_or_insert_with(|| {
            let sequence = self.next_sequence;
            self.next_sequence += 1;
            Identity {
                epoch: self.epoch,
                sequence,
            }
        });
        pending.in_flight = true;
        self.in_flight.push_back(pending.id);
        Some(Next::Batch(identity, &mut pending.batch))
    }

    fn may_send(&self, now: Instant) -> bool {
        let waits_for_answers = self.retry_at.is_some() || self.new_epoch_wanted;
        self.has_stream
            && self.wants_new_stream().is_none()
            && self.in_flight.len() < self.options.in_flight_max
            && (self.in_flight.is_empty() || !waits_for_answers)
            && self.retry_at.is_none_or(|at| at <= now)
    }

    /// Gives up the batch that [`Delivery::poll_send`] returned last: it cannot be written.
    pub(crate) fn fail_unsendable(&mut self, error: WireError) -> Option<Resolved<W>> {
        let id = self.in_flight.pop_back()?;
        let index = self.queue.iter().position(|pending| pending.id == id)?;
        self.new_epoch_wanted = true;
        self.resolve(index, Err(DeliveryError::Refused(error)))
    }

    /// Takes the broker's answer to the oldest batch in flight.
    pub(crate) fn on_outcome(
        &mut self,
        now: Instant,
        outcome: ProduceOutcome,
    ) -> Result<Option<Resolved<W>>, UnexpectedAnswer> {
        let id = self.in_flight.pop_front().ok_or(UnexpectedAnswer)?;
        if id == FENCE_ID {
            self.on_fence_outcome(now, outcome);
            return Ok(None);
        }
        let Some(index) = self.queue.iter().position(|pending| pending.id == id) else {
            // Its time was up and it was dropped; the stream is about to be given up.
            return Ok(None);
        };
        self.queue[index].in_flight = false;
        Ok(match outcome {
            Ok(receipt) => {
                self.backoff.reset();
                self.resolve(index, Ok(receipt))
            }
            Err(error) => self.on_refusal(now, index, error),
        })
    }

    fn on_fence_outcome(&mut self, now: Instant, outcome: ProduceOutcome) {
        match outcome {
            Ok(_) => {
                self.backoff.reset();
                self.fence = Fence::Stands;
            }
            Err(error) if leads_elsewhere(&error) => self.stream_spoilt = Some(MOVED),
            Err(error) if error.code == ErrorCode::UnknownPartition => {
                self.partition_is_unknown = true;
            }
            // Those that wait for it have a deadline.
            Err(_) => self.retry_at = Some(now + self.backoff.next_delay()),
        }
    }

    fn on_refusal(&mut self, now: Instant, index: usize, error: WireError) -> Option<Resolved<W>> {
        let maybe_stored = self.queue[index].maybe_stored;
        match error.code {
            // The broker has taken the batch's number as used, by a batch without records. That
            // is final: even if this one was sent before, it is not stored.
            ErrorCode::Rejected => {
                self.backoff.reset();
                self.resolve(index, Err(DeliveryError::Rejected(error)))
            }
            ErrorCode::OutOfSequence => {
                // What is before it will be sent again first.
                self.new_epoch_wanted |= index == 0;
                if self.fence == Fence::Stands {
                    // The broker has lost it.
                    self.fence = Fence::Sent;
                }
                self.retry_later(now, index, error)
            }
            ErrorCode::ProducerFenced if self.fence == Fence::Stands => {
                self.queue[index].maybe_stored = false;
                None
            }
            ErrorCode::UnknownProducer if !maybe_stored => {
                self.new_epoch_wanted = true;
                self.retry_later(now, index, error)
            }
            code if leads_elsewhere(&error) => {
                self.stream_spoilt = Some(MOVED);
                self.queue[index].maybe_stored |= code == ErrorCode::Timeout;
                self.queue[index].last_error = Some(error);
                None
            }
            // Its broker may be about to learn of it, or the topic was deleted: only the catalog
            // knows, which is asked between two streams. What else is in flight is about to be
            // refused as well, so that none of it needs to count as perhaps stored.
            ErrorCode::UnknownPartition => {
                self.partition_is_unknown = true;
                self.retry_later(now, index, error)
            }
            code if error.retryable => {
                self.queue[index].maybe_stored |= code == ErrorCode::Timeout;
                self.retry_later(now, index, error)
            }
            code => {
                self.new_epoch_wanted = true;
                let failed_inside = matches!(code, ErrorCode::Internal | ErrorCode::StorageFailed);
                let result = if maybe_stored || failed_inside {
                    DeliveryError::Unknown(error.text)
                } else {
                    DeliveryError::Refused(error)
                };
                self.resolve(index, Err(result))
            }
        }
    }

    fn retry_later(&mut self, now: Instant, index: usize, error: WireError) -> Option<Resolved<W>> {
        self.queue[index].last_error = Some(error);
        if self.retry_at.is_none() {
            self.retry_at = Some(now + self.backoff.next_delay());
        }
        None
    }

    fn resolve(
        &mut self,
        index: usize,
        result: Result<ProduceReceipt, DeliveryError>,
    ) -> Option<Resolved<W>> {
        let waiter = self.queue.remove(index)?.waiter?;
        Some(Resolved { waiter, result })
    }

    /// Gives up the batches whose time is up.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Resolved<W>> {
        let mut resolved = Vec::new();
        let mut leaves_gap = false;
        self.queue.retain_mut(|pending| {
            if pending.deadline > now || pending.has_expired() {
                return true;
            }
            let maybe_stored = pending.in_flight || pending.maybe_stored;
            let result = if maybe_stored {
                DeliveryError::TimedOut
            } else {
                // What is reported as not stored is never sent again.
                leaves_gap |= pending.identity.is_some();
                DeliveryError::NotSent(pending.last_error.take().map(|error| error.text))
            };
            resolved.extend(pending.waiter.take().map(|waiter| Resolved {
                waiter,
                result: Err(result),
            }));
            maybe_stored
        });
        self.new_epoch_wanted |= leaves_gap;
        let mut numbered = self
            .queue
            .iter()
            .filter(|p| p.identity.is_some())
            .peekable();
        if numbered.peek().is_some() && numbered.all(Pending::has_expired) {
            self.stream_spoilt = (!self.in_flight.is_empty()).then_some(OVERDUE);
            self.start_epoch();
        }
        resolved
    }

    /// Gives up everything, because of `error`.
    pub(crate) fn fail_all(&mut self, error: &DeliveryError) -> Vec<Resolved<W>> {
        self.stream_spoilt = (!self.in_flight.is_empty()).then_some(GIVEN_UP);
        self.new_epoch_wanted = true;
        let failed = self.queue.drain(..).filter_map(|pending| {
            let result = match error {
                DeliveryError::Refused(WireError { text, .. })
                | DeliveryError::NotSent(Some(text))
                    if pending.maybe_stored || pending.in_flight =>
                {
                    DeliveryError::Unknown(text.clone())
                }
                DeliveryError::GivenUp(_) if pending.maybe_stored || pending.in_flight => {
                    DeliveryError::Unknown("the client was closed before the answer".to_owned())
                }
                DeliveryError::Stopped if pending.maybe_stored || pending.in_flight => {
                    DeliveryError::Unknown("who waited for the answer has stopped".to_owned())
                }
                DeliveryError::GivenUp(_) => {
                    DeliveryError::GivenUp(pending.last_error.map(|error| error.text))
                }
                error => error.clone(),
            };
            Some(Resolved {
                waiter: pending.waiter?,
                result: Err(result),
            })
        });
        failed.collect()
    }

    /// When [`Delivery::expire`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let mut waiting = self.queue.iter().filter(|pending| !pending.has_expired());
        waiting.next().map(|pending| pending.deadline)
    }

    /// When [`Delivery::poll_send`] has something to do next, if time is all it waits for.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.in_flight.is_empty())
    }

    /// Closes the gap in the sequence. All that keeps a number is either gone for its
    /// producer, or known not to be stored and numbered anew.
    fn start_epoch(&mut self) {
        self.queue.retain_mut(|pending| {
            pending.identity = None;
            !pending.has_expired()
        });
        (self.epoch, self.next_sequence) = match self.fence {
            Fence::NotSent => (self.epoch + 1, 0),
            // Its number may be used, or not.
            Fence::Sent => (self.epoch + 2, 0),
            Fence::Stands => (self.epoch + 1, 1),
        };
        self.fence = Fence::NotSent;
        self.new_epoch_wanted = false;
    }
}
