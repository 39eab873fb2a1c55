//! Takes checkpoints of the shards when the write-ahead log grows, and now and then. One task for
//! all shards, so that they do not all hit the disk at once; nothing that may take long is done in
//! between, since a log without checkpoints soon takes no more.

use std::{io, sync::Arc, time::Duration};

use flumen_protocol::ids::ShardId;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{ShardsOptions, groups::Groups, lost_files::LostFiles};
use crate::{disk::is_full, log::LogStore, wal::Wal};

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
        groups: Groups,
        (wal, logs): (Wal, LogStore),
        wanted: Arc<Notify>,
        files: LostFiles,
    ) -> Self {
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

    pub(super) fn groups(&self) -> &Groups {
        &self.groups
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
    files: LostFiles,
    wal: Wal,
    logs: LogStore,
    wanted: Arc<Notify>,
    /// Why what closed shards have in the log could not be moved last, if so.
    unmoved: parking_lot::Mutex<Option<String>>,
    checkpoint_interval: Duration,
}

impl Work {
    async fn run(self) {
        let mut wal_wants = self.wal.checkpoint_wanted();
        let mut checkpoint = timer(self.checkpoint_interval);
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
        let looked = self.files.look().await;
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
        let looked = self.files.look().await;
        if self.logs.degraded().is_none() && self.wal.trouble().is_none() {
            return looked;
        }
        looked.and(self.groups.checkpoint_changed().await)
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
