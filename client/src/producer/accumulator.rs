//! Records that wait to be sent, gathered into one open batch a partition.
//!
//! All records of the producers that share a delivery pass through here under one short lock: a
//! record's bytes are appended to the columns of its partition's batch, and nothing is allocated
//! for it. What gathers of one partition is a [`slot`]; here is what all of them share: memory, the
//! choice of the partition, the clock, and whose records they are.

mod record;
mod slot;

use std::{sync::Arc, time::Instant};

use flumen_protocol::batch::PushError;
use tokio::sync::Notify;

use self::slot::Slot;
pub(super) use self::{
    record::{NewRecord, NotTaken, Taken},
    slot::{Gathered, Take, Took},
};
use super::{
    accounts::{AccountId, Accounts, Share, Unsettled},
    clock::{RecordClock, now_ms},
    completion::Completion,
    error::{FlushError, SendError},
    partitioner::partition_for_key,
    room::TURN_MISSED_AFTER,
};

/// When a batch is complete, and how much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AccumulatorOptions {
    pub(super) batch_bytes: usize,
    pub(super) batch_records_max: u32,
    pub(super) memory_bytes_max: usize,
}

/// All that waits, of the producers that share a delivery.
#[derive(Debug)]
pub(super) struct Accumulator {
    options: AccumulatorOptions,
    content_type: String,
    /// One a partition. Those of partitions that are gone stay behind the others, for what they
    /// still have.
    slots: Vec<Slot>,
    partitions: u32,
    /// The partition of records without a key, until its batch is complete.
    sticky: usize,
    bytes: usize,
    /// Records that wait for room.
    queued: usize,
    /// What the one of them that has the turn needs, once it has looked and there was not enough.
    first_needs: usize,
    /// Since when the first of them could have looked for room, and has not.
    turn_since: Option<Instant>,
    /// Every producer is closed or gone.
    closed: bool,
    /// A task that sends has stopped.
    stopped: bool,
    accounts: Accounts,
    batches_begun: u64,
    clock: RecordClock,
}

impl Accumulator {
    pub(super) fn new(options: AccumulatorOptions, content_type: String, partitions: u32) -> Self {
        let mut accumulator = Self {
            options,
            content_type,
            slots: Vec::new(),
            partitions: 0,
            sticky: 0,
            bytes: 0,
            queued: 0,
            first_needs: 0,
            turn_since: None,
            closed: false,
            stopped: false,
            accounts: Accounts::default(),
            batches_begun: 0,
            clock: RecordClock::default(),
        };
        accumulator.set_partitions(partitions);
        accumulator
    }

    /// The topic has so many partitions, if that is more than before.
    pub(super) fn grow(&mut self, partitions: u32) {
        self.set_partitions(partitions.max(self.partitions));
    }

    /// The topic has so many partitions now. Only one that was made anew has fewer than before.
    pub(super) fn set_partitions(&mut self, partitions: u32) {
        let slots = self.slots.len().max(partitions as usize);
        self.slots.resize_with(slots, Slot::default);
        self.partitions = partitions;
        self.begin_at(self.sticky);
    }

    pub(super) fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Lets records without a key begin elsewhere, so that producers that start together do
    /// not all begin with partition 0.
    pub(super) fn begin_at(&mut self, random: usize) {
        self.sticky = random % self.partitions.max(1) as usize;
    }

    /// Adds a record of a producer to the batch of its partition.
    pub(super) fn push(
        &mut self,
        id: AccountId,
        record: &NewRecord<'_>,
    ) -> Result<Taken, Box<NotTaken>> {
        let goes_behind = match self.accounts.get(id) {
            Some(account) if !account.is_closed() => account.queued > 0,
            _ if self.stopped => return Err(Box::new(NotTaken::Stopped)),
            _ => return Err(Box::new(NotTaken::Closed)),
        };
        let bytes = record.memory_bytes();
        if !self.has_room(bytes, record.has_turn, goes_behind) {
            if record.has_turn {
                self.first_needs = bytes;
            }
            return Err(Box::new(NotTaken::Full));
        }
        let partition = self.choose(record)?;
        let timestamp_ms = match record.timestamp_ms {
            Some(timestamp_ms) => timestamp_ms,
            None => self.clock.now_ms(now_ms),
        };
        let slot = &mut self.slots[partition];
        let new = record.at(timestamp_ms);
        let batch_is_full = slot.open.as_ref().is_some_and(|open| {
            open.builder.len() >= self.options.batch_records_max as usize
                || open.builder.encoded_len() + bytes > self.options.batch_bytes
        });
        if batch_is_full {
            slot.complete_open();
        }
        let was_empty = slot.open.is_none();
        loop {
            let open = match &mut slot.open {
                Some(open) => open,
                None => {
                    self.batches_begun += 1;
                    slot.begin(&self.options, &self.content_type, self.batches_begun)
                }
            };
            match open.builder.push(&new) {
                Ok(()) => break,
                Err(PushError::BatchFull) if !open.builder.is_empty() => slot.complete_open(),
                Err(error) => {
                    slot.abandon_empty();
                    return Err(Box::new(NotTaken::Invalid(error)));
                }
            }
        }
        self.bytes += bytes;
        let Some(open) = &mut slot.open else {
            unreachable!("a record was pushed to it")
        };
        open.bytes += bytes;
        let open_bytes = open.bytes;
        let mut has_failures = false;
        if let Some(account) = self.accounts.get(id) {
            has_failures = account.has_failures();
            let completion = &open.completion;
            let unsettled = || Unsettled {
                partition: partition as u32,
                completion: Arc::clone(completion),
            };
            account.count(id, open.number, &mut open.shares, record.awaited, unsettled);
        }
        let index = open.builder.len() as u32 - 1;
        let is_complete = open.builder.encoded_len() >= self.options.batch_bytes
            || index + 1 >= self.options.batch_records_max;
        if is_complete {
            slot.complete_open();
        }
        let is_wanted = slot.worker_is_busy && open_bytes >= slot.wake_at_bytes;
        if is_complete || batch_is_full || was_empty && !slot.worker_is_busy || is_wanted {
            slot.wake_at_bytes = usize::MAX;
            slot.wake();
        }
        if is_complete || batch_is_full {
            self.leave(partition);
        }
        Ok(Taken::new(partition as u32, index, has_failures))
    }

    /// Whether a record may have so many bytes. One that has not waited leaves what the first in the
    /// queue needs, and does not go before others of its own producer, which are to hold their order.
    /// Others need not wait their turn: if all did while anybody waits, each record would be a turn,
    /// and a turn takes longer than a thousand records.
    fn has_room(&mut self, bytes: usize, has_turn: bool, goes_behind: bool) -> bool {
        let (used, max) = (self.bytes + bytes, self.options.memory_bytes_max);
        if used > max && self.bytes > 0 {
            return false;
        }
        if self.queued == 0 || has_turn || self.turn_is_missed() {
            return true;
        }
        !goes_behind && used + self.first_needs <= max
    }

    /// Where the outcome of the record that this partition took last will be.
    pub(super) fn last_completion(&self, partition: u32) -> Option<Arc<Completion>> {
        let newest = self.slots[partition as usize].newest();
        newest.map(|batch| Arc::clone(&batch.completion))
    }

    /// Whether records of a partition gather that no complete batch is before.
    pub(super) fn is_gathering(&self, partition: u32) -> bool {
        self.slots[partition as usize].is_gathering()
    }

    /// Whether nobody sends for this partition yet.
    pub(super) fn needs_worker(&self, partition: u32) -> bool {
        self.slots[partition as usize].worker.is_none()
    }

    fn choose(&self, record: &NewRecord<'_>) -> Result<usize, Box<NotTaken>> {
        let partitions = self.partitions;
        match (record.partition, record.key) {
            (None, None) => Ok(self.sticky),
            (None, Some(key)) => Ok(partition_for_key(key, partitions) as usize),
            (Some(partition), _) if partition < partitions => Ok(partition as usize),
            (Some(partition), _) => Err(Box::new(NotTaken::UnknownPartition {
                partition,
                partitions,
            })),
        }
    }

    /// Makes `worker` the one that sends for `partition`; false if there is one already.
    pub(super) fn assign_worker(&mut self, partition: u32, worker: &Arc<Notify>) -> bool {
        let slot = &mut self.slots[partition as usize];
        if slot.worker.is_some() {
            return false;
        }
        slot.worker = Some(Arc::clone(worker));
        true
    }

    /// Takes the oldest batch of a partition. `now` is asked for only if it matters.
    pub(super) fn take(&mut self, partition: u32, take: Take, now: Instant) -> Took {
        self.clock.expire();
        let index = partition as usize;
        let slot = &mut self.slots[index];
        let gathered = slot.open.is_some();
        let took = slot.take(take, self.closed, now);
        if gathered && slot.open.is_none() {
            self.leave(index);
        }
        took
    }

    /// A batch of this partition is complete: records without a key go elsewhere now.
    fn leave(&mut self, partition: usize) {
        if self.sticky == partition {
            self.begin_at(partition + 1);
        }
    }

    /// Takes batches that came before `before`, whether complete or not.
    pub(super) fn take_older(&mut self, partition: u32, before: Instant) -> Option<Gathered> {
        self.slots[partition as usize].take_older(before)
    }

    /// What gathers since `before`, or for longer, is a batch by itself: records that come later get
    /// one of their own. Tells whether there was any.
    pub(super) fn part(&mut self, partition: u32, before: Instant) -> bool {
        let index = partition as usize;
        let slot = &mut self.slots[index];
        let gathers = slot
            .open
            .as_ref()
            .is_some_and(|open| open.created <= before);
        if gathers {
            slot.complete_open();
            self.leave(index);
        }
        gathers
    }

    /// When the oldest batch of a partition came.
    pub(super) fn oldest(&self, partition: u32) -> Option<Instant> {
        let oldest = self.slots[partition as usize].oldest();
        oldest.map(|batch| batch.created)
    }

    /// No batch will be taken for a while: records look at the clock one by one.
    pub(super) fn suspend_clock(&mut self) {
        self.clock.suspend();
    }

    /// A record of a producer waits for room from now on.
    pub(super) fn enter_queue(&mut self, id: AccountId) {
        self.queued += 1;
        if let Some(account) = self.accounts.get(id) {
            account.queued += 1;
        }
    }

    /// It does not wait any more. If it had the turn, it is the next one's now, if there is one.
    pub(super) fn leave_queue(&mut self, id: AccountId, had_turn: bool) {
        self.queued -= 1;
        if let Some(account) = self.accounts.get(id) {
            account.queued -= 1;
        }
        if had_turn {
            self.first_needs = 0;
        }
        if self.queued == 0 {
            self.turn_since = None;
        } else if had_turn {
            self.turn_since = Some(Instant::now());
        }
    }

    /// The one that has the turn looks for room.
    pub(super) fn take_turn(&mut self) {
        self.turn_since = None;
    }

    /// Whether the one that has the turn could have looked for room for some time, and has not: its
    /// future is not polled. Then it must not keep the others from what there is.
    fn turn_is_missed(&self) -> bool {
        let since = self.turn_since;
        since.is_some_and(|since| since.elapsed() >= TURN_MISSED_AFTER)
    }

    /// Gives memory back.
    pub(super) fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if self.queued > 0 && self.turn_since.is_none() {
            self.turn_since = Some(Instant::now());
        }
    }

    /// Remembers that records nobody awaits have failed, until their producer flushes or
    /// enqueues; false if it is gone.
    pub(super) fn note_failure(&mut self, share: Share, error: &SendError) -> bool {
        self.accounts.note_failure(share, error)
    }

    pub(super) fn take_failures(&mut self, id: AccountId) -> Option<Box<FlushError>> {
        self.accounts.get(id)?.take_failures()
    }

    /// Sends at once what gathers with records of this producer, and returns what has no
    /// outcome yet.
    pub(super) fn hurry(&mut self, id: AccountId) -> Vec<Arc<Completion>> {
        let mut unsettled = Vec::new();
        let batches = self.accounts.get(id).into_iter();
        for batch in batches.flat_map(super::accounts::Account::unsettled) {
            let slot = &mut self.slots[batch.partition as usize];
            let open = slot.open.as_ref();
            if open.is_some_and(|open| Arc::ptr_eq(&open.completion, &batch.completion)) {
                slot.hurry = true;
            }
            slot.wake();
            unsettled.push(Arc::clone(&batch.completion));
        }
        unsettled
    }

    /// Another producer gives its records to this delivery.
    pub(super) fn open_account(&mut self) -> AccountId {
        self.accounts.open()
    }

    /// Takes no more records of this producer.
    pub(super) fn close(&mut self, id: AccountId) {
        self.accounts.close(id);
        self.close_if_all_are();
    }

    /// Nobody sends any more what is taken: takes no more records of anybody.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.accounts.close_all();
        self.close_if_all_are();
    }

    /// The producer is gone: what it left behind is sent at once. Returns the failures that
    /// nobody was told.
    pub(super) fn leave_account(&mut self, id: AccountId) -> Option<Box<FlushError>> {
        self.hurry(id);
        let account = self.accounts.remove(id);
        self.close_if_all_are();
        account?.take_failures()
    }

    /// Workers end when all is settled.
    fn close_if_all_are(&mut self) {
        if self.accounts.all_closed() {
            self.closed = true;
            self.slots.iter().for_each(Slot::wake);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests;
