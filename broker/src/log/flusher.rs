//! The flusher: the thread that writes batches of all partitions to their segments.
//!
//! A partition is written when it has collected enough for a large write, when its oldest batch
//! has waited long enough, or, oldest first, when all together hold too much memory. What the
//! disk does not take stays in memory, and is tried again: one partition a second, until one
//! succeeds. The others go on meanwhile, since it may be the file of one that fails: then that one
//! takes no records. A full disk is a matter of all.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime},
};

use flumen_protocol::ids::{Offset, PartitionId};
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::{
    options::{FLUSH_AGE_MAX, FLUSH_BYTES, FlushMode, RETRY_INTERVAL},
    partition::Log,
    write::FlushError,
};
use crate::executor::{Bell, Running};

/// What waits to be written, in all partitions.
#[derive(Debug)]
pub(super) struct Flusher {
    mode: FlushMode,
    unflushed_bytes: AtomicU64,
    unflushed_bytes_max: u64,
    queue: Mutex<Queue>,
    /// How many logs have trouble, for who looks without the lock.
    troubled: AtomicUsize,
    /// Wakes the thread.
    wake: Bell,
    /// Wakes those who wait until memory is free again.
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Logs with enough for a large write.
    ready: VecDeque<Arc<Log>>,
    /// All logs with something to write, by the time of their oldest batch.
    aging: VecDeque<(Instant, Arc<Log>)>,
    /// Logs whose write failed. They are in no other queue that counts.
    stalled: VecDeque<Arc<Log>>,
    /// What kept a log from being written when that was tried last.
    troubles: FxHashMap<PartitionId, Trouble>,
    /// When the next one that is stalled is tried again.
    retry_at: Option<Instant>,
    stopped: bool,
}

#[derive(Debug)]
struct Trouble {
    since: SystemTime,
    text: String,
    /// Whether the disk is full, which is a matter of all logs.
    is_full: bool,
}

impl Trouble {
    fn describe(&self) -> String {
        let seconds = self.since.elapsed().unwrap_or_default().as_secs();
        let text = &self.text;
        format!("{text}; for {seconds} s now, tried again every second; nothing is lost meanwhile")
    }
}

/// In which of the flusher's queues a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    ready: bool,
    aging: bool,
    stalled: bool,
}

impl Due {
    /// Notes that `unflushed` bytes wait now; returns which queues the log must enter.
    pub(super) fn rise(&mut self, unflushed: u64) -> Self {
        if self.stalled {
            return Self::default();
        }
        let enter = Self {
            ready: unflushed >= FLUSH_BYTES && !self.ready,
            aging: !self.aging,
            stalled: false,
        };
        self.ready |= enter.ready;
        self.aging = true;
        enter
    }

    /// Notes that the log has left these queues.
    fn leave(&mut self, left: Self) {
        self.ready &= !left.ready;
        self.aging &= !left.aging;
        self.stalled &= !left.stalled;
    }
}

/// What the thread does next.
enum Step {
    /// To write a log, which has left these queues.
    Flush(Arc<Log>, Due),
    /// Nothing, until the bell rings or it is so late.
    Wait(Option<Instant>),
    Stop,
}

impl Flusher {
    pub(super) fn new(mode: FlushMode, unflushed_bytes_max: u64) -> Self {
        Self {
            mode,
            unflushed_bytes: AtomicU64::new(0),
            unflushed_bytes_max,
            queue: Mutex::default(),
            troubled: AtomicUsize::new(0),
            wake: Bell::default(),
            room: Notify::new(),
        }
    }

    /// Starts the thread if the mode says so. It ends with [`Flusher::stop`].
    pub(super) fn start(self: &Arc<Self>) -> io::Result<Option<Running>> {
        if self.mode == FlushMode::Manual {
            return Ok(None);
        }
        let flusher = Arc::clone(self);
        #[cfg(feature = "simulation")]
        if crate::executor::simulation::is_on() {
            let task = crate::executor::simulation::start(flusher.run_as_task());
            return Ok(Some(task));
        }
        Running::start("flumen-flusher", move || flusher.run()).map(Some)
    }

    pub(super) fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stopped = true;
        // The logs refer to the store, and so to this queue.
        queue.ready.clear();
        queue.aging.clear();
        queue.stalled.clear();
        self.wake.ring_for_all();
    }

    /// Bytes that are in memory only.
    pub(super) fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.unflushed_bytes() < self.unflushed_bytes_max
    }

    /// Waits until there is room.
    pub(super) async fn room(&self) {
        loop {
            let mut freed = std::pin::pin!(self.room.notified());
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// What keeps all logs from being written at present, and since when.
    pub(super) fn trouble(&self) -> Option<String> {
        let full = self.first_trouble(|trouble| trouble.is_full);
        // What some keep in memory may leave no room for the others.
        let first = full.or_else(|| (!self.has_room()).then(|| self.first_trouble(|_| true))?);
        first.map(|(_, text, _)| text)
    }

    /// A log that fails for a reason of its own, and why; how many there are.
    pub(super) fn own_trouble(&self) -> Option<(PartitionId, String, usize)> {
        self.first_trouble(|trouble| !trouble.is_full)
    }

    /// What keeps a log from being written at present, and since when.
    pub(super) fn trouble_of(&self, partition: PartitionId) -> Option<String> {
        if !self.has_trouble() {
            return None;
        }
        let queue = self.queue.lock();
        queue.troubles.get(&partition).map(Trouble::describe)
    }

    fn has_trouble(&self) -> bool {
        self.troubled.load(Ordering::Relaxed) > 0
    }

    /// The trouble that began first of those that are meant, and how many these are.
    fn first_trouble(
        &self,
        is_meant: impl Fn(&Trouble) -> bool,
    ) -> Option<(PartitionId, String, usize)> {
        if !self.has_trouble() {
            return None;
        }
        let queue = self.queue.lock();
        let meant = || {
            queue
                .troubles
                .iter()
                .filter(|(_, trouble)| is_meant(trouble))
        };
        let (id, first) = meant().min_by_key(|(id, trouble)| (trouble.since, **id))?;
        Some((*id, first.describe(), meant().count()))
    }

    /// Counts `bytes` that are about to be appended. Returns whether that makes it so many that they
    /// are written without waiting for their age.
    pub(super) fn count(&self, bytes: u64) -> bool {
        let before = self.unflushed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let pressure = self.pressure_bytes();
        before < pressure && before + bytes >= pressure
    }

    /// Takes note of a batch that was appended, and counted.
    pub(super) fn appended(&self, log: &Arc<Log>, enter: Due, pressed: bool) {
        if self.mode == FlushMode::Manual || !(enter.ready || enter.aging || pressed) {
            return;
        }
        let mut queue = self.queue.lock();
        if queue.stopped {
            return;
        }
        let idle = queue.aging.is_empty();
        if enter.aging {
            queue.aging.push_back((Instant::now(), Arc::clone(log)));
        }
        if enter.ready {
            queue.ready.push_back(Arc::clone(log));
        }
        if enter.ready || pressed || idle {
            self.wake.ring();
        }
    }

    /// Takes note of bytes that were written, or dropped unwritten.
    pub(super) fn flushed(&self, bytes: u64) {
        let before = self.unflushed_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let max = self.unflushed_bytes_max;
        if before >= max && before - bytes < max {
            self.room.notify_waiters();
        }
    }

    /// Above this, batches are written without waiting for their age.
    fn pressure_bytes(&self) -> u64 {
        self.unflushed_bytes_max / 2
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            match self.step(&mut queue) {
                Step::Flush(log, left) => {
                    MutexGuard::unlocked(&mut queue, || self.flush(&log, left));
                }
                Step::Wait(None) => self.wake.wait(&mut queue),
                Step::Wait(Some(until)) => {
                    self.wake.wait_until(&mut queue, until);
                }
                Step::Stop => return,
            }
        }
    }

    #[cfg(feature = "simulation")]
    async fn run_as_task(self: Arc<Self>) {
        loop {
            let step = self.step(&mut self.queue.lock());
            match step {
                Step::Flush(log, left) => {
                    crate::executor::simulation::blocking_pause().await;
                    self.flush(&log, left);
                }
                Step::Wait(None) => self.wake.rung().await,
                Step::Wait(Some(until)) => {
                    // Either is a reason to look again.
                    let _ = tokio::time::timeout_at(until.into(), self.wake.rung()).await;
                }
                Step::Stop => return,
            }
        }
    }

    fn flush(&self, log: &Arc<Log>, left: Due) {
        // Up to here only, so that a busy partition does not keep the others waiting.
        let end = {
            let mut state = log.state.lock();
            state.due.leave(left);
            if state.due.stalled {
                return;
            }
            state.end
        };
        self.finished(log, left, log.flush_to(end));
    }

    /// The next log that is due.
    fn step(&self, queue: &mut Queue) -> Step {
        if queue.stopped {
            return Step::Stop;
        }
        let now = Instant::now();
        let retry_at = queue.retry_at.filter(|_| !queue.stalled.is_empty());
        if retry_at.is_some_and(|at| at <= now)
            && let Some(log) = queue.stalled.pop_front()
        {
            let left = Due {
                stalled: true,
                ..Due::default()
            };
            return Step::Flush(log, left);
        }
        if let Some(log) = queue.ready.pop_front() {
            let left = Due {
                ready: true,
                ..Due::default()
            };
            return Step::Flush(log, left);
        }
        let Some(oldest) = queue.aging.front().map(|(since, _)| *since) else {
            return Step::Wait(retry_at);
        };
        let due_at = oldest + FLUSH_AGE_MAX;
        if now < due_at && self.unflushed_bytes() < self.pressure_bytes() {
            let until = retry_at.map_or(due_at, |retry_at| retry_at.min(due_at));
            return Step::Wait(Some(until));
        }
        match queue.aging.pop_front() {
            Some((_, log)) => Step::Flush(
                log,
                Due {
                    aging: true,
                    ..Due::default()
                },
            ),
            None => Step::Wait(retry_at),
        }
    }

    fn finished(&self, log: &Arc<Log>, left: Due, result: Result<(), FlushError>) {
        match result {
            Ok(()) => {
                if !self.has_trouble() {
                    return;
                }
                let mut queue = self.queue.lock();
                let was_troubled = queue.troubles.remove(&log.id).is_some();
                self.troubled.store(queue.troubles.len(), Ordering::Relaxed);
                if was_troubled && queue.troubles.is_empty() {
                    tracing::info!("batches are written to disk again");
                }
            }
            Err(error) => {
                log.state.lock().due.stalled = true;
                self.failed(log, left, &error);
            }
        }
    }

    fn failed(&self, log: &Arc<Log>, left: Due, error: &FlushError) {
        let mut queue = self.queue.lock();
        let (text, is_full) = (error.to_string(), error.is_full());
        let before = queue.troubles.remove(&log.id);
        // A full disk is told of once, and a file each time that it begins to fail.
        let is_known = before
            .as_ref()
            .is_some_and(|before| before.is_full == is_full)
            || is_full && queue.troubles.values().any(|trouble| trouble.is_full);
        if !is_known {
            tracing::error!(partition = %log.id, error = text, "batches stay in memory");
        }
        // Another one that fails does not put off what waits for its next try.
        if left.stalled || before.is_none() && queue.troubles.is_empty() {
            queue.retry_at = Some(Instant::now() + RETRY_INTERVAL);
        }
        let trouble = Trouble {
            since: before.map_or_else(SystemTime::now, |trouble| trouble.since),
            text,
            is_full,
        };
        queue.troubles.insert(log.id, trouble);
        self.troubled.store(queue.troubles.len(), Ordering::Relaxed);
        if !queue.stopped {
            queue.stalled.push_back(Arc::clone(log));
        }
    }

    /// Makes the next try come now.
    #[cfg(test)]
    pub(super) fn retry_now(&self) {
        self.queue.lock().retry_at = Some(Instant::now());
        self.wake.ring();
    }
}

/// Everything that a log holds.
pub(super) const ALL: Offset = Offset(u64::MAX);
