//! What is told while the broker takes nothing: without it the command would be silent for as long
//! as records are sent again.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use anstream::eprintln;
use flumen_client::{Producer, Raw};
use indicatif::ProgressBar;
use tokio::sync::watch;

/// How long records may wait until that is told.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long it takes until it is told again.
const AGAIN: Duration = Duration::from_secs(30);

/// How often it is looked for.
const POLL: Duration = Duration::from_millis(500);

/// Tells on stderr why records wait, and that they do no more. What comes of those that wait when
/// the command is told to stop is said in its summary.
pub(super) async fn tell(
    producer: &Producer<Raw>,
    progress: &ProgressBar,
    stopped: watch::Receiver<bool>,
) -> Infallible {
    let mut is_over = true;
    let mut told = None;
    loop {
        tokio::time::sleep(POLL).await;
        let now = Instant::now();
        match producer.setback() {
            None if !is_over && !*stopped.borrow() => {
                is_over = true;
                progress.suspend(|| eprintln!("records wait no longer"));
            }
            Some(setback) if is_due(now, setback.since, told) => {
                is_over = false;
                told = Some(now);
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
