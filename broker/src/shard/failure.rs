//! The one place where a shard says that it can go on no longer, and why.

use std::sync::Arc;

use tokio::sync::watch;

/// Set once by whoever sees the failure first; seen by all.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    sender: Arc<watch::Sender<Option<String>>>,
}

impl Failure {
    pub(crate) fn new() -> Self {
        Self {
            sender: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Reports a failure. The first one stays: what follows is its consequence.
    pub(crate) fn report(&self, what: impl Into<String>) {
        self.sender.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                let what = what.into();
                tracing::error!("{what}");
                *current = Some(what);
            }
            first
        });
    }

    /// Reports a failure when what is returned is dropped by a panic: what is attempted is done by
    /// a task whose end nobody would notice.
    pub(crate) fn unless_it_panics(&self, attempt: String) -> PanicGuard {
        PanicGuard {
            failure: self.clone(),
            attempt,
        }
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.sender.borrow().clone()
    }

    /// Waits for a failure; for ever if there is none.
    pub(crate) async fn wait(&self) -> String {
        let mut receiver = self.sender.subscribe();
        loop {
            if let Some(failure) = receiver.borrow_and_update().clone() {
                return failure;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Stands for something that must not panic.
pub(crate) struct PanicGuard {
    failure: Failure,
    attempt: String,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let attempt = &self.attempt;
            self.failure
                .report(format!("{attempt} panicked, see the log above"));
        }
    }
}
