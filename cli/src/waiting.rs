//! What is told while brokers take or give nothing: without it a command would be silent for as long
//! as it tries again.

use std::time::{Duration, Instant};

use anstream::eprintln;
use flumen_client::Setback;
use indicatif::ProgressBar;

/// How often to look whether something waits.
pub(crate) const POLL: Duration = Duration::from_millis(500);

/// How long something may wait until that is told.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long it takes until it is told again.
const AGAIN: Duration = Duration::from_secs(30);

/// Tells on stderr why something waits, and that it does no more.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// What to say when it is over.
    over: &'static str,
    is_over: bool,
    /// When it was told last, also of one that is over.
    told: Option<Instant>,
}

impl Waiting {
    pub(crate) fn new(over: &'static str) -> Self {
        Self {
            over,
            is_over: true,
            told: None,
        }
    }

    /// Tells what there is to tell; to be called every [`POLL`].
    pub(crate) fn look(&mut self, setback: Option<Setback>, progress: &ProgressBar) {
        let now = Instant::now();
        match setback {
            None if !self.is_over => {
                self.is_over = true;
                progress.suspend(|| eprintln!("{}", self.over));
            }
            Some(setback) if is_due(now, setback.since, self.told) => {
                self.is_over = false;
                self.told = Some(now);
                let waited = (now - setback.since).as_secs();
                progress.suspend(|| {
                    eprintln!(
                        "waiting for {waited} s, and trying again: {}",
                        setback.reason
                    );
                });
            }
            _ => {}
        }
    }
}

fn is_due(now: Instant, since: Instant, told: Option<Instant>) -> bool {
    now - since >= PATIENCE && told.is_none_or(|told| now - told >= AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_soon_and_then_rarely() {
        let since = Instant::now();
        let after = |seconds| since + Duration::from_secs(seconds);
        assert!(!is_due(after(2), since, None));
        assert!(is_due(after(3), since, None));
        assert!(!is_due(after(32), since, Some(after(3))));
        assert!(is_due(after(33), since, Some(after(3))));
    }
}
