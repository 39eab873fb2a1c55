//! Takes checkpoints of the shards when the write-ahead log grows, and now and then; and sees to
//! retention and compaction. One task for all shards, so that they do not all hit the disk at
//! once.

use std::{io, ops::Deref, sync::Arc, time::Duration};

use flumen_protocol::ids::ShardId;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{DataShards, ShardsOptions, checkpoint_files::CheckpointFiles};
use crate::{
    catalog::{CATALOG_SHARD, Catalog},
    clock::now_ms,
    disk::is_full,
    log::LogStore,
    shard::{DataShard, raft::Group},
    wal::Wal,
};

/// How often it is looked whether the files of the log and the checkpoints are still there, and
/// whether there is room to be made on a full disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait after a checkpoint has failed before the next try.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What closed shards have in the log is moved when this part of what it may take is in use: below,
/// it is in nobody's way. Half of this and the quarter that is moved at most are less: what was moved
/// is not moved again before as much was written by others.
const MOVED_FROM: (u64, u64) = (5, 8);

pub(super) struct Checkpointer {
    groups: Groups,
    /// Why no checkpoints are taken, if so.
    trouble: Trouble,
    stop: Arc<Notify>,
    task: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

impl Checkpointer {
    pub(super) fn start(
        options: &ShardsOptions,
        catalog: Catalog,
        data: DataShards,
        (wal, logs): (Wal, LogStore),
        wanted: Arc<Notify>,
        files: CheckpointFiles,
    ) -> Self {
        let groups = Groups {
            catalog,
            data,
            checkpoints: options.checkpoints.clone(),
        };
        let stop = Arc::new(Notify::new());
        let trouble = Trouble::default();
        let work = Work {
            groups: groups.clone(),
            trouble: Arc::clone(&trouble),
            files,
            wal,
            logs,
            wanted,
            unmoved: parking_lot::Mutex::default(),
            checkpoint_interval: options.checkpoint_interval,
            retention_interval: options.retention_interval,
        };
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            tokio::select! {
                () = work.run() => {}
                () = stopped.notified() => {}
            }
        });
        Self {
            groups,
            trouble,
            stop,
            task: parking_lot::Mutex::new(Some(task)),
        }
    }

    /// Why no checkpoints can be taken, unless the disk is full: then the logs say so once it
    /// matters.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    pub(super) async fn checkpoint_all(&self) -> io::Result<()> {
        self.groups.checkpoint_changed().await
    }

    pub(super) async fn stop(&self) {
        self.stop.notify_one();
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!("the checkpoint task has failed: {error}");
        }
    }
}

type Trouble = Arc<parking_lot::Mutex<Option<String>>>;

struct Work {
    groups: Groups,
    trouble: Trouble,
    files: CheckpointFiles,
    wal: Wal,
    logs: LogStore,
    wanted: Arc<Notify>,
    /// Why what closed shards have in the log could not be moved last, if so.
    unmoved: parking_lot::Mutex<Option<String>>,
    checkpoint_interval: Duration,
    retention_interval: Duration,
}

impl Work {
    async fn run(self) {
        let mut wal_wants = self.wal.checkpoint_wanted();
        let mut checkpoint = timer(self.checkpoint_interval);
        let mut retention = timer(self.retention_interval);
        let mut look = timer(LOOK_INTERVAL);
        let mut failing = None;
        loop {
            let is_failing = failing.is_some();
            let (done, is_all) = tokio::select! {
                changed = wal_wants.changed() => match changed {
                    Ok(()) => (self.relieve_wal().await, false),
                    Err(_) => return,
                },
                () = self.wanted.notified() => (self.relieve_wal().await, false),
                _ = checkpoint.tick() => (self.groups.checkpoint_changed().await, false),
                _ = retention.tick() => {
                    self.look_after_logs().await;
                    (Ok(()), false)
                }
                _ = look.tick() => (self.look_after_files().await, false),
                () = std::future::ready(()), if is_failing => (self.do_all().await, true),
            };
            if done.is_ok() && is_failing != is_all {
                // What has failed was not part of it.
                continue;
            }
            let serious = done.as_ref().err().filter(|error| !is_full(error));
            *self.trouble.lock() =
                serious.map(|error| format!("cannot take a checkpoint: {error}"));
            let error = done.err();
            tell_of_change(failing.as_ref(), error.as_ref());
            if error.is_some() {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            failing = error;
        }
    }

    /// All that may have failed.
    async fn do_all(&self) -> io::Result<()> {
        let relieved = self.relieve_wal().await;
        let looked = self.look_for_files().await;
        relieved
            .and(looked)
            .and(self.groups.checkpoint_changed().await)
    }

    /// Checkpoints those shards whose entries the WAL has kept longest. What closed ones have there
    /// goes to its end.
    async fn relieve_wal(&self) -> io::Result<()> {
        let mut done = Ok(());
        for id in self.wal.shards_to_checkpoint() {
            let Some(group) = self.groups.get(id) else {
                continue;
            };
            let relieved = if group.has_changed() {
                self.groups.checkpoint(&group).await
            } else {
                self.groups.release_log(&group).await
            };
            done = done.and(relieved);
        }
        let usage = self.wal.usage();
        if usage.bytes * MOVED_FROM.1 >= usage.bytes_max * MOVED_FROM.0 {
            self.move_on().await;
        }
        done
    }

    /// Moves what closed shards have in the log, all of them: the log must know how much that is.
    async fn move_on(&self) {
        let is_closed = |id: &ShardId| self.groups.get(*id).is_none();
        let closed: Vec<_> = self.wal.shards().into_iter().filter(is_closed).collect();
        let failed = if closed.is_empty() {
            None
        } else {
            let wal = self.wal.clone();
            let moved = crate::executor::spawn_blocking(move || wal.move_on(&closed)).await;
            match moved {
                Ok(moved) => moved.err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            }
        };
        if let Some(failed) = news(&mut self.unmoved.lock(), failed) {
            tracing::warn!(
                "what closed shards have in the write-ahead log stays where it is: {failed}"
            );
        }
    }

    /// Looks for files that are gone, and on a full disk for what could go: partitions may have
    /// been deleted, and make room with a checkpoint only.
    async fn look_after_files(&self) -> io::Result<()> {
        let looked = self.look_for_files().await;
        if self.logs.degraded().is_none() && self.wal.trouble().is_none() {
            return looked;
        }
        looked.and(self.groups.checkpoint_changed().await)
    }

    /// Makes up for files that somebody has removed, as far as that can be done: what they held is
    /// still in memory, or in other files.
    async fn look_for_files(&self) -> io::Result<()> {
        let wal = self.wal.clone();
        let looked = crate::executor::spawn_blocking(move || wal.look_for_files()).await;
        let wal_lacks_some = looked
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let with_checkpoint = self.groups.all().filter(|group| group.has_checkpoint());
        let with_checkpoint = with_checkpoint.map(|group| group.shard()).collect();
        let files = self.files.clone();
        let looked = crate::executor::spawn_blocking(move || files.gone(with_checkpoint)).await;
        let gone = looked.map_err(io::Error::other)??;
        for group in self.groups.all() {
            let is_gone = gone.contains(&group.shard());
            if is_gone || wal_lacks_some && group.has_changed() {
                self.groups.checkpoint(&group).await?;
            }
            if wal_lacks_some {
                self.groups.release_log(&group).await?;
            }
        }
        Ok(())
    }

    async fn look_after_logs(&self) {
        let shards = self.groups.data();
        let work = move || {
            for shard in shards {
                shard.look_after_logs(now_ms());
            }
        };
        if let Err(error) = crate::executor::spawn_blocking(work).await {
            tracing::error!("retention has failed: {error}");
        }
    }
}

/// The Raft groups of the broker.
#[derive(Clone)]
struct Groups {
    catalog: Catalog,
    data: DataShards,
    checkpoints: Counter,
}

/// A Raft group, kept open while it is looked at.
enum Kept {
    Catalog(Catalog),
    Data(DataShard),
}

impl Deref for Kept {
    type Target = Group;

    fn deref(&self) -> &Group {
        match self {
            Self::Catalog(catalog) => catalog.group(),
            Self::Data(shard) => shard.group(),
        }
    }
}

impl Groups {
    async fn checkpoint(&self, group: &Group) -> io::Result<()> {
        match group.checkpoint().await {
            Ok(()) => {
                self.checkpoints.inc();
                Ok(())
            }
            Err(error) => self.unless_closed(group, error),
        }
    }

    async fn release_log(&self, group: &Group) -> io::Result<()> {
        let released = group.release_log().await;
        released.or_else(|error| self.unless_closed(group, error))
    }

    /// The error, unless the replica was given up or closed meanwhile: then nothing is wrong.
    fn unless_closed(&self, group: &Group, error: io::Error) -> io::Result<()> {
        let open = self.get(group.shard());
        if open.is_some_and(|open| std::ptr::eq::<Group>(&raw const *open, group)) {
            Err(error)
        } else {
            Ok(())
        }
    }

    fn data(&self) -> Vec<DataShard> {
        self.data.read().values().cloned().collect()
    }

    fn get(&self, id: ShardId) -> Option<Kept> {
        if id == CATALOG_SHARD {
            return Some(Kept::Catalog(self.catalog.clone()));
        }
        self.data.read().get(&id).cloned().map(Kept::Data)
    }

    fn all(&self) -> impl Iterator<Item = Kept> + use<> {
        let data = self.data().into_iter().map(Kept::Data);
        data.chain([Kept::Catalog(self.catalog.clone())])
    }

    /// The first failure keeps none of the others from theirs: one of them may make the room that
    /// all lack.
    async fn checkpoint_changed(&self) -> io::Result<()> {
        let mut done = Ok(());
        for group in self.all() {
            if group.has_changed() {
                done = done.and(self.checkpoint(&group).await);
            }
        }
        done
    }
}

/// Takes note of a failure, or of none, and returns it if it is not the one that was noted last: what
/// is tried again with every segment that is filled is told once.
fn news(noted: &mut Option<String>, failed: Option<String>) -> Option<&str> {
    let is_new = *noted != failed;
    *noted = failed;
    noted.as_deref().filter(|_| is_new)
}

/// Says what keeps checkpoints from being taken: once, however often it is tried again, and on a
/// full disk whatever of it finds no room.
fn tell_of_change(before: Option<&io::Error>, now: Option<&io::Error>) {
    let is_same = |before: &io::Error, now: &io::Error| {
        is_full(before) && is_full(now) || before.to_string() == now.to_string()
    };
    match (before, now) {
        (Some(before), Some(now)) if is_same(before, now) => {}
        (_, Some(error)) => {
            tracing::warn!("cannot take a checkpoint, trying again each second: {error}");
        }
        (Some(_), None) => tracing::info!("checkpoints are taken again"),
        (None, None) => {}
    }
}

fn timer(period: Duration) -> tokio::time::Interval {
    let mut timer = interval_at(Instant::now() + period, period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_again_when_it_was_over_or_is_another_one() {
        let mut noted = None;
        let mut told = |failed: Option<&str>| {
            let news = news(&mut noted, failed.map(str::to_owned));
            news.map(str::to_owned)
        };
        let full = Some("no room");
        assert_eq!(told(None), None);
        assert_eq!(told(full).as_deref(), full);
        assert_eq!(told(full), None);
        assert_eq!(told(Some("damaged")).as_deref(), Some("damaged"));
        assert_eq!(told(None), None);
        assert_eq!(told(full).as_deref(), full);
    }
}
