//! Keeps what is sent to replicas that are behind below a rate, over all shards of a broker.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Bytes a second where nothing else is said: less than what a disk writes and a core encrypts, so
/// that producers and consumers hardly notice.
pub(crate) const CATCH_UP_RATE: u64 = 80 * 1024 * 1024;

/// How far ahead of the rate a burst may be.
const BURST: Duration = Duration::from_millis(20);

/// A rate that all who send share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes_per_second: u64,
    /// When everything sent so far would have been sent at the rate.
    paid_until: Mutex<Option<Instant>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(CATCH_UP_RATE)
    }
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        let shared = Shared {
            bytes_per_second: bytes_per_second.max(1),
            paid_until: Mutex::new(None),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Waits until `bytes` may be sent.
    pub(super) async fn spend(&self, bytes: usize) {
        if let Some(at) = self.reserve(Instant::now(), bytes) {
            sleep_until(at).await;
        }
    }

    fn reserve(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let nanoseconds = bytes as u64 * 1_000_000_000 / self.shared.bytes_per_second;
        let mut paid_until = self.shared.paid_until.lock();
        let start = paid_until.map_or(now, |paid_until| paid_until.max(now));
        *paid_until = Some(start + Duration::from_nanos(nanoseconds));
        (start > now + BURST).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_by_many_together_stays_below_the_rate() {
        let pace = Pace::new(1_000_000);
        let started = Instant::now();
        let senders = (0..4).map(|_| async {
            for _ in 0..25 {
                pace.spend(10_000).await;
            }
        });
        futures_util::future::join_all(senders).await;
        // A second's worth, but for the burst and the last piece.
        let elapsed = started.elapsed();
        assert!(elapsed >= Duration::from_millis(960), "{elapsed:?}");
        assert!(elapsed <= Duration::from_millis(1_010), "{elapsed:?}");
    }
}
