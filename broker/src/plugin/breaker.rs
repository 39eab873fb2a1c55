//! Decides when a binding that keeps failing is left alone for a while. It takes the time as
//! an argument, so it needs no clock.
use std::time::{Duration, Instant};

use super::limits::{BACK_OFF_MAX, BACK_OFF_MIN, FAILURES_IN_A_ROW_MAX};

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures_in_a_row: u32,
    suspended_until: Option<Instant>,
    back_off: Option<Duration>,
}

impl Breaker {
    /// How long the binding stays suspended, if it is.
    pub(super) fn suspended(&self, now: Instant) -> Option<Duration> {
        let until = self.suspended_until?;
        (until > now).then(|| until - now)
    }

    /// Failures without a success between them.
    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// Notes a success, which ends every suspension.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Notes a failure; tells for how long the binding is suspended by it. After a suspension,
    /// the first failure suspends again, for twice as long.
    pub(super) fn failed(&mut self, now: Instant) -> Option<Duration> {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if self.failures_in_a_row < FAILURES_IN_A_ROW_MAX || self.suspended(now).is_some() {
            return None;
        }
        let back_off = match self.back_off {
            None => BACK_OFF_MIN,
            Some(before) => (before * 2).min(BACK_OFF_MAX),
        };
        self.back_off = Some(back_off);
        self.suspended_until = Some(now + back_off);
        Some(back_off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail_until_suspended(breaker: &mut Breaker, now: Instant) -> Duration {
        (0..FAILURES_IN_A_ROW_MAX)
            .find_map(|_| breaker.failed(now))
            .unwrap()
    }

    #[test]
    fn failures_in_a_row_suspend_for_a_while() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES_IN_A_ROW_MAX {
            assert_eq!(breaker.failed(now), None);
            assert_eq!(breaker.suspended(now), None);
        }
        assert_eq!(breaker.failed(now), Some(BACK_OFF_MIN));
        assert_eq!(breaker.suspended(now), Some(BACK_OFF_MIN));
        assert_eq!(breaker.suspended(now + BACK_OFF_MIN), None);
    }

    #[test]
    fn a_success_between_failures_starts_the_count_anew() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            for _ in 1..FAILURES_IN_A_ROW_MAX {
                assert_eq!(breaker.failed(now), None);
            }
            breaker.succeeded();
        }
        assert_eq!(breaker.failures_in_a_row(), 0);
    }

    #[test]
    fn every_failed_probe_doubles_the_suspension_up_to_a_limit() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        let mut expected = fail_until_suspended(&mut breaker, now);
        for _ in 0..10 {
            now += expected;
            expected = (expected * 2).min(BACK_OFF_MAX);
            assert_eq!(breaker.failed(now), Some(expected));
        }
        assert_eq!(expected, BACK_OFF_MAX);
        breaker.succeeded();
        assert_eq!(fail_until_suspended(&mut breaker, now), BACK_OFF_MIN);
    }

    #[test]
    fn calls_that_end_during_a_suspension_do_not_prolong_it() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        fail_until_suspended(&mut breaker, now);
        assert_eq!(breaker.failed(now), None);
        assert_eq!(breaker.suspended(now), Some(BACK_OFF_MIN));
    }
}
