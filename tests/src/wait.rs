//! Waiting for a condition, with a deadline.

use std::{future::Future, time::Duration};

/// How long a test waits for what should come at once, on a machine that is busy.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Awaits `condition` until it holds.
///
/// # Panics
/// When it does not hold within [`DEADLINE`]; `what` says what was waited for.
pub async fn until<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, holds).await.is_ok(),
        "after {DEADLINE:?} still waiting for: {what}"
    );
}
