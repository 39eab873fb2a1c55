//! The time of records that bring none, without asking the system for each of them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Records that may share one look at the clock.
const RECORDS_PER_READ_MAX: u32 = 64;

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

/// Asking the system costs as much as adding a record to a batch does. While records follow
/// each other so fast that the time does not change from one look to the next, looks become
/// rarer. Every batch that is taken ends that ([`RecordClock::expire`]), so no record gets the
/// time of a burst before it; and while no batches are taken, because the broker is slow or
/// away, every record gets its own look ([`RecordClock::suspend`]).
#[derive(Debug, Default)]
pub(super) struct RecordClock {
    now_ms: i64,
    /// Records that still get the time as it is.
    left: u32,
    /// Records that shared the last look.
    shared: u32,
    suspended: bool,
}

impl RecordClock {
    pub(super) fn now_ms(&mut self, read: impl FnOnce() -> i64) -> i64 {
        if self.left > 0 {
            self.left -= 1;
            return self.now_ms;
        }
        let now_ms = read();
        self.shared = if self.suspended {
            0
        } else if now_ms == self.now_ms {
            (self.shared * 2 + 1).min(RECORDS_PER_READ_MAX)
        } else {
            self.shared / 2
        };
        self.left = self.shared;
        self.now_ms = now_ms;
        now_ms
    }

    /// The next record gets a new look at the clock.
    pub(super) fn expire(&mut self) {
        self.left = 0;
        self.suspended = false;
    }

    /// Every record gets a new look at the clock, until [`RecordClock::expire`].
    pub(super) fn suspend(&mut self) {
        self.left = 0;
        self.suspended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_shares_looks_and_a_slow_producer_looks_each_time() {
        let mut clock = RecordClock::default();
        let mut reads = 0;
        for _ in 0..10_000 {
            clock.now_ms(|| {
                reads += 1;
                5
            });
        }
        assert!(reads < 300, "{reads}");
        clock.suspend();
        for time in [6, 6, 6, 7] {
            assert_eq!(clock.now_ms(|| time), time);
        }
        clock.expire();
        for time in 8..100 {
            assert_eq!(clock.now_ms(|| time), time);
        }
    }
}
