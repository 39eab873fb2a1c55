//! Sees to retention and compaction, one shard after the other, so that they do not all hit the
//! disk at once. A task of its own: it takes as long as it takes, and nobody waits for it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::groups::Groups;
use crate::{clock::now_ms, executor::spawn_blocking};

pub(super) struct Upkeep {
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Upkeep {
    /// Looks at the logs each time that `interval` has passed since it last did.
    pub(super) fn start(interval: Duration, groups: Groups) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let pause = || stopped.run_until_cancelled(tokio::time::sleep(interval));
            while pause().await.is_some() {
                look_after_logs(&groups, &stopped).await;
            }
        });
        Self {
            stop,
            task: Mutex::new(Some(task)),
        }
    }

    /// Stops, soon, whatever is under way.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!("the task for retention and compaction has failed: {error}");
        }
    }
}

async fn look_after_logs(groups: &Groups, stopped: &CancellationToken) {
    let (shards, stopped) = (groups.data(), stopped.clone());
    let work = move || {
        for shard in shards {
            shard.look_after_logs(now_ms(), &stopped);
        }
    };
    if let Err(error) = spawn_blocking(work).await {
        tracing::error!("retention has failed: {error}");
    }
}
