//! The parts of the WAL put together: what they share, and the threads. What is done with it has a
//! room for each concern: `writing`, `syncing`, and the `room` that the log takes.

mod room;
mod syncing;
mod writing;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

use bytes::Bytes;
use flumen_protocol::ids::ShardId;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use self::syncing::Syncer;
#[cfg(feature = "simulation")]
pub(super) use self::writing::Written;
use super::{
    OpenError, SyncPolicy, WalError, WalObserver, WalOptions,
    queue::Queue,
    record::record_bytes,
    recovery::recover,
    segment::{AtomicPosition, Segment},
    shard::{Shard, ShardImage, ShardIndex},
    space::Space,
    writer::Writer,
};
use crate::{
    disk::Disk,
    executor::{Bell, Running},
};

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

/// What runs on a thread of its own.
type Loop = fn(&Engine);

impl Engine {
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        observer: Arc<dyn WalObserver>,
    ) -> Result<(Arc<Self>, Vec<Running>), OpenError> {
        let engine = Self::recovered(disk, options, observer)?;
        let threads = engine.start_threads()?;
        Ok((engine, threads))
    }

    /// The engine with what is in the log, before anything runs.
    fn recovered(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        observer: Arc<dyn WalObserver>,
    ) -> Result<Arc<Self>, OpenError> {
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
        Ok(engine)
    }

    fn start_threads(self: &Arc<Self>) -> Result<Vec<Running>, OpenError> {
        #[cfg(feature = "simulation")]
        if crate::executor::simulation::is_on() {
            return Ok(super::simulation::start(self));
        }
        self.start_threads_by(Running::start)
    }

    /// Starts all threads or none, each by `start`; the writer's first.
    fn start_threads_by(
        self: &Arc<Self>,
        start: impl Fn(&str, Box<dyn FnOnce() + Send>) -> io::Result<Running>,
    ) -> Result<Vec<Running>, OpenError> {
        let mut wanted: Vec<(&str, Loop)> = vec![
            ("wal-writer", Self::run_writer),
            ("wal-space", Self::run_space),
        ];
        if self.options.sync != SyncPolicy::Always {
            wanted.push(("wal-syncer", Self::run_syncer));
        }
        let mut threads = Vec::new();
        for (name, run) in wanted {
            let engine = Arc::clone(self);
            match start(name, Box::new(move || run(&engine))) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    self.close();
                    self.stop();
                    threads.into_iter().for_each(Running::join);
                    return Err(OpenError::Io {
                        attempt: "start a thread for",
                        path: self.options.dir.clone(),
                        source,
                    });
                }
            }
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

    /// Takes nothing more; the writer's thread ends when it has written what waits.
    pub(super) fn close(&self) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn no_thread_goes_on_when_a_later_one_does_not_start() {
        for missing in ["wal-space", "wal-syncer"] {
            let options = WalOptions {
                sync: SyncPolicy::Every(Duration::from_millis(1)),
                segment_bytes: 1 << 20,
                bytes_max: 8 << 20,
                ..WalOptions::new("/wal")
            };
            let disk = Arc::new(SimulatedDisk::new());
            let engine = Engine::recovered(disk, options, Arc::new(())).unwrap();
            let started = engine.start_threads_by(|name, run| {
                if name == missing {
                    return Err(io::Error::other("no more threads"));
                }
                Running::start(name, run)
            });
            assert!(started.is_err(), "{missing}");
            assert_eq!(Arc::strong_count(&engine), 1, "{missing}");
        }
    }
}
