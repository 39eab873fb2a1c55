//! The parts of the WAL put together: the queue, the right to write, the syncs, the threads.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use flumen_protocol::ids::ShardId;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use tokio::sync::watch;

use super::{
    Done, OpenError, SyncPolicy, Usage, WalError, WalObserver, WalOptions,
    queue::{Queue, Queued},
    record::record_bytes,
    recovery::recover,
    segment::{AtomicPosition, Position, Segment},
    shard::{Planned, Shard, ShardImage, ShardIndex},
    space::{Claim, Space, Task},
    writer::{Operation, Writer},
};
use crate::{
    disk::Disk,
    executor::{Bell, Running},
};

/// Shards are asked for checkpoints when this share of the WAL is in use: 1 of so many parts.
const CHECKPOINT_SHARE: u64 = 3;
/// A caller writes so many times what others queued meanwhile, then leaves it to the thread.
const INLINE_ROUNDS_MAX: usize = 4;
/// Before a sync, the writer waits for those who appended around the last one to come back: at
/// most this long, and at most this part of what a sync takes.
const GATHER_MAX: Duration = Duration::from_micros(300);
const GATHER_SHARE: u32 = 4;

pub(super) struct Engine {
    pub(super) options: WalOptions,
    pub(super) observer: Arc<dyn WalObserver>,
    pub(super) space: Space,
    /// The log, oldest first; the last is the one being written.
    pub(super) segments: RwLock<VecDeque<Arc<Segment>>>,
    pub(super) shards: RwLock<BTreeMap<ShardId, Arc<Shard>>>,
    /// Up to here the log is written, and up to here it is synced.
    pub(super) head: AtomicPosition,
    pub(super) durable: AtomicPosition,
    /// Segments that were written to since they were synced.
    unsynced: Mutex<Vec<Arc<Segment>>>,
    syncing: Mutex<()>,
    pub(super) queue: Mutex<Queue>,
    pub(super) work: Bell,
    pub(super) written: Condvar,
    writer: Mutex<Writer>,
    pub(super) syncer: Mutex<Syncer>,
    pub(super) syncer_wakes: Bell,
    pub(super) failed: watch::Sender<Option<WalError>>,
    pub(super) checkpoint_wanted: watch::Sender<u64>,
    /// Written by one who could not wait, and yet to be synced by the writer.
    #[cfg(feature = "simulation")]
    pub(super) unfinished: Mutex<Vec<Written>>,
}

/// What the thread that syncs on an interval is told.
#[derive(Default)]
pub(super) struct Syncer {
    /// Not to wait for the rest of the interval.
    pub(super) hurry: bool,
    pub(super) stopped: bool,
}

impl Engine {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        observer: Arc<dyn WalObserver>,
    ) -> Result<(Arc<Self>, Vec<Running>), OpenError> {
        options.validate()?;
        let found = recover(&*disk, &options)?;
        let active = found.segments.back().cloned();
        let Some(active) = active else {
            return Err(OpenError::Options("the log has no segment".into()));
        };
        let files = found.segments.len() as u64;
        let engine = Arc::new(Self {
            observer,
            space: Space::new(
                disk,
                options.clone(),
                found.standbys,
                found.spares,
                found.spare_next,
                files,
                found.head,
            ),
            segments: RwLock::new(found.segments),
            shards: RwLock::new(
                found
                    .shards
                    .into_iter()
                    .map(|(id, index)| (id, Shard::new(id, index)))
                    .collect(),
            ),
            head: AtomicPosition::new(found.head),
            durable: AtomicPosition::new(found.head),
            unsynced: Mutex::default(),
            syncing: Mutex::default(),
            queue: Mutex::new(Queue::new(options.sync)),
            work: Bell::default(),
            written: Condvar::new(),
            writer: Mutex::new(Writer::new(active, found.head.offset())),
            syncer: Mutex::default(),
            syncer_wakes: Bell::default(),
            failed: watch::Sender::new(None),
            checkpoint_wanted: watch::Sender::new(0),
            #[cfg(feature = "simulation")]
            unfinished: Mutex::default(),
            options,
        });
        engine.space.set_opening_bytes(engine.opening_bytes());
        engine.space.request_recycling();
        let threads = engine.start_threads()?;
        Ok((engine, threads))
    }

    fn start_threads(self: &Arc<Self>) -> Result<Vec<Running>, OpenError> {
        #[cfg(feature = "simulation")]
        if crate::executor::simulation::is_on() {
            return Ok(super::simulation::start(self));
        }
        let mut threads = Vec::new();
        let mut start = |name: &str, run: fn(&Self)| {
            let engine = Arc::clone(self);
            match Running::start(name, move || run(&engine)) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    self.stop();
                    return Err(OpenError::Io {
                        attempt: "start a thread for",
                        path: self.options.dir.clone(),
                        source,
                    });
                }
            }
            Ok(())
        };
        start("wal-writer", Self::run_writer)?;
        start("wal-space", Self::run_space)?;
        if self.options.sync != SyncPolicy::Always {
            start("wal-syncer", Self::run_syncer)?;
        }
        Ok(threads)
    }

    /// The shard, which is made if it is not there.
    pub(super) fn shard(&self, id: ShardId) -> Arc<Shard> {
        if let Some(shard) = self.shards.read().get(&id) {
            return Arc::clone(shard);
        }
        let mut shards = self.shards.write();
        let shard = shards
            .entry(id)
            .or_insert_with(|| Shard::new(id, ShardIndex::default()));
        Arc::clone(shard)
    }

    /// The states of all shards as they are written to the beginning of a segment.
    pub(super) fn images(&self) -> Vec<(ShardId, Bytes)> {
        let shards = self.shards.read();
        let images = shards.values().filter_map(|shard| {
            let image = shard.written.read().image();
            (image != ShardImage::default()).then(|| {
                let bytes = postcard::to_stdvec(&image).expect("plain data in memory encodes");
                (shard.id, Bytes::from(bytes))
            })
        });
        images.collect()
    }

    pub(super) fn opening_bytes(&self) -> u64 {
        let images = self.images();
        let size = |(_, image): &(ShardId, Bytes)| record_bytes(image.len() as u64);
        images.iter().map(size).sum()
    }

    /// Queues an operation, unless `plan` refuses it, and sees to it that somebody writes it.
    pub(super) fn submit(
        &self,
        shard: &Arc<Shard>,
        operation: Operation,
        bytes: u64,
        done: Option<Done>,
        plan: impl FnOnce(&mut Planned) -> Result<(), WalError>,
    ) {
        let mut queue = self.queue.lock();
        let refused = queue.check().and_then(|()| plan(&mut shard.planned.lock()));
        if let Err(error) = refused {
            drop(queue);
            if let Some(done) = done {
                done(Err(error));
            }
            return;
        }
        queue.push(Queued {
            shard: Arc::clone(shard),
            operation,
            done,
            bytes,
        });
        if queue.writing {
            // Whoever is writing looks at the queue again.
        } else if queue.is_for_callers() {
            queue.writing = true;
            let batch = queue.take();
            drop(queue);
            self.write_as_caller(batch);
        } else if queue.len() >= queue.wake_at {
            self.work.ring();
        }
    }

    /// Writes on the thread of a caller, until nothing waits or it becomes too much.
    fn write_as_caller(&self, mut batch: Vec<Queued>) {
        for round in 1.. {
            self.write(batch);
            let mut queue = self.queue.lock();
            if queue.is_empty() {
                queue.writing = false;
                if queue.closed {
                    self.work.ring();
                }
                return;
            }
            if round == INLINE_ROUNDS_MAX || !queue.is_for_callers() {
                queue.handed_over = true;
                self.work.ring();
                return;
            }
            batch = queue.take();
        }
    }

    /// Writes a batch, syncs it if it has to be, and completes those who wait for it.
    fn write(&self, batch: Vec<Queued>) {
        let mut written = self.write_unsynced(batch);
        if written.wants_sync() {
            written.result = self.sync_written();
        }
        self.finish(written);
    }

    /// Writes a batch.
    pub(super) fn write_unsynced(&self, batch: Vec<Queued>) -> Written {
        let count = batch.len() as u64;
        let sync = self.options.sync == SyncPolicy::Always || batch.iter().any(Queued::is_urgent);
        let mut waiting = Vec::with_capacity(batch.len());
        let result = {
            let mut writer = self.writer.lock();
            let mut result = Ok(());
            for queued in batch {
                waiting.extend(queued.done);
                if result.is_ok() {
                    result = writer.add(self, &queued.shard, queued.operation);
                }
            }
            result.and_then(|()| writer.flush(self))
        };
        if result.is_ok() {
            let mut queue = self.queue.lock();
            queue.written += count;
            if queue.readers_waiting > 0 {
                self.written.notify_all();
            }
        }
        Written {
            waiting,
            sync,
            result,
        }
    }

    /// Completes those who wait for a batch.
    pub(super) fn finish(&self, written: Written) {
        let Written {
            waiting, result, ..
        } = written;
        if let Err(error) = &result {
            self.fail(error);
        }
        // A failure elsewhere may have come between.
        for done in waiting {
            complete(done, result.clone());
        }
    }

    /// Tells that the log was written up to `offset` of the segment.
    pub(super) fn wrote(&self, segment: &Arc<Segment>, offset: u64) {
        let head = Position::new(segment.sequence, offset);
        {
            // Only after the write, and before the head says so: then a sync that sees this head
            // either finds the segment here or follows one that began after the write.
            let mut unsynced = self.unsynced.lock();
            if unsynced
                .last()
                .is_none_or(|last| !Arc::ptr_eq(last, segment))
            {
                unsynced.push(Arc::clone(segment));
            }
        }
        self.head.raise(head);
        self.space.advance(head);
    }

    /// Makes durable what is written.
    pub(super) fn sync_written(&self) -> Result<(), WalError> {
        let _one_at_a_time = self.syncing.lock();
        if let Some(error) = &*self.failed.borrow() {
            return Err(error.clone());
        }
        let head = self.head.get();
        if self.durable.get() >= head {
            return Ok(());
        }
        let unsynced = std::mem::take(&mut *self.unsynced.lock());
        for segment in unsynced {
            let start = Instant::now();
            if let Err(error) = segment.file.sync_data() {
                let error = WalError::failed("sync", &segment.path, &error);
                self.fail(&error);
                return Err(error);
            }
            self.observer.on_sync(start.elapsed().as_secs_f64());
        }
        self.durable.raise(head);
        if !self.recyclable().is_empty() {
            self.space.request_recycling();
        }
        Ok(())
    }

    /// Ends all writing: nothing is acknowledged any more.
    fn fail(&self, error: &WalError) {
        // Before anybody is refused, so that who is refused can see why.
        let first = self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(error.clone());
            }
            first
        });
        if first {
            tracing::error!(%error, "the write-ahead log has failed");
        }
        let refused = {
            let mut queue = self.queue.lock();
            queue.failed.get_or_insert_with(|| error.clone());
            self.written.notify_all();
            queue.take_all()
        };
        for done in refused.into_iter().filter_map(|queued| queued.done) {
            complete(done, Err(error.clone()));
        }
    }

    /// Tells that a segment is full and the next one begun.
    pub(super) fn segment_filled(&self) {
        self.hurry_syncer();
        let usage = self.usage();
        if usage.bytes * CHECKPOINT_SHARE >= usage.bytes_max {
            self.checkpoint_wanted.send_modify(|count| *count += 1);
        }
    }

    fn oldest_sequence(&self) -> u64 {
        let segments = self.segments.read();
        segments.front().map_or(0, |segment| segment.sequence)
    }

    pub(super) fn reserve(&self, payloads: &[u64], claim: Claim) -> Result<u64, WalError> {
        self.queue.lock().check()?;
        let oldest = self.oldest_sequence();
        let reserved = self.space.reserve(payloads, oldest, claim);
        if matches!(reserved, Err(WalError::Full { .. })) && self.oldest_waits_for_sync() {
            self.hurry_syncer();
        }
        reserved
    }

    /// Whether nothing needs the oldest segment, but that is not durable yet.
    fn oldest_waits_for_sync(&self) -> bool {
        let segments = self.segments.read();
        let oldest = segments.front().filter(|_| segments.len() > 1);
        oldest.is_some_and(|segment| segment.live.load(Ordering::Acquire) == 0)
            && self.durable.get() < self.head.get()
    }

    pub(super) fn usage(&self) -> Usage {
        let head = self.head.get();
        let whole = head.sequence().saturating_sub(self.oldest_sequence());
        Usage {
            bytes: whole * self.options.segment_bytes + head.offset(),
            bytes_max: self.options.bytes_max,
        }
    }

    /// The shards with entries in the older half of the full segments.
    pub(super) fn shards_to_checkpoint(&self) -> Vec<ShardId> {
        let before = self.older_half();
        let shards = self.shards.read();
        shards
            .values()
            .filter(|shard| shard.written.read().oldest().is_some_and(|at| at < before))
            .map(|shard| shard.id)
            .collect()
    }

    /// Where the older half of the full segments ends.
    pub(super) fn older_half(&self) -> Position {
        let (oldest, newest) = (self.oldest_sequence(), self.head.get().sequence());
        Position::new(oldest + (newest - oldest).div_ceil(2), 0)
    }

    /// The segments, oldest first, that nothing needs any more.
    fn recyclable(&self) -> Vec<Arc<Segment>> {
        let durable = self.durable.get();
        let segments = self.segments.read();
        let pairs = segments.iter().zip(segments.iter().skip(1));
        pairs
            .take_while(|(segment, next)| {
                let opened = next.opening_end.get();
                segment.live.load(Ordering::Acquire) == 0
                    && segment.free_after.get() <= durable
                    && opened > Position::default()
                    && opened <= durable
            })
            .map(|(segment, _)| Arc::clone(segment))
            .collect()
    }

    fn run_space(&self) {
        while let Task::Recycle = self.space.prepare() {
            self.recycle();
        }
    }

    /// Has the segments used again that nothing needs any more.
    pub(super) fn recycle(&self) {
        let recyclable = self.recyclable();
        self.segments.write().drain(..recyclable.len());
        let stuck = self.space.recycle(&recyclable);
        // Those are tried again with the next ones.
        let mut segments = self.segments.write();
        for segment in stuck.iter().rev() {
            segments.push_front(Arc::clone(segment));
        }
    }

    /// Goes on in the next segment.
    pub(super) fn leave_segment(&self) -> Result<(), WalError> {
        let left = self.writer.lock().leave_segment(self);
        let synced = left.and_then(|()| self.sync_written());
        synced.inspect_err(|error| self.fail(error))
    }

    fn run_syncer(&self) {
        let SyncPolicy::Every(interval) = self.options.sync else {
            return;
        };
        let mut syncer = self.syncer.lock();
        while !syncer.stopped {
            if !syncer.hurry {
                self.syncer_wakes.wait_for(&mut syncer, interval);
            }
            syncer.hurry = false;
            MutexGuard::unlocked(&mut syncer, || {
                // A failure reaches everybody by `fail`.
                drop(self.sync_written());
            });
        }
    }

    /// Has the syncer sync now: the sooner what is purged is durably so, the fewer files are in
    /// use, and the likelier are their pages to be in memory. And who finds the log full must not
    /// wait for the interval.
    fn hurry_syncer(&self) {
        self.syncer.lock().hurry = true;
        self.syncer_wakes.ring();
    }

    fn run_writer(&self) {
        let mut expected = 1;
        let mut gather = Duration::ZERO;
        let mut queue = self.queue.lock();
        loop {
            while !queue.handed_over && (queue.writing || queue.is_empty()) {
                if queue.closed && !queue.writing {
                    return;
                }
                self.work.wait(&mut queue);
            }
            if queue.len() < expected && !gather.is_zero() && !queue.closed {
                queue.wake_at = expected;
                let deadline = Instant::now() + gather;
                while queue.len() < expected && !queue.closed {
                    if self.work.wait_until(&mut queue, deadline) {
                        break;
                    }
                }
                queue.wake_at = 1;
            }
            queue.handed_over = false;
            queue.writing = true;
            let batch = queue.take();
            let count = batch.len();
            let start = Instant::now();
            MutexGuard::unlocked(&mut queue, || self.write(batch));
            queue.writing = false;
            if self.options.sync == SyncPolicy::Always {
                expected = count + queue.len();
                gather = GATHER_MAX.min(start.elapsed() / GATHER_SHARE);
            }
        }
    }

    /// Waits until the operations up to this number are written.
    pub(super) fn wait_written(&self, number: u64) -> Result<(), WalError> {
        #[cfg(feature = "simulation")]
        if crate::executor::simulation::is_on() {
            super::simulation::write_until(self, number);
        }
        let mut queue = self.queue.lock();
        while queue.written < number {
            if let Some(error) = &queue.failed {
                return Err(error.clone());
            }
            queue.readers_waiting += 1;
            self.written.wait(&mut queue);
            queue.readers_waiting -= 1;
        }
        Ok(())
    }

    /// Waits until all that was queued is written, and syncs it.
    pub(super) fn sync(&self) -> Result<(), WalError> {
        let queued = {
            let queue = self.queue.lock();
            queue.check()?;
            queue.queued
        };
        self.wait_written(queued)?;
        self.sync_written()
    }

    /// Takes nothing more; the writer's thread ends when it has written what waits.
    pub(super) fn close(&self) {
        for shard in self.shards.read().values() {
            if shard.planned.lock().committed_unwritten {
                self.submit(shard, Operation::Committed, 0, None, |_| Ok(()));
            }
        }
        self.queue.lock().closed = true;
        self.space.close();
        self.work.ring_for_all();
    }

    /// Ends the other threads. Only after the writer's has ended or cannot go on.
    pub(super) fn stop(&self) {
        self.space.stop();
        self.syncer.lock().stopped = true;
        self.syncer_wakes.ring_for_all();
    }
}

/// A batch that is written, and those who wait for it.
pub(super) struct Written {
    waiting: Vec<Done>,
    sync: bool,
    pub(super) result: Result<(), WalError>,
}

impl Written {
    /// Whether it must be synced before those who wait are told.
    pub(super) fn wants_sync(&self) -> bool {
        self.sync && self.result.is_ok()
    }
}

/// Calls a callback; one that panics must not end the thread on which all others rely.
fn complete(done: Done, result: Result<(), WalError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a callback of the write-ahead log panicked");
    }
}
