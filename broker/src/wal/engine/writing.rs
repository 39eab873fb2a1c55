//! The right to write: who has it takes what waits in the queue, writes it together, has it synced
//! if it has to be, and tells those who wait. Small operations are written by their caller, so that
//! no thread has to be woken for them.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::Engine;
use crate::wal::{
    Done, SyncPolicy, WalError,
    queue::Queued,
    segment::{Position, Segment},
    shard::{Planned, Shard},
    writer::Operation,
};

/// A caller writes so many times what others queued meanwhile, then leaves it to the thread.
const INLINE_ROUNDS_MAX: usize = 4;
/// Before a sync, the writer waits for those who appended around the last one to come back: at
/// most this long, and at most this part of what a sync takes.
const GATHER_MAX: Duration = Duration::from_micros(300);
const GATHER_SHARE: u32 = 4;

impl Engine {
    /// Queues an operation, unless `plan` refuses it, and sees to it that somebody writes it.
    pub(in crate::wal) fn submit(
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
    pub(in crate::wal) fn write_unsynced(&self, batch: Vec<Queued>) -> Written {
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
    pub(in crate::wal) fn finish(&self, written: Written) {
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
    pub(in crate::wal) fn wrote(&self, segment: &Arc<Segment>, offset: u64) {
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

    /// Ends all writing: nothing is acknowledged any more.
    pub(super) fn fail(&self, error: &WalError) {
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

    pub(super) fn run_writer(&self) {
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
    pub(in crate::wal) fn wait_written(&self, number: u64) -> Result<(), WalError> {
        #[cfg(feature = "simulation")]
        if crate::executor::simulation::is_on() {
            crate::wal::simulation::write_until(self, number);
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
}

/// A batch that is written, and those who wait for it.
pub(in crate::wal) struct Written {
    waiting: Vec<Done>,
    sync: bool,
    pub(in crate::wal) result: Result<(), WalError>,
}

impl Written {
    /// Whether it must be synced before those who wait are told.
    pub(in crate::wal) fn wants_sync(&self) -> bool {
        self.sync && self.result.is_ok()
    }
}

/// Calls a callback; one that panics must not end the thread on which all others rely.
fn complete(done: Done, result: Result<(), WalError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a callback of the write-ahead log panicked");
    }
}
