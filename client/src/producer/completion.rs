//! The outcome of a batch, awaited by any number of its records: one allocation a batch
//! instead of a channel a record.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use flumen_protocol::message::ProduceReceipt;
use parking_lot::Mutex;

use super::error::SendError;

/// What became of a batch, and of how many records it was made.
#[derive(Clone, Debug)]
pub(super) struct BatchOutcome {
    pub(super) result: Result<ProduceReceipt, Arc<SendError>>,
    pub(super) records: u32,
}

/// Where the outcome of one batch will be.
#[derive(Debug, Default)]
pub(super) struct Completion {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<BatchOutcome>,
    wakers: Vec<Option<Waker>>,
}

impl Completion {
    /// Sets the outcome and wakes all who wait for it.
    pub(super) fn complete(&self, outcome: BatchOutcome) {
        let mut state = self.state.lock();
        state.outcome = Some(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state.lock().outcome.is_some()
    }
}

/// Waits for the outcome of a batch.
#[derive(Debug)]
pub(super) struct Wait {
    completion: Arc<Completion>,
    slot: Option<usize>,
}

impl Wait {
    pub(super) fn new(completion: Arc<Completion>) -> Self {
        Self {
            completion,
            slot: None,
        }
    }
}

impl Future for Wait {
    type Output = BatchOutcome;

    fn poll(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<BatchOutcome> {
        let completion = Arc::clone(&self.completion);
        let mut state = completion.state.lock();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        match self.slot.and_then(|slot| state.wakers.get_mut(slot)) {
            Some(Some(waker)) => waker.clone_from(ctx.waker()),
            Some(empty) => *empty = Some(ctx.waker().clone()),
            None => {
                self.slot = Some(state.wakers.len());
                state.wakers.push(Some(ctx.waker().clone()));
            }
        }
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(slot) = self.slot
            && let Some(waker) = self.completion.state.lock().wakers.get_mut(slot)
        {
            *waker = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_wait_get_the_outcome_and_one_who_gave_up_hurts_nobody() {
        let completion = Arc::new(Completion::default());
        let waits: Vec<_> = (0..3)
            .map(|_| tokio::spawn(Wait::new(Arc::clone(&completion))))
            .collect();
        tokio::task::yield_now().await;
        waits[1].abort();
        completion.complete(BatchOutcome {
            result: Ok(ProduceReceipt {
                base_offset: None,
                stored: 0,
                append_time_ms: 5,
                duplicate: false,
            }),
            records: 3,
        });
        for (index, wait) in waits.into_iter().enumerate() {
            let outcome = wait.await;
            assert_eq!(outcome.is_ok(), index != 1);
        }
        let late = Wait::new(completion).await;
        assert_eq!(late.result.unwrap().append_time_ms, 5);
    }
}
