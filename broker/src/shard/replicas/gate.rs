//! What other brokers' messages go through on their way to a group.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockWriteGuard, RwLock, watch};

/// Lets messages through until it is closed. Cheap to clone: all clones are the same gate.
#[derive(Clone)]
pub(super) struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    closed: watch::Sender<bool>,
    /// Held, to be shared, by what is inside.
    inside: Arc<RwLock<()>>,
}

/// Keeps a gate closed for as long as it lives.
pub(crate) struct ClosedGate {
    gate: Gate,
    alone: Option<OwnedRwLockWriteGuard<()>>,
}

impl Default for Gate {
    fn default() -> Self {
        let shared = Shared {
            closed: watch::Sender::new(false),
            inside: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl Gate {
    /// Does `work` unless the gate is closed. It is given up half-way when the gate closes.
    pub(super) async fn pass<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let refused = || Err("the replica is about to be given up".to_owned());
        let Ok(_inside) = self.shared.inside.try_read() else {
            return refused();
        };
        let mut closed = self.shared.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => refused(),
            outcome = work => outcome,
        }
    }

    /// Closes the gate, and returns when nothing is inside any more.
    pub(super) async fn close(&self) -> ClosedGate {
        let mut closed = ClosedGate {
            gate: self.clone(),
            alone: None,
        };
        self.shared.closed.send_replace(true);
        closed.alone = Some(Arc::clone(&self.shared.inside).write_owned().await);
        closed
    }
}

impl Drop for ClosedGate {
    fn drop(&mut self) {
        self.gate.shared.closed.send_replace(false);
        self.alone = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_gate_that_closes_ends_what_is_inside_and_lets_nothing_in_until_it_opens() {
        let gate = Gate::default();
        let inside = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass(pending::<Result<(), String>>()).await }
        });
        while gate.shared.closed.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        let closed = gate.close().await;
        assert!(inside.await.unwrap().is_err());
        assert!(gate.pass(ready(Ok(1))).await.is_err());
        drop(closed);
        assert_eq!(gate.pass(ready(Ok(1))).await, Ok(1));
    }

    #[tokio::test]
    async fn a_gate_that_nobody_waits_for_to_close_opens_again() {
        let gate = Gate::default();
        let inside = gate.shared.inside.read().await;
        let closing = tokio::time::timeout(std::time::Duration::ZERO, gate.close()).await;
        assert!(closing.is_err());
        drop(inside);
        assert_eq!(gate.pass(ready(Ok(1))).await, Ok(1));
    }
}
