//! The memory that all tails of a broker may take together.
//!
//! Batches become evictable when they are written to disk, and go in that order, whichever
//! partition they are of: the oldest first. One entry a write, not a batch, so neither appending
//! nor evicting ever searches.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
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
    /// Held by the one that evicts.
    evicting: Mutex<()>,
}

/// The batches of `log` up to `to`.
#[derive(Clone, Debug)]
struct Evictable {
    log: Weak<Log>,
    to: Offset,
}

impl TailBudget {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: AtomicU64::new(0),
            queue: Mutex::default(),
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
}
