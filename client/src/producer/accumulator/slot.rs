//! What waits of one partition: the batch that gathers, those that are complete, and the worker
//! that takes them.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use flumen_protocol::{batch::BatchBuilder, limits::BATCH_BYTES_MAX};
use tokio::sync::Notify;

use super::AccumulatorOptions;
use crate::producer::{accounts::Share, completion::Completion};

/// A batch that is ready to be built and sent.
#[derive(Debug)]
pub(in crate::producer) struct Gathered {
    pub(in crate::producer) builder: BatchBuilder,
    pub(in crate::producer) completion: Arc<Completion>,
    /// When its first record came.
    pub(in crate::producer) created: Instant,
    /// Bytes to give back to the account of memory.
    pub(in crate::producer) bytes: usize,
    /// In the order in which batches are begun.
    pub(super) number: u64,
    /// Whose records they are.
    pub(in crate::producer) shares: Vec<Share>,
}

/// What a worker wants to take besides complete batches: one that still gathers, if it has
/// gathered so much for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::producer) struct Take {
    pub(in crate::producer) bytes_min: usize,
    pub(in crate::producer) age_min: Duration,
}

/// What a worker gets.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once a batch")]
pub(in crate::producer) enum Took {
    Batch(Gathered),
    /// Records gather; come back then, or when woken.
    Later(Option<Instant>),
    Nothing,
}

/// What waits of one partition.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) open: Option<Gathered>,
    pub(super) complete: VecDeque<Gathered>,
    pub(super) worker: Option<Arc<Notify>>,
    /// The worker waits for something else than the first record.
    pub(super) worker_is_busy: bool,
    /// Bytes at which the open batch is large enough for the worker.
    pub(super) wake_at_bytes: usize,
    /// Somebody flushes: what gathers goes at once.
    pub(super) hurry: bool,
    /// Bytes of the last batch: room for the next.
    last_bytes: usize,
}

impl Slot {
    pub(super) fn begin(
        &mut self,
        options: &AccumulatorOptions,
        content_type: &str,
        number: u64,
    ) -> &mut Gathered {
        let room = (self.last_bytes + self.last_bytes / 8).min(BATCH_BYTES_MAX);
        let mut builder = BatchBuilder::with_capacity(room.min(options.batch_bytes * 2));
        builder
            .set_content_type(content_type)
            .expect("the content type was checked when the producer was built");
        self.open.insert(Gathered {
            builder,
            completion: Arc::default(),
            created: Instant::now(),
            bytes: 0,
            number,
            shares: Vec::new(),
        })
    }

    pub(super) fn complete_open(&mut self) {
        if let Some(open) = self.open.take() {
            self.last_bytes = open.builder.encoded_len();
            self.complete.push_back(open);
            self.hurry = false;
        }
    }

    /// Takes back a batch that was begun for a record that could not be taken.
    pub(super) fn abandon_empty(&mut self) {
        self.open.take_if(|open| open.builder.is_empty());
    }

    #[inline]
    pub(super) fn wake(&self) {
        if let Some(worker) = &self.worker {
            worker.notify_one();
        }
    }

    /// Takes the oldest batch; one that gathers as `take` says, or at once if `hurry_all`.
    pub(super) fn take(&mut self, take: Take, hurry_all: bool, now: Instant) -> Took {
        self.worker_is_busy = false;
        self.wake_at_bytes = usize::MAX;
        if let Some(batch) = self.complete.pop_front() {
            return Took::Batch(batch);
        }
        let Some(open) = &self.open else {
            self.hurry = false;
            return Took::Nothing;
        };
        if open.bytes < take.bytes_min {
            self.worker_is_busy = true;
            self.wake_at_bytes = take.bytes_min;
            return Took::Later(None);
        }
        let ripe_at = open.created + take.age_min;
        if !self.hurry && !hurry_all && ripe_at > now {
            self.worker_is_busy = true;
            return Took::Later(Some(ripe_at));
        }
        self.complete_open();
        self.complete.pop_front().map_or(Took::Nothing, Took::Batch)
    }

    /// Takes a batch that came before `before`, whether complete or not.
    pub(super) fn take_older(&mut self, before: Instant) -> Option<Gathered> {
        if self.complete.is_empty() && self.open.as_ref().is_some_and(|o| o.created <= before) {
            self.complete_open();
        }
        self.complete.pop_front_if(|batch| batch.created <= before)
    }

    /// The batch that came last.
    #[inline]
    pub(super) fn newest(&self) -> Option<&Gathered> {
        self.open.as_ref().or(self.complete.back())
    }

    /// The batch that came first.
    pub(super) fn oldest(&self) -> Option<&Gathered> {
        self.complete.front().or(self.open.as_ref())
    }

    /// Whether records gather that no complete batch is before.
    pub(super) fn is_gathering(&self) -> bool {
        self.complete.is_empty() && self.open.is_some()
    }
}
