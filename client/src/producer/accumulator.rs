//! Records that wait to be sent, gathered into one open batch a partition.
//!
//! All records of the producers that share a delivery pass through here under one short lock: a
//! record's bytes are appended to the columns of its partition's batch, and nothing is allocated
//! for it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use flumen_protocol::{
    batch::{BatchBuilder, Headers, PushError, RecordRef},
    limits::BATCH_BYTES_MAX,
};
use tokio::sync::Notify;

use super::{
    accounts::{AccountId, Accounts, Share, Unsettled},
    clock::{RecordClock, now_ms},
    completion::Completion,
    error::{FlushError, SendError},
    partitioner::partition_for_key,
};

/// Bytes that a record takes in the arrays of its batch, for the account of memory.
const RECORD_OVERHEAD_BYTES: usize = 16;

/// When a batch is complete, and how much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AccumulatorOptions {
    pub(super) batch_bytes: usize,
    pub(super) batch_records_max: u32,
    pub(super) memory_bytes_max: usize,
}

/// A record on its way into a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewRecord<'a> {
    pub(super) value: Option<&'a [u8]>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) headers: &'a [u8],
    pub(super) timestamp_ms: Option<i64>,
    pub(super) partition: Option<u32>,
    /// Somebody waits for its receipt.
    pub(super) awaited: bool,
}

impl NewRecord<'_> {
    fn len(&self) -> usize {
        self.value.map_or(0, <[u8]>::len) + self.key.map_or(0, <[u8]>::len) + self.headers.len()
    }
}

/// Where a record was taken to. One number, as the error is one pointer, so that either comes back
/// in registers: read back from memory, it would have to wait until the record's bytes have left
/// the processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken(u64);

impl Taken {
    fn new(partition: u32, index: u32) -> Self {
        Self(u64::from(partition) << 32 | u64::from(index))
    }

    pub(super) fn partition(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Its place in its batch.
    pub(super) fn index(self) -> u32 {
        self.0 as u32
    }
}

/// Why a record was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// No room; try again when some of what waits is settled.
    Full,
    Closed,
    Earlier(Box<FlushError>),
    Invalid(PushError),
    UnknownPartition {
        partition: u32,
        partitions: u32,
    },
}

/// A batch that is ready to be built and sent.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) builder: BatchBuilder,
    pub(super) completion: Arc<Completion>,
    /// When its first record came.
    pub(super) created: Instant,
    /// Bytes to give back to the account of memory.
    pub(super) bytes: usize,
    /// In the order in which batches are begun.
    number: u64,
    /// Whose records they are.
    pub(super) shares: Vec<Share>,
}

/// What a worker wants to take besides complete batches: one that still gathers, if it has
/// gathered so much for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Take {
    pub(super) bytes_min: usize,
    pub(super) age_min: Duration,
}

/// What a worker gets.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once a batch")]
pub(super) enum Took {
    Batch(Gathered),
    /// Records gather; come back then, or when woken.
    Later(Option<Instant>),
    Nothing,
}

#[derive(Debug, Default)]
struct Slot {
    open: Option<Gathered>,
    complete: VecDeque<Gathered>,
    worker: Option<Arc<Notify>>,
    /// The worker waits for something else than the first record.
    worker_is_busy: bool,
    /// Bytes at which the open batch is large enough for the worker.
    wake_at_bytes: usize,
    /// Somebody flushes: what gathers goes at once.
    hurry: bool,
    /// Bytes of the last batch: room for the next.
    last_bytes: usize,
}

/// All that waits, of the producers that share a delivery.
#[derive(Debug)]
pub(super) struct Accumulator {
    options: AccumulatorOptions,
    content_type: String,
    slots: Vec<Slot>,
    /// The partition of records without a key, until its batch is complete.
    sticky: usize,
    bytes: usize,
    /// Every producer is closed or gone.
    closed: bool,
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
            sticky: 0,
            bytes: 0,
            closed: false,
            accounts: Accounts::default(),
            batches_begun: 0,
            clock: RecordClock::default(),
        };
        accumulator.grow(partitions);
        accumulator
    }

    /// The topic has more partitions now.
    pub(super) fn grow(&mut self, partitions: u32) {
        let partitions = partitions as usize;
        if self.slots.len() < partitions {
            self.slots.resize_with(partitions, Slot::default);
        }
    }

    pub(super) fn partitions(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Lets records without a key begin elsewhere, so that producers that start together do
    /// not all begin with partition 0.
    pub(super) fn begin_at(&mut self, random: usize) {
        self.sticky = random % self.slots.len().max(1);
    }

    /// Adds a record of a producer to the batch of its partition.
    pub(super) fn push(
        &mut self,
        id: AccountId,
        record: &NewRecord<'_>,
    ) -> Result<Taken, Box<NotTaken>> {
        match self.accounts.get(id) {
            Some(account) if !account.is_closed() => {
                if !record.awaited
                    && let Some(failures) = account.take_failures()
                {
                    return Err(Box::new(NotTaken::Earlier(failures)));
                }
            }
            _ => return Err(Box::new(NotTaken::Closed)),
        }
        let bytes = record.len() + RECORD_OVERHEAD_BYTES;
        if self.bytes + bytes > self.options.memory_bytes_max && self.bytes > 0 {
            return Err(Box::new(NotTaken::Full));
        }
        let partition = self.choose(record)?;
        let timestamp_ms = match record.timestamp_ms {
            Some(timestamp_ms) => timestamp_ms,
            None => self.clock.now_ms(now_ms),
        };
        let slot = &mut self.slots[partition];
        let new = RecordRef {
            timestamp_ms,
            key: record.key,
            value: record.value,
            headers: Headers::from_encoded(record.headers),
        };
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
        if let Some(account) = self.accounts.get(id) {
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
        Ok(Taken::new(partition as u32, index))
    }

    /// Where the outcome of the record that this partition took last will be.
    pub(super) fn last_completion(&self, partition: u32) -> Option<Arc<Completion>> {
        let slot = &self.slots[partition as usize];
        let newest = slot.open.as_ref().or(slot.complete.back());
        newest.map(|batch| Arc::clone(&batch.completion))
    }

    /// Whether records of a partition gather that no complete batch is before.
    pub(super) fn is_gathering(&self, partition: u32) -> bool {
        let slot = &self.slots[partition as usize];
        slot.complete.is_empty() && slot.open.is_some()
    }

    /// Whether nobody sends for this partition yet.
    pub(super) fn needs_worker(&self, partition: u32) -> bool {
        self.slots[partition as usize].worker.is_none()
    }

    fn choose(&self, record: &NewRecord<'_>) -> Result<usize, Box<NotTaken>> {
        let partitions = self.slots.len() as u32;
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
        let hurry_all = self.closed;
        let index = partition as usize;
        let slot = &mut self.slots[index];
        slot.worker_is_busy = false;
        slot.wake_at_bytes = usize::MAX;
        if let Some(batch) = slot.complete.pop_front() {
            return Took::Batch(batch);
        }
        let Some(open) = &slot.open else {
            slot.hurry = false;
            return Took::Nothing;
        };
        if open.bytes < take.bytes_min {
            slot.worker_is_busy = true;
            slot.wake_at_bytes = take.bytes_min;
            return Took::Later(None);
        }
        let ripe_at = open.created + take.age_min;
        if !slot.hurry && !hurry_all && ripe_at > now {
            slot.worker_is_busy = true;
            return Took::Later(Some(ripe_at));
        }
        slot.complete_open();
        let took = slot.complete.pop_front().map_or(Took::Nothing, Took::Batch);
        self.leave(index);
        took
    }

    /// A batch of this partition is complete: records without a key go elsewhere now.
    fn leave(&mut self, partition: usize) {
        if self.sticky == partition {
            self.sticky = (partition + 1) % self.slots.len();
        }
    }

    /// Takes batches that came before `before`, whether complete or not.
    pub(super) fn take_older(&mut self, partition: u32, before: Instant) -> Option<Gathered> {
        let slot = &mut self.slots[partition as usize];
        if slot.complete.is_empty() && slot.open.as_ref().is_some_and(|o| o.created <= before) {
            slot.complete_open();
        }
        slot.complete.pop_front_if(|batch| batch.created <= before)
    }

    /// When the oldest batch of a partition came.
    pub(super) fn oldest(&self, partition: u32) -> Option<Instant> {
        let slot = &self.slots[partition as usize];
        let oldest = slot.complete.front().or(slot.open.as_ref());
        oldest.map(|batch| batch.created)
    }

    /// No batch will be taken for a while: records look at the clock one by one.
    pub(super) fn suspend_clock(&mut self) {
        self.clock.suspend();
    }

    /// Gives memory back.
    pub(super) fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
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

impl Slot {
    fn begin(
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

    fn complete_open(&mut self) {
        if let Some(open) = self.open.take() {
            self.last_bytes = open.builder.encoded_len();
            self.complete.push_back(open);
            self.hurry = false;
        }
    }

    /// Takes back a batch that was begun for a record that could not be taken.
    fn abandon_empty(&mut self) {
        self.open.take_if(|open| open.builder.is_empty());
    }

    fn wake(&self) {
        if let Some(worker) = &self.worker {
            worker.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: AccumulatorOptions = AccumulatorOptions {
        batch_bytes: 1_000,
        batch_records_max: 10,
        memory_bytes_max: 4_000,
    };

    const COMPLETE: Take = Take {
        bytes_min: usize::MAX,
        age_min: Duration::ZERO,
    };

    fn at_age(age_min: Duration) -> Take {
        Take {
            bytes_min: 1,
            age_min,
        }
    }

    fn record(value: &[u8]) -> NewRecord<'_> {
        NewRecord {
            value: Some(value),
            key: None,
            headers: &[],
            timestamp_ms: Some(1),
            partition: None,
            awaited: false,
        }
    }

    /// An accumulator with one producer.
    fn accumulator(partitions: u32) -> (Accumulator, AccountId) {
        let mut accumulator = Accumulator::new(OPTIONS, String::new(), partitions);
        let id = accumulator.open_account();
        (accumulator, id)
    }

    fn take_all(accumulator: &mut Accumulator, partition: u32) -> Vec<usize> {
        let take = at_age(Duration::ZERO);
        let mut lens = Vec::new();
        while let Took::Batch(batch) = accumulator.take(partition, take, Instant::now()) {
            lens.push(batch.builder.len());
        }
        lens
    }

    #[test]
    fn a_batch_is_complete_by_records_or_by_bytes() {
        let (mut by_records, id) = accumulator(1);
        (0..25).for_each(|_| _ = by_records.push(id, &record(b"x")).unwrap());
        assert_eq!(take_all(&mut by_records, 0), [10, 10, 5]);
        let (mut by_bytes, id) = accumulator(1);
        (0..5).for_each(|_| _ = by_bytes.push(id, &record(&[0; 400])).unwrap());
        assert_eq!(take_all(&mut by_bytes, 0), [2, 2, 1]);
    }

    #[test]
    fn a_record_larger_than_a_batch_goes_alone() {
        let (mut accumulator, id) = accumulator(1);
        accumulator.push(id, &record(b"small")).unwrap();
        accumulator.push(id, &record(&[0; 2_000])).unwrap();
        accumulator.push(id, &record(b"small")).unwrap();
        assert_eq!(take_all(&mut accumulator, 0), [1, 1, 1]);
    }

    #[test]
    fn records_without_a_key_stay_with_a_partition_until_its_batch_is_complete() {
        let (mut accumulator, id) = accumulator(3);
        let partitions: Vec<_> = (0..25)
            .map(|_| accumulator.push(id, &record(b"x")).unwrap().partition())
            .collect();
        assert_eq!(partitions[..10], [0; 10]);
        assert_eq!(partitions[10..20], [1; 10]);
        assert_eq!(partitions[20..], [2; 5]);
    }

    #[test]
    fn one_key_stays_with_one_partition() {
        let (mut accumulator, id) = accumulator(7);
        let mut keyed = record(b"x");
        keyed.key = Some(b"customer-7");
        let partitions: Vec<_> = (0..20)
            .map(|_| accumulator.push(id, &keyed).unwrap().partition())
            .collect();
        assert!(
            partitions
                .iter()
                .all(|partition| *partition == partitions[0])
        );
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let (mut accumulator, id) = accumulator(1);
        let mut taken = 0;
        while accumulator.push(id, &record(&[0; 500])).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 4_000 / (500 + RECORD_OVERHEAD_BYTES));
        let Took::Batch(batch) = accumulator.take(0, COMPLETE, Instant::now()) else {
            panic!("a batch is complete");
        };
        accumulator.release(batch.bytes);
        assert!(accumulator.push(id, &record(&[0; 500])).is_ok());
    }

    #[test]
    fn one_record_always_fits_into_empty_memory() {
        let (mut accumulator, id) = accumulator(1);
        assert!(accumulator.push(id, &record(&[0; 10_000])).is_ok());
        assert!(matches!(
            accumulator.push(id, &record(b"x")),
            Err(refused) if matches!(*refused, NotTaken::Full)
        ));
    }

    #[test]
    fn a_record_over_a_limit_leaves_nothing_behind() {
        let mut huge_key = record(b"x");
        let key = vec![0; 100_000];
        huge_key.key = Some(&key);
        let mut roomy = Accumulator::new(
            AccumulatorOptions {
                memory_bytes_max: 1 << 20,
                ..OPTIONS
            },
            String::new(),
            1,
        );
        let id = roomy.open_account();
        let refused = roomy.push(id, &huge_key).unwrap_err();
        assert!(matches!(*refused, NotTaken::Invalid(_)));
        assert!(roomy.hurry(id).is_empty());
        assert!(take_all(&mut roomy, 0).is_empty());
    }

    #[test]
    fn a_batch_that_gathers_is_taken_when_it_is_old_enough_or_somebody_flushes() {
        let (mut accumulator, id) = accumulator(1);
        accumulator.push(id, &record(b"x")).unwrap();
        let linger = at_age(Duration::from_secs(5));
        let now = Instant::now();
        assert!(matches!(
            accumulator.take(0, linger, now),
            Took::Later(Some(at)) if at > now
        ));
        assert_eq!(accumulator.hurry(id).len(), 1);
        assert!(matches!(accumulator.take(0, linger, now), Took::Batch(_)));
        assert!(matches!(accumulator.take(0, linger, now), Took::Nothing));
    }

    #[test]
    fn failures_are_reported_once_to_the_next_who_enqueues() {
        let (mut accumulator, id) = accumulator(1);
        let closed = SendError::Closed {
            topic: flumen_protocol::topic::Name::new("t").unwrap(),
        };
        for unawaited in [3, 2] {
            let account = id;
            accumulator.note_failure(Share { account, unawaited }, &closed);
        }
        let refused = accumulator.push(id, &record(b"x")).unwrap_err();
        let NotTaken::Earlier(failures) = *refused else {
            panic!("the failure is reported");
        };
        assert_eq!((failures.failed, failures.unknown), (5, 0));
        assert!(accumulator.push(id, &record(b"x")).is_ok());
    }

    #[test]
    fn a_producer_waits_for_its_own_batches_and_closes_alone() {
        let (mut accumulator, id) = accumulator(2);
        let other = accumulator.open_account();
        let mut elsewhere = record(b"x");
        elsewhere.partition = Some(1);
        accumulator.push(id, &record(b"x")).unwrap();
        accumulator.push(other, &elsewhere).unwrap();
        assert_eq!(accumulator.hurry(id).len(), 1);
        accumulator.close(id);
        let refused = accumulator.push(id, &record(b"x")).unwrap_err();
        assert!(matches!(*refused, NotTaken::Closed));
        accumulator.push(other, &record(b"x")).unwrap();
        assert!(!accumulator.is_closed());
        let linger = at_age(Duration::from_secs(5));
        let now = Instant::now();
        assert!(matches!(accumulator.take(0, linger, now), Took::Batch(b) if b.shares.len() == 2));
        assert!(matches!(
            accumulator.take(1, linger, now),
            Took::Later(Some(_))
        ));
        accumulator.leave_account(other);
        assert!(accumulator.is_closed());
        assert!(matches!(accumulator.take(1, linger, now), Took::Batch(_)));
    }
}
