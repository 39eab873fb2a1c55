//! The flusher: the thread that writes batches of all partitions to their segments.
//!
//! A partition is written when it has collected enough for a large write, when its oldest batch
//! has waited long enough, or, oldest first, when all together hold too much memory. What the
//! disk does not take stays in memory, and is tried again: one partition a second, until one
//! succeeds. The others go on meanwhile, since it may be the file of one that fails.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use flumen_protocol::ids::Offset;
use parking_lot::{Mutex, MutexGuard};
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
    /// Set while a write fails.
    trouble: Option<Trouble>,
    stopped: bool,
}

#[derive(Debug)]
struct Trouble {
    since: SystemTime,
    text: String,
    retry_at: Instant,
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

    /// What fails at present, and since when.
    pub(super) fn trouble(&self) -> Option<String> {
        let queue = self.queue.lock();
        let trouble = queue.trouble.as_ref()?;
        let seconds = trouble.since.elapsed().unwrap_or_default().as_secs();
        let text = &trouble.text;
        Some(format!(
            "{text}; for {seconds} s now, tried again every second; nothing is lost meanwhile"
        ))
    }

    /// Takes note of `bytes` that were appended.
    pub(super) fn appended(&self, log: &Arc<Log>, bytes: u64, enter: Due) {
        let before = self.unflushed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let pressure = self.pressure_bytes();
        let pressed = before < pressure && before + bytes >= pressure;
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
        let trouble = queue.trouble.as_ref();
        let retry_at = trouble.map(|trouble| trouble.retry_at);
        let retry_at = retry_at.filter(|_| !queue.stalled.is_empty());
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
                let mut queue = self.queue.lock();
                if queue.stalled.is_empty() && queue.trouble.take().is_some() {
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
        let text = error.to_string();
        let before = queue.trouble.take();
        if before.is_none() {
            tracing::error!(partition = %log.id, error = text, "batches stay in memory");
        }
        // Another one that fails does not put off what waits for its next try.
        let waits = before.as_ref().filter(|_| !left.stalled);
        let retry_at = waits.map(|trouble| trouble.retry_at);
        queue.trouble = Some(Trouble {
            since: before.map_or_else(SystemTime::now, |trouble| trouble.since),
            text,
            retry_at: retry_at.unwrap_or_else(|| Instant::now() + RETRY_INTERVAL),
        });
        if !queue.stopped {
            queue.stalled.push_back(Arc::clone(log));
        }
    }

    /// Makes the next try come now.
    #[cfg(test)]
    pub(super) fn retry_now(&self) {
        if let Some(trouble) = &mut self.queue.lock().trouble {
            trouble.retry_at = Instant::now();
        }
        self.wake.ring();
    }
}

/// Everything that a log holds.
pub(super) const ALL: Offset = Offset(u64::MAX);
