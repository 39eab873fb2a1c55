//! What is written becomes durable: at once, or on an interval.

use std::time::Instant;

use parking_lot::MutexGuard;

use super::Engine;
use crate::wal::{SyncPolicy, WalError};

/// What the thread that syncs on an interval is told.
#[derive(Default)]
pub(in crate::wal) struct Syncer {
    /// Not to wait for the rest of the interval.
    pub(in crate::wal) hurry: bool,
    pub(in crate::wal) stopped: bool,
}

impl Engine {
    /// Makes durable what is written.
    pub(in crate::wal) fn sync_written(&self) -> Result<(), WalError> {
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

    /// Waits until all that was queued is written, and syncs it.
    pub(in crate::wal) fn sync(&self) -> Result<(), WalError> {
        let queued = {
            let queue = self.queue.lock();
            queue.check()?;
            queue.queued
        };
        self.wait_written(queued)?;
        self.sync_written()
    }

    pub(super) fn run_syncer(&self) {
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
    pub(super) fn hurry_syncer(&self) {
        self.syncer.lock().hurry = true;
        self.syncer_wakes.ring();
    }
}
