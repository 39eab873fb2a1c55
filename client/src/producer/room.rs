//! The queue of those who wait for the producers' memory. Whoever comes first is served first: the
//! order of messages holds, and a large one is not kept out for good by small ones that fit sooner.

use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    task::coop::unconstrained,
};

use super::worker::Shared;

/// Who waits for memory.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Tokio's mutex lets those who wait have it in the order in which they came.
    turn: Mutex<()>,
    /// Told when memory comes back. Only who has the turn listens.
    made: Notify,
}

impl Room {
    /// Some memory came back.
    pub(super) fn made(&self) {
        self.made.notify_waiters();
    }
}

/// A place in the queue, which is left when this is dropped.
pub(super) struct Queued<'a> {
    shared: &'a Shared,
}

impl<'a> Queued<'a> {
    pub(super) fn enter(shared: &'a Shared) -> Self {
        shared.accumulator.lock().enter_queue();
        Self { shared }
    }

    /// Waits for its turn. Takes its place behind those before it when this is first polled, however
    /// much its task has done without a pause.
    pub(super) async fn turn(&self) -> MutexGuard<'a, ()> {
        unconstrained(self.shared.room.turn.lock()).await
    }

    /// Calls `attempt` until there is room; to be used by who has the turn.
    pub(super) async fn until_room<R>(&self, mut attempt: impl FnMut() -> Option<R>) -> R {
        loop {
            let mut made = std::pin::pin!(self.shared.room.made.notified());
            made.as_mut().enable();
            if let Some(result) = attempt() {
                return result;
            }
            made.await;
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.shared.accumulator.lock().leave_queue();
    }
}
