//! Exponential back-off with jitter.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackoffOptions {
    /// The wait after the first failure, before jitter.
    pub(crate) first: Duration,
    /// The longest wait, before jitter.
    pub(crate) max: Duration,
}

/// Doubles the wait with each failure, and takes a random half to whole of it, so that
/// clients that lost the same broker do not return at the same moment.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    options: BackoffOptions,
    failures: u32,
    random: SmallRng,
}

impl Backoff {
    /// Starts afresh; equal seeds wait equally long.
    pub(crate) fn new(options: BackoffOptions, seed: u64) -> Self {
        Self {
            options,
            failures: 0,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// Counts a failure and says how long to wait.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let factor = 1_u32 << self.failures.min(20);
        let whole = self
            .options
            .first
            .saturating_mul(factor)
            .min(self.options.max);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(self.random.random_range(0.5..=1.0))
    }

    /// Notes a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_anew_after_a_success() {
        let options = BackoffOptions {
            first: Duration::from_millis(10),
            max: Duration::from_millis(100),
        };
        let mut backoff = Backoff::new(options, 1);
        for whole in [10, 20, 40, 80, 100, 100] {
            let delay = backoff.next_delay();
            let whole = Duration::from_millis(whole);
            assert!(
                whole / 2 <= delay && delay <= whole,
                "{delay:?} of {whole:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= options.first);
    }
}
