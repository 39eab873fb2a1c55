//! What waits to be written, in the order of the calls.

use std::{collections::VecDeque, sync::Arc};

use super::{Done, SyncPolicy, WalError, shard::Shard, writer::Operation};

/// Appends up to this size are written by their caller when nobody else is writing: below, waking
/// another thread would cost more than the write.
pub(super) const INLINE_BYTES_MAX: u64 = 64 * 1024;
/// One sync waits for no more than about this much to be written.
const BATCH_BYTES_MAX: u64 = 16 << 20;

/// An operation that waits.
pub(super) struct Queued {
    pub(super) shard: Arc<Shard>,
    pub(super) operation: Operation,
    pub(super) done: Option<Done>,
    pub(super) bytes: u64,
}

impl Queued {
    /// Whether it must be synced before it is done, whatever the policy.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self.operation, Operation::Vote(_))
    }
}

/// The queue, and who is writing what was in it.
pub(super) struct Queue {
    policy: SyncPolicy,
    operations: VecDeque<Queued>,
    bytes: u64,
    urgent: usize,
    /// Somebody has the right to write, and looks at the queue again before giving it back.
    pub(super) writing: bool,
    /// The one who had the right to write leaves it to the writer's thread.
    pub(super) handed_over: bool,
    /// The writer's thread wants to be woken when so many operations wait.
    pub(super) wake_at: usize,
    /// How many operations were queued, and how many of them are written.
    pub(super) queued: u64,
    pub(super) written: u64,
    pub(super) readers_waiting: usize,
    pub(super) closed: bool,
    pub(super) failed: Option<WalError>,
}

impl Queue {
    pub(super) fn new(policy: SyncPolicy) -> Self {
        Self {
            policy,
            operations: VecDeque::new(),
            bytes: 0,
            urgent: 0,
            writing: false,
            handed_over: false,
            wake_at: 1,
            queued: 0,
            written: 0,
            readers_waiting: 0,
            closed: false,
            failed: None,
        }
    }

    /// Why nothing more is taken, if so.
    pub(super) fn check(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.closed => Err(WalError::Closed),
            None => Ok(()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.queued += 1;
        queued
            .shard
            .queued
            .store(self.queued, std::sync::atomic::Ordering::Release);
        self.bytes += queued.bytes;
        self.urgent += usize::from(queued.is_urgent());
        self.operations.push_back(queued);
    }

    /// Whether the caller may write all that waits: little, and no sync needed.
    pub(super) fn is_for_callers(&self) -> bool {
        self.policy != SyncPolicy::Always && self.urgent == 0 && self.bytes <= INLINE_BYTES_MAX
    }

    /// Takes what is to be written together.
    pub(super) fn take(&mut self) -> Vec<Queued> {
        let mut bytes = 0;
        let within = |queued: &&Queued| {
            let fits = bytes < BATCH_BYTES_MAX;
            bytes += queued.bytes;
            fits
        };
        let count = self.operations.iter().take_while(within).count();
        let taken: Vec<_> = self.operations.drain(..count).collect();
        self.bytes -= taken.iter().map(|queued| queued.bytes).sum::<u64>();
        self.urgent -= taken.iter().filter(|queued| queued.is_urgent()).count();
        taken
    }

    /// Takes all, to refuse it.
    pub(super) fn take_all(&mut self) -> VecDeque<Queued> {
        self.bytes = 0;
        self.urgent = 0;
        std::mem::take(&mut self.operations)
    }
}
