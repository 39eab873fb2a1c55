//! The executor of a simulation: everything is a task, and what takes time on a machine takes
//! virtual time here.

use std::{cell::Cell, ops::Range, time::Duration};

use rand::RngExt;
use tokio::task::JoinHandle;

use super::Running;

/// How long things take on a simulated machine: each time anything between the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// A sync of the write-ahead log.
    pub sync: Range<Duration>,
    /// Work that blocks.
    pub blocking: Range<Duration>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            sync: Duration::from_millis(1)..Duration::from_millis(3),
            blocking: Duration::ZERO..Duration::from_millis(2),
        }
    }
}

thread_local! {
    static LATENCIES: Cell<Option<Latencies>> = const { Cell::new(None) };
}

/// Says that what this thread runs from now on is simulated, on a machine with these latencies.
pub fn enter(latencies: Latencies) {
    LATENCIES.set(Some(latencies));
}

/// Whether this thread is simulated.
pub(crate) fn is_on() -> bool {
    latencies().is_some()
}

fn latencies() -> Option<Latencies> {
    LATENCIES
        .try_with(|cell| {
            let latencies = cell.take();
            cell.set(latencies.clone());
            latencies
        })
        .ok()
        .flatten()
}

async fn pause(range: Option<Range<Duration>>) {
    if let Some(range) = range.filter(|range| !range.is_empty()) {
        let time = rand::rng().random_range(range);
        tokio::time::sleep(time).await;
    }
}

/// Takes as long as a sync.
pub(crate) async fn sync_pause() {
    pause(latencies().map(|latencies| latencies.sync)).await;
}

/// Takes as long as work that blocks.
pub(crate) async fn blocking_pause() {
    pause(latencies().map(|latencies| latencies.blocking)).await;
}

pub(super) fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(async {
        blocking_pause().await;
        work()
    })
}

/// Starts a loop as a task.
pub(crate) fn start(run: impl Future<Output = ()> + Send + 'static) -> Running {
    tokio::spawn(run);
    Running::Task
}
