//! Work on the disk for tasks, which must not block.

use std::{io, time::Duration};

use super::is_full;
use crate::executor::spawn_blocking;

/// How long to wait before a full disk is tried again.
const FULL_DISK_RETRY_AFTER: Duration = Duration::from_secs(1);

/// As [`spawn_blocking`], for work on the disk; that it panicked is an error like any other.
pub(crate) async fn disk_work<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// As [`disk_work`], tried until the disk has room for it. `attempt` says what would be done.
pub(crate) async fn disk_work_once_there_is_room<T: Send + 'static>(
    attempt: &str,
    work: impl Fn() -> io::Result<T> + Clone + Send + 'static,
) -> io::Result<T> {
    let mut is_told = false;
    loop {
        match disk_work(work.clone()).await {
            Err(error) if is_full(&error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!("{attempt} waits for room on the disk: {error}");
                }
                tokio::time::sleep(FULL_DISK_RETRY_AFTER).await;
            }
            done => return done,
        }
    }
}
