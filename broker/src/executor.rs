//! Where work runs that is no async task: what blocks, and the loops beside the tasks.
//!
//! What blocks runs on tokio's pool for it, and a loop has a thread of its own. With the feature
//! `simulation`, and in a thread that called `simulation::enter`, both are tasks of the
//! runtime, so that all that happens is on one thread and follows from the seed of the
//! simulation. A loop is then driven by another, asynchronous function over the same steps.
//! Without the feature nothing of that is compiled.

use std::{io, thread};

use parking_lot::{Condvar, MutexGuard};
use tokio::task::JoinHandle;

#[cfg(feature = "simulation")]
pub mod simulation;

/// Whether this thread is simulated, and nothing may run on others.
pub(crate) fn is_simulated() -> bool {
    #[cfg(feature = "simulation")]
    return simulation::is_on();
    #[cfg(not(feature = "simulation"))]
    false
}

/// Runs what blocks where it holds up no task.
pub(crate) fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    #[cfg(feature = "simulation")]
    if simulation::is_on() {
        return simulation::spawn_blocking(work);
    }
    #[expect(clippy::disallowed_methods, reason = "this is the place for it")]
    tokio::task::spawn_blocking(work)
}

/// A loop that runs beside the tasks.
#[derive(Debug)]
pub(crate) enum Running {
    /// On a thread of its own.
    Thread(thread::JoinHandle<()>),
    /// As a task.
    #[cfg(feature = "simulation")]
    Task,
}

impl Running {
    /// Starts a loop on a thread of its own.
    pub(crate) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self::Thread(thread))
    }

    /// Waits until the loop has ended; not if it is the caller. A task ends by itself.
    pub(crate) fn join(self) {
        match self {
            Self::Thread(thread) => {
                let name = thread.thread().name().unwrap_or_default().to_owned();
                if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                    tracing::error!(name, "a thread ended with a panic");
                }
            }
            #[cfg(feature = "simulation")]
            Self::Task => {}
        }
    }
}

/// What a loop waits for: a condition variable, which a task can wait for, too.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    condvar: Condvar,
    #[cfg(feature = "simulation")]
    notify: tokio::sync::Notify,
}

impl Bell {
    /// Wakes the loop, or one of several threads that wait.
    pub(crate) fn ring(&self) {
        self.condvar.notify_one();
        #[cfg(feature = "simulation")]
        self.notify.notify_one();
    }

    /// Wakes all that wait.
    pub(crate) fn ring_for_all(&self) {
        self.condvar.notify_all();
        #[cfg(feature = "simulation")]
        self.notify.notify_one();
    }

    /// Waits for the bell, on a thread that may block.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.condvar.wait(guard);
    }

    /// The same, for so long at most; true if it was in vain.
    pub(crate) fn wait_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        time: std::time::Duration,
    ) -> bool {
        self.condvar.wait_for(guard, time).timed_out()
    }

    /// The same, until then at most; true if it was in vain.
    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: std::time::Instant,
    ) -> bool {
        self.condvar.wait_until(guard, deadline).timed_out()
    }

    /// Waits for the bell in a task. One that rang before counts.
    #[cfg(feature = "simulation")]
    pub(crate) async fn rung(&self) {
        self.notify.notified().await;
    }
}
