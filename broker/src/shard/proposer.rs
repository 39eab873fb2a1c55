//! Turns appends into Raft entries. What waits while earlier entries are on their way goes into
//! one entry together, so that the cost of an entry is shared by all batches that come at once,
//! while a batch that comes alone is proposed at once.
//!
//! There is no task behind it: whoever brings a batch, or completes an entry, proposes what
//! waits. One at a time does so, which keeps the order. While entries are on their way, a task
//! looks whether they still get anywhere: a leader that hears of no majority goes on to lead, and
//! what waited for it would hold the room that all shards share.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use flumen_protocol::{batch::Batch, ids::PartitionId};
use openraft::{
    Raft, async_runtime::WatchReceiver, errors::ClientWriteError, raft::ClientWriteResult,
};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot, time::sleep};

use super::{
    admission::{BATCH_HEAD_BYTES_MAX, Room},
    command::Command,
    data::{AppendError, AppendOutcome, Appended},
    group::majority_silence,
    machine::RaftMachine,
    types::{Callback, Response, TypeConfig},
};
use crate::{clock::now_ms, wal::Wal};

/// Bytes of batches in one entry, unless a single batch is larger or the write-ahead log takes
/// less.
pub const ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Batches in one entry.
pub const ENTRY_BATCHES_MAX: usize = 4096;

/// Entries of one shard on their way at the same time. Enough to keep the write-ahead log busy
/// while the outcome of the one before is dealt with; more would only make entries smaller.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// How long a leader may hear of no majority before those who wait for entries on their way are
/// told. Longer than the lease and than most elections, after which they would hear for certain.
const MAJORITY_SILENCE_MAX: Duration = Duration::from_secs(1);

/// How often a leader looks for that while entries are on their way.
const SILENCE_LOOK_INTERVAL: Duration = Duration::from_millis(500);

type Outcome = Result<Appended, AppendError>;

/// An append that waits to be proposed.
struct Waiting {
    partition: PartitionId,
    batch: Batch,
    waiter: Waiter,
}

/// Who is told what became of a batch, and the room it takes until then.
struct Waiter {
    partition: PartitionId,
    outcome: oneshot::Sender<Outcome>,
    _room: Room,
}

pub(crate) struct Proposer {
    raft: Raft<TypeConfig, RaftMachine>,
    entry_bytes_max: usize,
    queue: Mutex<Queue>,
    /// Entries may be completed, and others proposed, where there is no runtime at hand.
    runtime: Handle,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Those who wait for the entries on their way.
    in_flight: Vec<Waiters>,
    /// A task looks whether the entries on their way get anywhere.
    watched: bool,
    /// Someone is proposing; what comes meanwhile is seen by them.
    proposing: bool,
    last_time_ms: u64,
}

/// Those who wait for an entry; none when they have been told.
type Waiters = Arc<Mutex<Vec<Waiter>>>;

type Sending = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Proposer {
    pub(crate) fn new(raft: Raft<TypeConfig, RaftMachine>, wal: &Wal) -> Arc<Self> {
        Arc::new(Self {
            raft,
            entry_bytes_max: ENTRY_BYTES_MAX.min(wal.entry_bytes_max() as usize),
            queue: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    /// Queues a batch; the order of the calls is the order in the log.
    pub(crate) fn append(
        self: &Arc<Self>,
        partition: PartitionId,
        batch: Batch,
        room: Room,
    ) -> oneshot::Receiver<Outcome> {
        let (tx, rx) = oneshot::channel();
        let waiting = Waiting {
            partition,
            batch,
            waiter: Waiter {
                partition,
                outcome: tx,
                _room: room,
            },
        };
        self.queue.lock().waiting.push_back(waiting);
        self.propose();
        rx
    }

    /// Proposes what waits, as far as there may be entries in flight.
    fn propose(self: &Arc<Self>) {
        while let Some((command, in_flight)) = self.next_entry() {
            let mut sending = self.send(command, in_flight);
            // The channel to openraft is far larger than what is in flight, so the first poll
            // sends; going the long way round costs a task only in the case that it does not.
            let sent = sending
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            if sent == Poll::Pending {
                let this = Arc::clone(self);
                self.runtime.spawn(async move {
                    sending.await;
                    this.queue.lock().proposing = false;
                    this.propose();
                });
                return;
            }
            self.queue.lock().proposing = false;
        }
    }

    fn next_entry(self: &Arc<Self>) -> Option<(Command, InFlight)> {
        let mut queue = self.queue.lock();
        if queue.proposing
            || queue.waiting.is_empty()
            || queue.in_flight.len() >= ENTRIES_IN_FLIGHT_MAX
        {
            return None;
        }
        queue.proposing = true;
        let count = queue.entry_len(self.entry_bytes_max);
        let mut batches = Vec::with_capacity(count);
        let mut waiters = Vec::with_capacity(count);
        for waiting in queue.waiting.drain(..count) {
            batches.push((waiting.partition, waiting.batch));
            waiters.push(waiting.waiter);
        }
        // The clock may step back; the log's times do not.
        let time_ms = queue.last_time_ms.max(now_ms());
        queue.last_time_ms = time_ms;
        let waiters = Waiters::new(Mutex::new(waiters));
        queue.in_flight.push(Arc::clone(&waiters));
        if !queue.watched {
            queue.watched = true;
            self.runtime.spawn(Arc::clone(self).watch());
        }
        let in_flight = InFlight {
            proposer: Arc::clone(self),
            waiters,
        };
        Some((Command::Append { time_ms, batches }, in_flight))
    }

    fn send(&self, command: Command, in_flight: InFlight) -> Sending {
        let raft = self.raft.clone();
        let callback = Callback::new(|result| in_flight.complete(result));
        let send = async move {
            // On failure the callback is dropped, and with it the waiters are told.
            if let Err(error) = raft
                .client_write_ff(Arc::new(command), Some(callback))
                .await
            {
                tracing::debug!("cannot propose an entry: {error}");
            }
        };
        Box::pin(tokio::task::coop::unconstrained(send))
    }

    /// Looks whether entries get anywhere, for as long as any are on their way.
    async fn watch(self: Arc<Self>) {
        loop {
            sleep(SILENCE_LOOK_INTERVAL).await;
            let is_cut_off = self.is_cut_off();
            let mut queue = self.queue.lock();
            if queue.in_flight.is_empty() {
                queue.watched = false;
                return;
            }
            if !is_cut_off {
                continue;
            }
            let waiting = std::mem::take(&mut queue.waiting);
            let in_flight = queue.in_flight.clone();
            drop(queue);
            // None of it was proposed. What was may be committed yet, here or by the next leader.
            for waiting in waiting {
                waiting.waiter.fail(AppendError::NotLeader);
            }
            for waiters in in_flight {
                let waiters = std::mem::take(&mut *waiters.lock());
                fail_all(waiters, &AppendError::Deposed);
            }
        }
    }

    /// Whether this broker leads and has heard of no majority for too long.
    fn is_cut_off(&self) -> bool {
        let silence = majority_silence(&self.raft.metrics().borrow_watched());
        silence.is_some_and(|silence| silence > MAJORITY_SILENCE_MAX)
    }
}

impl Queue {
    /// How many of the waiting batches make the next entry.
    fn entry_len(&self, bytes_max: usize) -> usize {
        let mut bytes = 0;
        let fitting = self
            .waiting
            .iter()
            .take(ENTRY_BATCHES_MAX)
            .take_while(|waiting| {
                bytes += waiting.batch.encoded_len() + BATCH_HEAD_BYTES_MAX;
                bytes <= bytes_max
            })
            .count();
        fitting.max(1)
    }
}

/// An entry on its way. Dropped without an outcome, as when the shard stops, it tells its waiters
/// that theirs is not known.
struct InFlight {
    proposer: Arc<Proposer>,
    waiters: Waiters,
}

impl InFlight {
    fn complete(self, result: ClientWriteResult<TypeConfig>) {
        let waiters = std::mem::take(&mut *self.waiters.lock());
        match result {
            Ok(written) => {
                let Response::Appended(outcomes) = written.data else {
                    return fail_all(waiters, &AppendError::Stopped);
                };
                for (waiter, outcome) in waiters.into_iter().zip(outcomes) {
                    waiter.finish(outcome);
                }
            }
            Err(error) => {
                tracing::debug!("an entry was refused: {error}");
                let error = match error {
                    ClientWriteError::ForwardToLeader(_) => AppendError::NotLeader,
                    // It was in the log already, and may yet be committed by the next leader.
                    _ => AppendError::Deposed,
                };
                fail_all(waiters, &error);
            }
        }
    }
}

fn fail_all(waiters: Vec<Waiter>, error: &AppendError) {
    for waiter in waiters {
        waiter.fail(error.clone());
    }
}

impl Waiter {
    fn finish(self, outcome: AppendOutcome) {
        let outcome = outcome.map_err(|refusal| refusal.into_error(self.partition));
        let _ = self.outcome.send(outcome);
    }

    fn fail(self, error: AppendError) {
        // A producer that no longer waits is no concern of the shard's.
        let _ = self.outcome.send(Err(error));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let waiters = std::mem::take(&mut *self.waiters.lock());
        fail_all(waiters, &AppendError::Stopped);
        let mut queue = self.proposer.queue.lock();
        queue
            .in_flight
            .retain(|waiters| !Arc::ptr_eq(waiters, &self.waiters));
        drop(queue);
        self.proposer.propose();
    }
}
