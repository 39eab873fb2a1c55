//! Sends a leader's log to a follower: many requests on their way, answers in their order.
//!
//! openraft hands over a stream of requests and takes a stream of answers. Requests without
//! entries that come alone are heartbeats: they go as calls, which share packets with those of
//! other shards. From the first one with entries on, all go over one QUIC stream.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use openraft::{
    base::BoxStream,
    errors::{RPCError, Timeout},
    network::{RPCOption, RPCTypes, RaftNetworkV2},
    raft::{AppendEntriesRequest, StreamAppendResult},
};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
};

use super::{Replica, RpcResult, failed, unreachable};
use crate::{
    mutation::{Mutation, is_planted},
    peer::{PeerReceiver, PeerSender},
    shard::{
        pace::Pace,
        rpc::{self, AppendReply, Purpose},
        types::TypeConfig,
    },
};

/// Bytes of entries that may be on their way to one follower of one shard.
pub(crate) const REPLICATION_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Requests that may be on their way to one follower of one shard.
pub(crate) const REPLICATION_REQUESTS_MAX: usize = 64;

/// A follower that answers nothing for this long while it has something to answer is given up,
/// and tried anew.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

type Request = AppendEntriesRequest<TypeConfig>;
type Answer = RpcResult<StreamAppendResult<TypeConfig>>;

/// Carries requests to the follower; the answers come in the order of the requests.
pub(super) fn replicate<S>(
    replica: &mut Replica,
    input: S,
    option: RPCOption,
) -> BoxStream<'_, Answer>
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    if is_planted(Mutation::AckBeforeMajority) {
        return answer_at_once(replica, input, option);
    }
    replicate_in_truth(replica, input, option)
}

fn replicate_in_truth<S>(
    replica: &mut Replica,
    input: S,
    option: RPCOption,
) -> BoxStream<'_, Answer>
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    let calling = Calling {
        replica,
        input,
        option,
    };
    let answers = stream::unfold(Phase::Calling(calling), next_answer);
    Box::pin(answers)
}

/// Takes what is sent for stored, as [`Mutation::AckBeforeMajority`] says: a request is answered
/// as it is taken, and what the follower says to it counts only if it is a failure.
fn answer_at_once<S>(replica: &mut Replica, input: S, option: RPCOption) -> BoxStream<'_, Answer>
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    let (told, answers) = mpsc::unbounded_channel();
    let input = input.inspect(move |request| {
        let last = request.entries.last().map(|entry| entry.log_id);
        // Who does not listen any more has given the follower up.
        let _ = told.send(last.or(request.prev_log_id));
    });
    let answers = stream::unfold(answers, async |mut answers| {
        let last = answers.recv().await?;
        Some((Ok(Ok(last)), answers))
    });
    let failures = replicate_in_truth(replica, input, option)
        .filter(|answer| std::future::ready(!matches!(answer, Ok(Ok(_)))));
    Box::pin(stream::select(answers, failures))
}

enum Phase<'s, S> {
    /// No entries have come yet.
    Calling(Calling<'s, S>),
    Streaming(Streaming),
    Over,
}

struct Calling<'s, S> {
    replica: &'s mut Replica,
    input: S,
    option: RPCOption,
}

async fn next_answer<S>(phase: Phase<'_, S>) -> Option<(Answer, Phase<'_, S>)>
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    match phase {
        Phase::Calling(mut calling) => {
            let request = calling.input.next().await?;
            if request.entries.is_empty() {
                let answer = calling.call(request).await;
                let goes_on = matches!(answer, Ok(Ok(_)));
                let next = if goes_on {
                    Phase::Calling(calling)
                } else {
                    Phase::Over
                };
                return Some((answer, next));
            }
            match Streaming::start(calling, request).await {
                Ok(streaming) => streaming.next().await,
                Err(error) => Some((Err(error), Phase::Over)),
            }
        }
        Phase::Streaming(streaming) => streaming.next().await,
        Phase::Over => None,
    }
}

impl<S> Calling<'_, S> {
    async fn call(&mut self, request: Request) -> Answer {
        let prev = request.prev_log_id;
        let option = self.option.clone();
        let response = self.replica.append_entries(request, option).await?;
        Ok(response.into_stream_result(prev, prev))
    }
}

/// What is on its way holds its room until it is answered.
#[derive(Clone)]
struct Window {
    bytes: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    sent: Arc<Mutex<VecDeque<(OwnedSemaphorePermit, OwnedSemaphorePermit)>>>,
}

impl Window {
    fn new() -> Self {
        Self {
            bytes: Arc::new(Semaphore::new(REPLICATION_BYTES_MAX)),
            requests: Arc::new(Semaphore::new(REPLICATION_REQUESTS_MAX)),
            sent: Arc::default(),
        }
    }

    async fn enter(&self, bytes: usize) {
        let bytes = bytes.clamp(1, REPLICATION_BYTES_MAX) as u32;
        let room = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        let place = Arc::clone(&self.requests).acquire_owned().await;
        if let (Ok(room), Ok(place)) = (room, place) {
            self.sent.lock().push_back((room, place));
        }
    }

    fn leave(&self) {
        self.sent.lock().pop_front();
    }

    fn is_empty(&self) -> bool {
        self.sent.lock().is_empty()
    }
}

struct Streaming {
    receiver: Box<dyn PeerReceiver>,
    window: Window,
    leader: u64,
    target: u64,
    _pump: Pump,
}

/// The task that sends; it ends with the stream.
struct Pump(AbortHandle);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Streaming {
    async fn start<S>(calling: Calling<'_, S>, first: Request) -> RpcResult<Self>
    where
        S: Stream<Item = Request> + Send + Unpin + 'static,
    {
        let Calling { replica, input, .. } = calling;
        let opened = replica.open(Purpose::Append).await;
        let stream = opened.map_err(|error| unreachable(&error))?;
        let window = Window::new();
        let missed = Missed {
            until: first.leader_commit.map(|log_id| log_id.index),
            pace: replica.pace.clone(),
        };
        let requests = stream::iter([first]).chain(input);
        let sending = send_all(Box::pin(requests), stream.sender, window.clone(), missed);
        Ok(Self {
            receiver: stream.receiver,
            window,
            leader: replica.leader,
            target: replica.broker.0,
            _pump: Pump(tokio::spawn(sending).abort_handle()),
        })
    }

    async fn next<'s, S>(mut self) -> Option<(Answer, Phase<'s, S>)> {
        loop {
            let received = tokio::time::timeout(ANSWER_TIMEOUT, self.receiver.next());
            let message = match received.await {
                Ok(Ok(message)) => message?,
                Ok(Err(error)) => return Some((Err(unreachable(&error)), Phase::Over)),
                // Nothing to answer, nothing to wait for.
                Err(_) if self.window.is_empty() => continue,
                Err(_) => return Some((Err(self.timed_out()), Phase::Over)),
            };
            self.window.leave();
            let reply: AppendReply = match rpc::decode(&message.head) {
                Ok(reply) => reply,
                Err(error) => return Some((Err(failed(&error)), Phase::Over)),
            };
            return Some(match reply {
                Ok(Ok(flushed)) => (Ok(Ok(flushed)), Phase::Streaming(self)),
                Ok(Err(error)) => (Ok(Err(error)), Phase::Over),
                Err(reason) => {
                    let broker = flumen_protocol::ids::BrokerId(self.target);
                    let refused = crate::peer::PeerError::Refused { broker, reason };
                    (Err(unreachable(&refused)), Phase::Over)
                }
            });
        }
    }

    fn timed_out(&self) -> RPCError<TypeConfig> {
        RPCError::Timeout(Timeout {
            action: RPCTypes::AppendEntries,
            id: self.leader,
            target: self.target,
            timeout: ANSWER_TIMEOUT,
        })
    }
}

/// What the others had already decided without the follower when a stream to it began. It is sent
/// at a pace; what came later is not, however much it is: a follower would never have it all.
struct Missed {
    until: Option<u64>,
    pace: Pace,
}

impl Missed {
    async fn wait(&self, request: &Request, bytes: usize) {
        let last = request.entries.last().map(|entry| entry.log_id.index);
        if last.is_some() && last <= self.until {
            self.pace.spend(bytes).await;
        }
    }
}

async fn send_all(
    mut requests: Pin<Box<dyn Stream<Item = Request> + Send>>,
    mut sender: Box<dyn PeerSender>,
    window: Window,
    missed: Missed,
) {
    while let Some(request) = requests.next().await {
        let bytes = rpc::entries_bytes(&request);
        // Before it is on its way, since from then on an answer is expected.
        missed.wait(&request, bytes).await;
        window.enter(bytes).await;
        let message = match rpc::append_message(&request) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!("log entries cannot be sent: {error}");
                return;
            }
        };
        if let Err(error) = sender.send(message).await {
            // The receiving half tells openraft.
            tracing::debug!("replication stopped: {error}");
            return;
        }
    }
    sender.finish();
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::shard::{
        command::log_id,
        types::{Entry, Payload, Vote},
    };

    fn request(index: u64) -> Request {
        let entry = Entry {
            log_id: log_id(1, index),
            payload: Payload::Blank,
        };
        Request {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: vec![entry],
            leader_commit: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_the_follower_missed_is_sent_at_a_pace() {
        let missed = Missed {
            until: Some(10),
            pace: Pace::new(1_000_000),
        };
        let started = Instant::now();
        for index in 1..=10 {
            missed.wait(&request(index), 100_000).await;
        }
        let paced = started.elapsed();
        // All but the last piece has been paid for, and a burst need not be.
        assert!(paced >= Duration::from_millis(880), "{paced:?}");
        for index in 11..=1_000 {
            missed.wait(&request(index), 100_000).await;
        }
        assert_eq!(started.elapsed(), paced);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_of_a_new_group_waits_for_nothing() {
        let missed = Missed {
            until: None,
            pace: Pace::new(1),
        };
        let started = Instant::now();
        missed.wait(&request(1), 1_000_000).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
