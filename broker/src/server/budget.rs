//! How many bytes of batches may be under way, per connection and in all; the payloads of requests
//! count against those of their connection, until they are answered.
//!
//! A connection's bytes are taken before a payload is read, so that what a client announces
//! costs nothing until there is room for it; the bytes of all are taken once it has arrived,
//! so that only batches that are on their way hold them. None is read while all of these are
//! taken: what comes beyond them is what was being read when the last went. Both are given back
//! when the batch is acknowledged.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for: a semaphore counts 32 bits at once.
const PERMIT_BYTES: usize = 1024;

/// A number of bytes that tasks share.
#[derive(Clone, Debug)]
pub(super) struct ByteBudget {
    permits: Arc<Semaphore>,
    permits_max: usize,
}

/// Bytes taken from a budget, given back on drop.
#[derive(Debug)]
pub(super) struct Taken {
    permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Taken {
    /// What was taken from two budgets, given back together.
    pub(super) fn both(first: Self, second: Self) -> Self {
        let [a, _] = first.permits;
        let [b, _] = second.permits;
        Self { permits: [a, b] }
    }
}

impl ByteBudget {
    pub(super) fn new(bytes: u64) -> Self {
        let permits_max = usize::try_from(bytes / PERMIT_BYTES as u64)
            .unwrap_or(usize::MAX)
            .clamp(1, Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(permits_max)),
            permits_max,
        }
    }

    /// Waits until anything is free, and takes nothing of it.
    pub(super) async fn has_some(&self) {
        if self.permits.available_permits() == 0 {
            drop(self.take(1).await);
        }
    }

    /// Waits until `bytes` are free. More than the whole budget counts as the whole budget.
    pub(super) async fn take(&self, bytes: usize) -> Taken {
        let permits = bytes.div_ceil(PERMIT_BYTES).min(self.permits_max);
        let permit = Arc::clone(&self.permits)
            .acquire_many_owned(u32::try_from(permits).unwrap_or(u32::MAX))
            .await
            .expect("the semaphore is never closed");
        Taken {
            permits: [Some(permit), None],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn bytes_are_free_again_after_the_drop() {
        let budget = ByteBudget::new(10 * 1024);
        let taken = budget.take(8 * 1024).await;
        let second = budget.take(4 * 1024);
        tokio::pin!(second);
        let wait = Duration::from_millis(5);
        assert!(tokio::time::timeout(wait, &mut second).await.is_err());
        drop(taken);
        second.await;
    }

    #[tokio::test]
    async fn who_only_waits_for_some_takes_nothing() {
        let budget = ByteBudget::new(4 * 1024);
        let all = budget.take(4 * 1024).await;
        let some = budget.has_some();
        tokio::pin!(some);
        let wait = Duration::from_millis(5);
        assert!(tokio::time::timeout(wait, &mut some).await.is_err());
        drop(all);
        some.await;
        drop(budget.take(4 * 1024).await);
    }

    #[tokio::test]
    async fn more_than_the_whole_budget_waits_for_all_of_it_only() {
        let budget = ByteBudget::new(1024);
        drop(budget.take(1_000_000).await);
    }
}
