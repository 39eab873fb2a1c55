//! Why a broker is not let in, and how often that is told.

use std::{collections::HashMap, time::Duration};

use flumen_protocol::ids::BrokerId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::wire::{CLOSE_REFUSED, CLOSE_REMOVED, CLOSE_STARTING};

/// How long the same refusal is not told again.
const QUIET_FOR: Duration = Duration::from_mins(10);

/// Refusals that are remembered; with one more, all are forgotten.
const REMEMBERED_MAX: usize = 256;

/// Why a connection is closed, as the other side is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u32,
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            code: CLOSE_REFUSED,
            reason: reason.into(),
        }
    }

    /// Of a member that was removed.
    pub(super) fn of_removed(broker: BrokerId) -> Self {
        Self {
            code: CLOSE_REMOVED,
            reason: format!("broker {broker} was removed from the cluster"),
        }
    }

    /// Of one that may well be a member.
    pub(super) fn while_starting() -> Self {
        Self {
            code: CLOSE_STARTING,
            reason: "it has just started, and does not know its members yet".to_owned(),
        }
    }

    /// Whether the broker may have become a member without this one having heard of it.
    pub(super) fn is_of_stranger(&self) -> bool {
        self.code == CLOSE_REFUSED
    }

    /// Whether an operator should hear of it.
    pub(super) fn is_notable(&self) -> bool {
        self.code != CLOSE_STARTING
    }
}

/// What was refused lately.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: Mutex<HashMap<String, Instant>>,
}

impl Refusals {
    /// Whether this reason was not told for a while; from now on it was.
    pub(super) fn is_news(&self, reason: &str) -> bool {
        let mut told = self.told.lock();
        if told.get(reason).is_some_and(|at| at.elapsed() < QUIET_FOR) {
            return false;
        }
        if told.len() >= REMEMBERED_MAX {
            told.clear();
        }
        told.insert(reason.to_owned(), Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_refusal_is_told_once_in_a_while() {
        let refusals = Refusals::default();
        assert!(refusals.is_news("one"));
        assert!(!refusals.is_news("one"));
        assert!(refusals.is_news("two"));
        tokio::time::advance(QUIET_FOR).await;
        assert!(refusals.is_news("one"));
    }
}
