//! The memory that all tails of a broker may take together.
//!
//! Batches become evictable when they are written to disk, and go in that order, whichever
//! partition they are of: the oldest first. One entry a write, not a batch, so neither appending
//! nor evicting ever searches.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use flumen_protocol::ids::Offset;
use parking_lot::Mutex;

use super::partition::Log;

/// Bounds the bytes of batches that are in memory although they are on disk.
#[derive(Debug)]
pub(super) struct TailBudget {
    bytes_max: u64,
    bytes: AtomicU64,
    queue: Mutex<VecDeque<Evictable>>,
    /// How long the queue was when it was cleaned up last.
    kept: AtomicUsize,
    /// Held by the one that evicts or cleans up.
    evicting: Mutex<()>,
}

/// The batches of `log` up to `to`.
#[derive(Clone, Debug)]
struct Evictable {
    log: Weak<Log>,
    to: Offset,
}

/// Entries that are kept without asking whether they stand for anything.
const ENTRIES_KEPT_MIN: usize = 256;

impl Evictable {
    /// Whether it stands for nothing any more: retention was faster, or the log is gone.
    fn is_spent(&self) -> bool {
        let log = self.log.upgrade();
        log.is_none_or(|log| log.state.lock().tail.from() >= self.to)
    }
}

impl TailBudget {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: AtomicU64::new(0),
            queue: Mutex::default(),
            kept: AtomicUsize::new(0),
            evicting: Mutex::default(),
        }
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes note that the batches of `log` up to `to` are on disk, of which `bytes` are new
    /// here, and evicts what is too much.
    pub(super) fn flushed(&self, log: &Arc<Log>, to: Offset, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.queue.lock().push_back(Evictable {
            log: Arc::downgrade(log),
            to,
        });
        self.evict();
    }

    /// Takes note that flushed batches were dropped for another reason.
    pub(super) fn dropped(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn evict(&self) {
        // Who comes second leaves it to the first.
        let Some(_evicting) = self.evicting.try_lock() else {
            return;
        };
        self.clean_up();
        let mut evicted = Vec::new();
        loop {
            let wanted = self.bytes().saturating_sub(self.bytes_max);
            let oldest = self.queue.lock().front().cloned();
            let Some(oldest) = oldest.filter(|_| wanted > 0) else {
                return;
            };
            let freed = match oldest.log.upgrade() {
                Some(log) => log.state.lock().tail.evict(oldest.to, wanted, &mut evicted),
                None => 0,
            };
            evicted.clear();
            self.dropped(freed);
            if freed < wanted {
                self.queue.lock().pop_front();
            }
        }
    }

    /// Removes entries that stand for nothing whenever the queue is twice as long as after the last
    /// time: what is dropped before memory is short is asked for by nobody. The caller evicts, so
    /// that the front of the queue stays.
    fn clean_up(&self) {
        let mut queue = self.queue.lock();
        let kept = self.kept.load(Ordering::Relaxed);
        if queue.len() < 2 * kept.max(ENTRIES_KEPT_MIN) {
            return;
        }
        queue.retain(|entry| !entry.is_spent());
        let kept = queue.len();
        queue.shrink_to(2 * kept.max(ENTRIES_KEPT_MIN));
        drop(queue);
        self.kept.store(kept, Ordering::Relaxed);
    }

    /// Entries in the queue.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.queue.lock().len()
    }
}
