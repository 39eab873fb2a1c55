//! All partition logs of a broker: who they are, and what they share.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use flumen_protocol::ids::{Offset, PartitionId, TopicId};
use parking_lot::{Mutex, RwLock};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    LogCheckpoint, LogOptions, LogStoreOptions, PartitionLog,
    budget::TailBudget,
    flusher::{ALL, Flusher},
    names::{FileKind, parse, topic_dir},
    open_files::OpenFiles,
    recover::{OpenError, recover},
    retention::RetentionError,
    segment::Segment,
    sync::CheckpointError,
    write::FlushError,
};
use crate::{
    disk::{Disk, FileSystem},
    executor::Running,
};

/// The logs of all partitions that a broker holds. Cheap to clone; all clones are the same store.
///
/// The store runs until its last clone is dropped or [`LogStore::shutdown`] is called.
#[derive(Clone, Debug)]
pub struct LogStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<StoreShared>,
    logs: RwLock<FxHashMap<PartitionId, PartitionLog>>,
    /// Held by those that open a partition, and alone by the one that removes what was left over.
    opening: RwLock<()>,
    /// Files found at the start whose partition has not been opened yet.
    found: Mutex<FxHashMap<PartitionId, Vec<FileKind>>>,
    /// Partitions of which that is a mark, which [`LogStore::remove`] alone takes away.
    removed_ahead: Mutex<FxHashSet<PartitionId>>,
    flusher: Mutex<Option<Running>>,
}

/// What every log needs of its store.
#[derive(Debug)]
pub(super) struct StoreShared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) files: OpenFiles,
    pub(super) budget: TailBudget,
    pub(super) flusher: Arc<Flusher>,
    pub(super) file_system: Arc<dyn FileSystem>,
    /// Held by the one that makes a checkpoint.
    pub(super) checkpointing: Mutex<()>,
    /// Set when a sync failed, and never reset.
    pub(super) failed: OnceLock<String>,
    /// Directories of topics that exist.
    topic_dirs: Mutex<FxHashSet<PathBuf>>,
    /// Open partitions of which a read found something damaged.
    damaged: Mutex<FxHashMap<PartitionId, Instant>>,
}

impl LogStore {
    /// Opens the store in `dir`, which is created if need be, and looks at what is there. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        options: LogStoreOptions,
    ) -> io::Result<Self> {
        let dir = dir.into();
        disk.create_dir_all(&dir)?;
        let (found, topic_dirs) = scan(&*disk, &dir)?;
        let flusher = Flusher::new(options.flush_mode, options.unflushed_bytes_max);
        let shared = Arc::new(StoreShared {
            files: OpenFiles::new(Arc::clone(&disk), dir.clone(), options.open_files_max),
            budget: TailBudget::new(options.tail_bytes_max),
            flusher: Arc::new(flusher),
            file_system: disk.file_system(&dir)?,
            disk,
            dir,
            checkpointing: Mutex::default(),
            failed: OnceLock::new(),
            topic_dirs: Mutex::new(topic_dirs),
            damaged: Mutex::default(),
        });
        let thread = shared.flusher.start()?;
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                logs: RwLock::default(),
                opening: RwLock::default(),
                found: Mutex::new(found),
                removed_ahead: Mutex::default(),
                flusher: Mutex::new(thread),
            }),
        })
    }

    /// Opens a partition's log as `checkpoint` describes it; whatever else is on disk of that
    /// partition is removed. A new partition has [`LogCheckpoint::default`] and touches no disk.
    /// Blocks. A partition that is open already is returned as it is.
    ///
    /// # Errors
    /// When files that the checkpoint promises are missing or too short.
    pub fn open_partition(
        &self,
        id: PartitionId,
        options: LogOptions,
        checkpoint: &LogCheckpoint,
    ) -> Result<PartitionLog, OpenError> {
        if let Some(log) = self.get(id) {
            return Ok(log);
        }
        let _opening = self.inner.opening.read();
        let found = self.inner.found.lock().remove(&id).unwrap_or_default();
        let log = recover(&self.inner.shared, id, options, checkpoint, &found)
            // What was found counts again when somebody tries once more.
            .inspect_err(|_| drop(self.inner.found.lock().insert(id, found)))?;
        let log = PartitionLog { log: Arc::new(log) };
        let mut logs = self.inner.logs.write();
        Ok(logs.entry(id).or_insert(log).clone())
    }

    pub(super) fn shared(&self) -> &Arc<StoreShared> {
        &self.inner.shared
    }

    /// Files of a partition that is not open.
    pub(super) fn found(&self, id: PartitionId) -> Vec<FileKind> {
        self.inner
            .found
            .lock()
            .get(&id)
            .cloned()
            .unwrap_or_default()
    }

    /// Open partitions of which a read found something damaged.
    pub fn damaged(&self) -> Vec<PartitionId> {
        self.inner.shared.damaged.lock().keys().copied().collect()
    }

    /// An open partition.
    pub fn get(&self, id: PartitionId) -> Option<PartitionLog> {
        self.inner.logs.read().get(&id).cloned()
    }

    /// How many partitions are open.
    pub fn len(&self) -> usize {
        self.inner.logs.read().len()
    }

    /// Whether no partition is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes a partition and its files. Blocks. Readers find the log out of range from now on;
    /// a read that has its file open may still finish.
    pub fn remove(&self, id: PartitionId) {
        let log = self.inner.logs.write().remove(&id);
        if let Some(log) = log {
            log.log.remove();
        }
        self.inner.shared.damaged.lock().remove(&id);
        self.inner.removed_ahead.lock().remove(&id);
        if let Some(found) = self.inner.found.lock().remove(&id) {
            self.inner.shared.remove_found(id, &found);
        }
        self.remove_topic_dir_if_unused(id.topic);
    }

    /// As [`LogStore::remove`], before there is a checkpoint that names the partition no more: on
    /// a full disk there may be none until its files are gone. A mark stays that says why they
    /// are, until [`LogStore::remove`] is called. Blocks.
    ///
    /// # Errors
    /// When the disk does not take the mark; nothing is removed then.
    pub fn remove_ahead(&self, id: PartitionId) -> Result<(), RetentionError> {
        let log = self.inner.logs.read().get(&id).cloned();
        let Some(log) = log else { return Ok(()) };
        let marks = log.log.remove_ahead()?;
        self.inner.logs.write().remove(&id);
        let left = marks.into_iter().map(FileKind::Start);
        self.inner.removed_ahead.lock().insert(id);
        self.inner.found.lock().insert(id, left.collect());
        Ok(())
    }

    /// Ends the logs of partitions and leaves their files, so that they can be opened again as of
    /// their checkpoints. Blocks.
    ///
    /// # Errors
    /// When a directory cannot be read. The logs are ended all the same.
    pub fn close(&self, partitions: &[PartitionId]) -> io::Result<()> {
        let topics: FxHashSet<_> = partitions.iter().map(|id| id.topic).collect();
        let partitions: FxHashSet<_> = partitions.iter().collect();
        for id in &partitions {
            let log = self.inner.logs.write().remove(id);
            if let Some(log) = log {
                log.log.close();
            }
            self.inner.shared.damaged.lock().remove(id);
        }
        for topic in topics {
            let dir = topic_dir(&self.inner.shared.dir, topic);
            let mut found = match scan_topic(&*self.inner.shared.disk, &dir, topic) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            found.retain(|id, _| partitions.contains(id));
            self.inner.found.lock().extend(found);
        }
        Ok(())
    }

    /// Removes the files of partitions that were not opened: leftovers of those that were removed
    /// while the broker went down. Call it once all partitions are open that a checkpoint names.
    /// Blocks. Returns how many partitions they were of.
    pub fn remove_unopened(&self) -> usize {
        let found: Vec<_> = self.inner.found.lock().keys().copied().collect();
        let mut count = 0;
        for id in found {
            if self.inner.removed_ahead.lock().contains(&id) {
                continue;
            }
            {
                // Whoever opens it later must not lose the files that are made then.
                let _nobody_opens = self.inner.opening.write();
                let Some(files) = self.inner.found.lock().remove(&id) else {
                    continue;
                };
                self.inner.shared.remove_found(id, &files);
            }
            self.remove_topic_dir_if_unused(id.topic);
            count += 1;
        }
        count
    }

    /// Writes and syncs what is in each log before the given offset, with few syncs however many
    /// logs there are, and says what to recover to, in the same order. Blocks; appending goes on.
    ///
    /// # Errors
    /// When the disk takes no more, which may be tried again, or a sync failed, which is final.
    pub fn checkpoint(
        &self,
        logs: &[(PartitionLog, Offset)],
    ) -> Result<Vec<LogCheckpoint>, CheckpointError> {
        super::sync::checkpoint(&self.inner.shared, logs)
    }

    /// Writes what is not written yet, of all logs. Blocks.
    ///
    /// # Errors
    /// The first failure; the other logs are written nevertheless.
    pub fn flush_all(&self) -> Result<(), FlushError> {
        let logs: Vec<_> = self.inner.logs.read().values().cloned().collect();
        let mut result = Ok(());
        for log in logs {
            let flushed = log.log.flush_to(ALL);
            result = result.and(flushed);
        }
        result
    }

    /// Bytes of batches that are in memory because they are not on disk yet.
    pub fn unflushed_bytes(&self) -> u64 {
        self.inner.shared.flusher.unflushed_bytes()
    }

    /// Whether [`LogStore::unflushed_bytes`] is below its limit. Whoever takes in new work asks
    /// first, since a log takes whatever is appended to it.
    pub fn has_room(&self) -> bool {
        self.inner.shared.flusher.has_room()
    }

    /// Waits until [`LogStore::has_room`].
    pub async fn room(&self) {
        self.inner.shared.flusher.room().await;
    }

    /// Bytes of batches that are in memory for readers although they are on disk.
    pub fn tail_bytes(&self) -> u64 {
        self.inner.shared.budget.bytes()
    }

    /// What keeps batches of whatever partition from being written, and since when; a full disk for
    /// one. They stay in memory and can be read, and the write is tried again every second.
    pub fn degraded(&self) -> Option<String> {
        let shared = &self.inner.shared;
        shared
            .failed
            .get()
            .cloned()
            .or_else(|| shared.flusher.trouble())
    }

    /// The same of partitions that cannot be written though others can, in words.
    pub fn degraded_partitions(&self) -> Option<String> {
        let (partition, text, count) = self.inner.shared.flusher.own_trouble()?;
        let others = match count - 1 {
            0 => String::new(),
            1 => " (and one more)".to_owned(),
            others => format!(" (and {others} more)"),
        };
        Some(format!(
            "partition {partition}{others} takes no records: {text}"
        ))
    }

    /// The same of one partition. Whoever takes in new work for it asks first.
    pub fn degraded_partition(&self, partition: PartitionId) -> Option<String> {
        self.inner.shared.flusher.trouble_of(partition)
    }

    /// Ends the flusher's thread. What is not written yet is in the write-ahead log.
    pub fn shutdown(&self) {
        self.inner.shutdown();
    }

    fn remove_topic_dir_if_unused(&self, topic: TopicId) {
        let shared = &self.inner.shared;
        let dir = topic_dir(&shared.dir, topic);
        let _nobody_opens = self.inner.opening.write();
        let mut topic_dirs = shared.topic_dirs.lock();
        let is_of_topic = |id: &PartitionId| id.topic == topic;
        if self.inner.logs.read().keys().any(is_of_topic)
            || self.inner.found.lock().keys().any(is_of_topic)
        {
            return;
        }
        if topic_dirs.remove(&dir) {
            ignore_failure(&dir, shared.disk.remove_dir_all(&dir));
        }
    }
}

impl Inner {
    fn shutdown(&self) {
        self.shared.flusher.stop();
        if let Some(flusher) = self.flusher.lock().take() {
            flusher.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl StoreShared {
    /// Creates a topic's directory with the first file in it.
    pub(super) fn ensure_topic_dir(&self, dir: &Path) -> io::Result<()> {
        let mut topic_dirs = self.topic_dirs.lock();
        if !topic_dirs.contains(dir) {
            self.disk.create_dir_all(dir)?;
            topic_dirs.insert(dir.to_path_buf());
        }
        Ok(())
    }

    /// Removes the files of a segment.
    pub(super) fn remove_files(&self, segment: &Segment) {
        segment.set_removed();
        self.files.forget(segment);
        for path in [
            segment.key.segment_path(&self.dir),
            segment.key.index_path(&self.dir),
        ] {
            self.remove_file(&path);
        }
    }

    /// Removes files by what was found of them at the start.
    pub(super) fn remove_found(&self, partition: PartitionId, found: &[FileKind]) {
        for kind in found {
            match kind {
                FileKind::Segment(key) => {
                    self.remove_file(&key.segment_path(&self.dir));
                    self.remove_file(&key.index_path(&self.dir));
                }
                FileKind::Start(mark) => self.remove_file(&mark.path(&self.dir, partition)),
            }
        }
    }

    /// How long ago a read found something damaged of an open partition.
    pub(super) fn damaged_for(&self, partition: PartitionId) -> Option<Duration> {
        self.damaged.lock().get(&partition).map(Instant::elapsed)
    }

    /// Remembers that a partition has damaged files. Returns whether that is news.
    pub(super) fn note_damage(&self, partition: PartitionId) -> bool {
        let mut damaged = self.damaged.lock();
        let is_news = !damaged.contains_key(&partition);
        damaged.entry(partition).or_insert_with(Instant::now);
        is_news
    }

    /// Removes a file if it is there.
    pub(super) fn remove_file(&self, path: &Path) {
        ignore_failure(path, self.disk.remove_file(path));
    }
}

/// What cannot be removed now will be at the next start.
fn ignore_failure(path: &Path, result: io::Result<()>) {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "cannot remove what is not needed");
        }
        _ => {}
    }
}

type Files = FxHashMap<PartitionId, Vec<FileKind>>;
type Found = (Files, FxHashSet<PathBuf>);

/// Lists the files of all partitions: one pass over the directories, however many there are.
fn scan(disk: &dyn Disk, dir: &Path) -> io::Result<Found> {
    let mut found = Files::default();
    let mut topic_dirs = FxHashSet::default();
    for entry in disk.list(dir)? {
        let Some(topic) = entry.name().and_then(|name| name.parse().ok()).map(TopicId) else {
            continue;
        };
        if !entry.is_dir {
            continue;
        }
        found.extend(scan_topic(disk, &entry.path, topic)?);
        topic_dirs.insert(entry.path);
    }
    Ok((found, topic_dirs))
}

/// Lists the files of a topic's partitions.
fn scan_topic(disk: &dyn Disk, dir: &Path, topic: TopicId) -> io::Result<Files> {
    let mut found = Files::default();
    for file in disk.list(dir)? {
        if let Some((partition, kind)) = file.name().and_then(|name| parse(topic, name)) {
            found.entry(partition).or_default().push(kind);
        }
    }
    Ok(found)
}
