//! A partition as its readers see it: its log, and how far it may be read.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use flumen_protocol::ids::{Offset, PartitionId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::log::{LogReader, ReadOutcome};

/// What the state machine and the readers of a partition share.
#[derive(Debug)]
pub(super) struct PartitionShared {
    id: PartitionId,
    reader: LogReader,
    /// Records below it are applied and may be read.
    end_offset: AtomicU64,
    deleted: AtomicBool,
    /// The records are on other brokers now.
    moved: AtomicBool,
    watchers: Mutex<Watchers>,
}

/// Those that wait for news of a partition, or have done so.
#[derive(Debug, Default)]
struct Watchers {
    all: Vec<Weak<Watcher>>,
    /// How many there were when those that are gone were removed last.
    kept: usize,
}

/// A partition looks for watchers that are gone when it has at least so many.
const WATCHERS_KEPT_MIN: usize = 8;

impl Watchers {
    /// Adds one. Those that are gone are removed whenever the number has doubled, so that a
    /// partition in which nothing happens does not collect them.
    fn add(&mut self, watcher: &Arc<Watcher>) {
        if self.all.len() >= 2 * self.kept.max(WATCHERS_KEPT_MIN) {
            self.all.retain(|watcher| watcher.strong_count() > 0);
            self.kept = self.all.len();
        }
        self.all.push(Arc::downgrade(watcher));
    }
}

#[derive(Debug)]
struct Watcher {
    /// Set while the consumer waits for news; a watcher that is not armed costs its partition
    /// one load for each append.
    armed: AtomicBool,
    token: u32,
    news: Arc<News>,
}

impl PartitionShared {
    pub(super) fn new(id: PartitionId, reader: LogReader, end_offset: Offset) -> Arc<Self> {
        Arc::new(Self {
            id,
            reader,
            end_offset: AtomicU64::new(end_offset.0),
            deleted: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            watchers: Mutex::default(),
        })
    }

    /// Records below `end_offset` are in the log; wakes who waits for them.
    pub(super) fn raise(&self, end_offset: Offset) {
        self.end_offset.store(end_offset.0, Ordering::SeqCst);
        self.wake();
    }

    /// The partition is gone; wakes all so that they notice.
    pub(super) fn delete(&self) {
        self.deleted.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// The replica is given up here; wakes all so that they look for another one.
    pub(super) fn leave(&self) {
        self.moved.store(true, Ordering::SeqCst);
        self.delete();
    }

    fn wake(&self) {
        let mut watchers = self.watchers.lock();
        watchers.all.retain(|watcher| {
            let Some(watcher) = watcher.upgrade() else {
                return false;
            };
            if watcher.armed.swap(false, Ordering::SeqCst) {
                watcher.news.push(watcher.token);
            }
            true
        });
        watchers.kept = watchers.all.len();
    }

    #[cfg(test)]
    fn watcher_count(&self) -> usize {
        self.watchers.lock().all.len()
    }
}

/// Reads one partition of a data shard, up to what is applied. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PartitionReader {
    shared: Arc<PartitionShared>,
}

impl PartitionReader {
    pub(super) fn new(shared: Arc<PartitionShared>) -> Self {
        Self { shared }
    }

    /// The partition.
    pub fn id(&self) -> PartitionId {
        self.shared.id
    }

    /// The offset of the oldest record.
    pub fn start_offset(&self) -> Offset {
        self.shared.reader.start_offset()
    }

    /// The high watermark: the offset after the last record that may be read.
    pub fn end_offset(&self) -> Offset {
        Offset(self.shared.end_offset.load(Ordering::SeqCst))
    }

    /// Bytes on disk and waiting to be written.
    pub fn size_bytes(&self) -> u64 {
        self.shared.reader.size_bytes()
    }

    /// Whether the partition was deleted; nothing new will ever come.
    pub fn is_deleted(&self) -> bool {
        self.shared.deleted.load(Ordering::SeqCst)
    }

    /// Whether it is gone from this broker only: other brokers have it.
    pub fn has_moved(&self) -> bool {
        self.shared.moved.load(Ordering::SeqCst)
    }

    /// Reads batches from the one that holds `offset` on, up to `bytes_max` bytes (grown to one
    /// batch). Does not block; what is not in memory comes back as a read to be run elsewhere.
    pub fn read(&self, offset: Offset, bytes_max: usize) -> ReadOutcome {
        self.shared
            .reader
            .read(offset, bytes_max, self.end_offset())
    }

    /// The log's own reader, for what else it can tell.
    pub fn log(&self) -> &LogReader {
        &self.shared.reader
    }

    /// How long ago a read found something damaged in it.
    pub fn damaged_for(&self) -> Option<Duration> {
        self.shared.reader.damaged_for()
    }

    /// Reports news of this partition to `news` as `token`, as long as the subscription lives.
    /// It starts unarmed: see [`Subscription::arm`].
    pub fn subscribe(&self, news: &Arc<News>, token: u32) -> Subscription {
        let watcher = Arc::new(Watcher {
            armed: AtomicBool::new(false),
            token,
            news: Arc::clone(news),
        });
        self.shared.watchers.lock().add(&watcher);
        Subscription {
            watcher,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Waits until there are records from `offset` on, or the partition is deleted.
    pub async fn changed(&self, offset: Offset) {
        if self.end_offset() > offset || self.is_deleted() {
            return;
        }
        let news = News::new();
        let subscription = self.subscribe(&news, 0);
        while !subscription.arm(offset) {
            news.wait().await;
        }
    }
}

/// Collects which of many partitions have news, for one consumer: it waits at one place, and
/// partitions in which nothing happens cost nothing.
#[derive(Debug)]
pub struct News {
    tokens: Mutex<Vec<u32>>,
    notify: Notify,
}

impl News {
    /// A place to wait at.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            tokens: Mutex::new(Vec::new()),
            notify: Notify::new(),
        })
    }

    /// Waits for news, and takes the tokens of the partitions that have some.
    pub async fn wait(&self) -> Vec<u32> {
        loop {
            let tokens = self.take();
            if !tokens.is_empty() {
                return tokens;
            }
            self.notify.notified().await;
        }
    }

    /// Takes the tokens of the partitions that have news by now.
    pub fn take(&self) -> Vec<u32> {
        std::mem::take(&mut self.tokens.lock())
    }

    fn push(&self, token: u32) {
        self.tokens.lock().push(token);
        self.notify.notify_one();
    }
}

/// Keeps a consumer informed of one partition, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    watcher: Arc<Watcher>,
    shared: Arc<PartitionShared>,
}

impl Subscription {
    /// Asks for one report once there are records from `offset` on. True if there are some
    /// already, or the partition is deleted; then there will be no report.
    pub fn arm(&self, offset: Offset) -> bool {
        let has_news = || {
            self.shared.end_offset.load(Ordering::SeqCst) > offset.0
                || self.shared.deleted.load(Ordering::SeqCst)
        };
        if has_news() {
            return true;
        }
        self.watcher.armed.store(true, Ordering::SeqCst);
        // What came between the look and the arming would be missed: look again. If the report
        // is out by then, it stands.
        has_news() && self.watcher.armed.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use flumen_protocol::ids::TopicId;

    use super::*;
    use crate::{
        disk::SimulatedDisk,
        log::{LogCheckpoint, LogOptions, LogStore, LogStoreOptions},
    };

    #[test]
    fn consumers_that_come_and_go_are_not_collected_where_nothing_happens() {
        let disk = Arc::new(SimulatedDisk::new());
        let store = LogStore::open(disk, "/logs", LogStoreOptions::default()).unwrap();
        let id = PartitionId {
            topic: TopicId(1),
            index: 0,
        };
        let log = store.open_partition(id, LogOptions::default(), &LogCheckpoint::default());
        let shared = PartitionShared::new(id, log.unwrap().reader(), Offset(0));
        let reader = PartitionReader::new(Arc::clone(&shared));
        let news = News::new();
        let stay: Vec<_> = (0..20)
            .map(|token| reader.subscribe(&news, token))
            .collect();
        for _ in 0..1000 {
            drop(reader.subscribe(&news, 99));
            assert!(shared.watcher_count() <= 2 * stay.len() + 1);
        }
        for subscription in &stay {
            assert!(!subscription.arm(Offset(0)));
        }
        shared.raise(Offset(1));
        assert_eq!(news.take(), (0..20).collect::<Vec<_>>());
        assert_eq!(shared.watcher_count(), stay.len());
    }
}
