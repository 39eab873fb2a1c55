//! Tells the operator when none of the other brokers is found where this one looks: they may all be
//! down, or have been replaced while it was away, and nobody else can tell it where the cluster is.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::peer::Peers;

/// How often it is looked whether any of the others is connected.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long none may be before that is told: brokers of a cluster that starts come one by one.
const TOLD_AFTER: Duration = Duration::from_secs(30);

/// Says so once each time that all others are out of reach for long. Goes on for ever.
pub(in crate::node) async fn tell_when_forsaken(peers: Peers) {
    let mut since = None;
    let mut is_told = false;
    loop {
        sleep(LOOK_INTERVAL).await;
        let Some(others) = peers.all_out_of_reach() else {
            (since, is_told) = (None, false);
            continue;
        };
        let since = *since.get_or_insert_with(Instant::now);
        if is_told || since.elapsed() < TOLD_AFTER {
            continue;
        }
        is_told = true;
        let others = others.iter();
        let others: Vec<_> = others
            .map(|(broker, address)| format!("{broker} ({address})"))
            .collect();
        tracing::warn!(
            "no other broker answers for {TOLD_AFTER:?}; this one looks for {}. If they run, see that \
             they can be reached; if they were all moved or replaced, start this broker with \
             --seed-brokers and the address of one that runs, or with --join and a token of it",
            others.join(", ")
        );
    }
}
