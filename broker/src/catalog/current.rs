//! Whether what the catalog here lacks is lacking everywhere.
//!
//! Each broker answers from its own replica of the catalog, which may be behind: a broker that has
//! started knows no more than its last checkpoint until a leader tells what is committed, and one
//! that was cut off knows what was so before. What it knows it may say. That something does not
//! exist it says only after it has asked the leader how far the catalog is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::{Catalog, CatalogError, CatalogState};
use crate::shard::raft::BehindError;

/// The checks that are made with the leader: one at a time, however many want to know.
#[derive(Default)]
pub(super) struct Checks {
    begun: AtomicU64,
    last: Mutex<Check>,
    /// Whether one has succeeded.
    has_caught_up: AtomicBool,
}

/// A check that is done; the first one has the number 1.
struct Check {
    number: u64,
    outcome: Result<(), BehindError>,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            number: 0,
            outcome: Ok(()),
        }
    }
}

impl Catalog {
    /// Finds something in the catalog. What is not found here may have been made elsewhere: that
    /// it does not exist is said when the leader of the catalog has shown it.
    ///
    /// # Errors
    /// What `find` says, or [`CatalogError::Behind`].
    pub(crate) async fn find<T, E: From<CatalogError>>(
        &self,
        find: impl Fn(&CatalogState) -> Result<T, E>,
    ) -> Result<T, E> {
        if let Ok(found) = find(&self.snapshot()) {
            return Ok(found);
        }
        self.catch_up().await?;
        find(&self.snapshot())
    }

    /// Makes sure that all changes are here that were acknowledged before the broker started. Once
    /// they are, it costs nothing.
    ///
    /// # Errors
    /// [`CatalogError::Behind`] while no leader can be asked.
    pub(crate) async fn caught_up(&self) -> Result<(), CatalogError> {
        if self.shared.checks.has_caught_up.load(Ordering::Acquire) {
            return Ok(());
        }
        self.catch_up().await
    }

    /// Makes sure that all changes are here that were acknowledged before the call, whichever
    /// broker made them.
    ///
    /// # Errors
    /// [`CatalogError::Behind`] while no leader can be asked.
    pub(crate) async fn catch_up(&self) -> Result<(), CatalogError> {
        let checks = &self.shared.checks;
        let asked = checks.begun.load(Ordering::Acquire);
        let mut last = checks.last.lock().await;
        // One that has begun since then knows what was acknowledged before.
        if last.number <= asked {
            let number = checks.begun.fetch_add(1, Ordering::AcqRel) + 1;
            let outcome = self.shared.group.catch_up().await;
            if outcome.is_ok() {
                checks.has_caught_up.store(true, Ordering::Release);
            }
            *last = Check { number, outcome };
        }
        let outcome = last.outcome.clone();
        outcome.map_err(|error| CatalogError::Behind(error.to_string()))
    }
}
