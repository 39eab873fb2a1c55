//! The queue of those who wait for the producers' memory. Whoever comes first is served first: the
//! order of a producer's messages holds, and a large one is not kept out for good by small ones that
//! fit sooner. Other producers pass the queue by while they leave what the first in it needs.
//!
//! A place in the queue belongs to a future, and only while that is polled can it take its turn. One
//! that is not, such as the branch of a `select!` that is kept for later, is passed over after a
//! while: those behind it may be what its task waits for.

use std::{pin::pin, time::Duration};

use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    task::coop::unconstrained,
    time::sleep,
};

use super::{accounts::AccountId, worker::Shared};

/// How long whoever has the turn may leave room unused before others may have it.
pub(super) const TURN_MISSED_AFTER: Duration = Duration::from_millis(500);

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
    account: AccountId,
    has_turn: bool,
}

impl<'a> Queued<'a> {
    pub(super) fn enter(shared: &'a Shared, account: AccountId) -> Self {
        shared.accumulator.lock().enter_queue(account);
        Self {
            shared,
            account,
            has_turn: false,
        }
    }

    /// Calls `attempt` until there is room, with whether it has the turn. Takes its place behind those
    /// before it when this is first polled.
    pub(super) async fn until_room<R>(self, mut attempt: impl FnMut(bool) -> Option<R>) -> R {
        let mut turn = pin!(turn(self.shared));
        let _turn = loop {
            tokio::select! {
                biased;
                turn = &mut turn => break turn,
                () = sleep(TURN_MISSED_AFTER) => {
                    // Refused, unless who has the turn does not take it.
                    if let Some(result) = attempt(false) {
                        return result;
                    }
                }
            }
        };
        // Dropped before the lock is: the next one has the turn only once this one has left, or its
        // turn would count as begun after it has taken it.
        let mut place = self;
        place.has_turn = true;
        loop {
            let mut made = pin!(place.shared.room.made.notified());
            made.as_mut().enable();
            place.shared.accumulator.lock().take_turn();
            if let Some(result) = attempt(true) {
                return result;
            }
            made.await;
        }
    }
}

/// Waits for the turn, however much the task has done without a pause.
async fn turn(shared: &Shared) -> MutexGuard<'_, ()> {
    unconstrained(shared.room.turn.lock()).await
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut accumulator = self.shared.accumulator.lock();
        accumulator.leave_queue(self.account, self.has_turn);
    }
}
