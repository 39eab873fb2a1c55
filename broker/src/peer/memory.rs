//! A network in memory, for tests of the rooms above: the handlers of several brokers, joined
//! without sockets, with switches to cut, to delay and to lose.
//!
//! ```text
//! let network = MemoryNetwork::new();
//! network.serve(BrokerId(2), PeerService::Raft, handler);
//! network.peer(BrokerId(1)).call(BrokerId(2), PeerService::Raft, request).await
//! network.cut(BrokerId(1), BrokerId(2));
//! ```
//!
//! It keeps the contract of [`PeerNetwork`] and waits only on tokio's clock, so that tests can
//! pause it.

mod stream;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use flumen_protocol::ids::BrokerId;
use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use super::{
    CALL_BYTES_MAX, PeerError, PeerHandler, PeerMessage, PeerNetwork, PeerService, PeerStream,
};

/// Several brokers' handlers. Cheap to clone: all clones are the same network.
#[derive(Clone)]
pub(crate) struct MemoryNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    handlers: HashMap<(BrokerId, PeerService), Arc<dyn PeerHandler>>,
    links: HashMap<(BrokerId, BrokerId), Link>,
    /// How long everything takes on its way, each way.
    delay: Duration,
    random: StdRng,
}

/// The way from one broker to another.
#[derive(Default)]
struct Link {
    is_cut: bool,
    /// The share of calls that are lost.
    loss: f64,
    /// Cancelled when the link is cut, and replaced when it is mended: what stood on it is gone.
    broken: CancellationToken,
}

/// What becomes of a call on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    RequestLost,
    ReplyLost,
}

impl MemoryNetwork {
    /// A network on which nobody serves yet.
    pub(crate) fn new() -> Self {
        Self::with_seed(0)
    }

    /// As [`MemoryNetwork::new`]; which calls are lost follows from the seed.
    pub(crate) fn with_seed(seed: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    handlers: HashMap::new(),
                    links: HashMap::new(),
                    delay: Duration::ZERO,
                    random: StdRng::seed_from_u64(seed),
                }),
            }),
        }
    }

    /// The network as a broker sees it.
    pub(crate) fn peer(&self, broker: BrokerId) -> Arc<dyn PeerNetwork> {
        Arc::new(MemoryPeer {
            network: self.clone(),
            broker,
        })
    }

    /// Sets who serves at a broker; replaces the handler that did.
    pub(crate) fn serve(
        &self,
        broker: BrokerId,
        service: PeerService,
        handler: Arc<dyn PeerHandler>,
    ) {
        let mut state = self.shared.state.lock();
        state.handlers.insert((broker, service), handler);
    }

    /// Stops a broker: its handlers are forgotten, and all that stood on its links is lost.
    /// [`MemoryNetwork::serve`] starts it again.
    pub(crate) fn stop(&self, broker: BrokerId) {
        let mut state = self.shared.state.lock();
        state.handlers.retain(|(served, _), _| *served != broker);
        for (ends, link) in &mut state.links {
            let is_of_broker = ends.0 == broker || ends.1 == broker;
            if is_of_broker && !link.is_cut {
                std::mem::take(&mut link.broken).cancel();
            }
        }
    }

    /// Cuts one direction: calls that way are unreachable, replies that way are lost, and the
    /// streams of the pair break.
    pub(crate) fn cut(&self, from: BrokerId, to: BrokerId) {
        let mut state = self.shared.state.lock();
        let link = state.links.entry((from, to)).or_default();
        link.is_cut = true;
        link.broken.cancel();
    }

    /// Cuts both directions.
    pub(crate) fn cut_both(&self, one: BrokerId, other: BrokerId) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Cuts a broker off from all of `others`.
    pub(crate) fn isolate(&self, broker: BrokerId, others: impl IntoIterator<Item = BrokerId>) {
        for other in others.into_iter().filter(|other| *other != broker) {
            self.cut_both(broker, other);
        }
    }

    /// Mends one direction.
    pub(crate) fn mend(&self, from: BrokerId, to: BrokerId) {
        let mut state = self.shared.state.lock();
        let link = state.links.entry((from, to)).or_default();
        if std::mem::take(&mut link.is_cut) {
            link.broken = CancellationToken::new();
        }
    }

    /// Mends all that was cut, and loses no calls any more.
    pub(crate) fn mend_all(&self) {
        let ends: Vec<_> = self.shared.state.lock().links.keys().copied().collect();
        for (from, to) in ends {
            self.mend(from, to);
            self.lose_calls(from, to, 0.0);
        }
    }

    /// Lets everything take so long on its way, each way, from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.state.lock().delay = delay;
    }

    /// Loses a share of the calls from one broker to another, between 0 and 1: of some the
    /// request, of others the reply.
    pub(crate) fn lose_calls(&self, from: BrokerId, to: BrokerId, share: f64) {
        let mut state = self.shared.state.lock();
        state.links.entry((from, to)).or_default().loss = share;
    }

    fn delay_now(&self) -> Duration {
        self.shared.state.lock().delay
    }

    /// Whether nothing passes that way.
    fn is_cut(&self, from: BrokerId, to: BrokerId) -> bool {
        let state = self.shared.state.lock();
        state.links.get(&(from, to)).is_some_and(|link| link.is_cut)
    }

    /// Cancelled when the way from one to the other is cut, or one of them stops.
    fn broken(&self, from: BrokerId, to: BrokerId) -> CancellationToken {
        let mut state = self.shared.state.lock();
        state.links.entry((from, to)).or_default().broken.clone()
    }

    fn draw_fate(&self, from: BrokerId, to: BrokerId) -> Fate {
        let mut state = self.shared.state.lock();
        let loss = state.links.entry((from, to)).or_default().loss;
        if !state.random.random_bool(loss) {
            Fate::Answered
        } else if state.random.random() {
            Fate::RequestLost
        } else {
            Fate::ReplyLost
        }
    }

    /// Who serves there, if a broker can send something there now.
    fn reach(
        &self,
        from: BrokerId,
        to: BrokerId,
        service: PeerService,
    ) -> Result<Arc<dyn PeerHandler>, PeerError> {
        if self.is_cut(from, to) {
            return Err(PeerError::unreachable(to, "the network is cut"));
        }
        let state = self.shared.state.lock();
        if let Some(handler) = state.handlers.get(&(to, service)) {
            return Ok(Arc::clone(handler));
        }
        if state.handlers.keys().any(|(broker, _)| *broker == to) {
            let reason = format!("{service:?} is not ready");
            return Err(PeerError::refused(to, reason));
        }
        Err(PeerError::unreachable(to, "it is not running"))
    }

    async fn call(
        self,
        from: BrokerId,
        to: BrokerId,
        service: PeerService,
        request: Bytes,
    ) -> Result<Bytes, PeerError> {
        if request.len() > CALL_BYTES_MAX {
            let reason = format!("a request of {} bytes is too large", request.len());
            return Err(PeerError::refused(to, reason));
        }
        let handler = self.reach(from, to, service)?;
        let way_there = self.broken(from, to);
        let way_back = self.broken(to, from);
        let fate = self.draw_fate(from, to);
        let travel = self.delay_now();
        // As over a real network, the other broker works on, whoever gives the reply up.
        let work = tokio::spawn(async move {
            tokio::time::sleep(travel).await;
            if fate == Fate::RequestLost || way_there.is_cancelled() {
                return Err(PeerError::lost(to, "the request was lost"));
            }
            let reply = handler.call(from, request).await;
            tokio::time::sleep(travel).await;
            if fate == Fate::ReplyLost || self.is_cut(to, from) {
                return Err(PeerError::lost(to, "the reply was lost"));
            }
            match reply {
                Ok(reply) if reply.len() > CALL_BYTES_MAX => {
                    let reason = format!("its reply of {} bytes is too large", reply.len());
                    Err(PeerError::refused(to, reason))
                }
                Ok(reply) => Ok(reply),
                Err(reason) => Err(PeerError::refused(to, reason)),
            }
        });
        tokio::select! {
            biased;
            reply = work => reply.unwrap_or_else(|_| {
                Err(PeerError::lost(to, "the handler panicked"))
            }),
            () = way_back.cancelled() => Err(PeerError::lost(to, "the network was cut")),
        }
    }

    fn open(
        &self,
        from: BrokerId,
        to: BrokerId,
        service: PeerService,
        head: Bytes,
    ) -> Result<PeerStream, PeerError> {
        let handler = self.reach(from, to, service)?;
        let (ours, theirs) = stream::pair(self, from, to);
        let travel = self.delay_now();
        tokio::spawn(async move {
            tokio::time::sleep(travel).await;
            handler.stream(from, head, theirs).await;
        });
        Ok(ours)
    }
}

/// The network as one broker sees it.
struct MemoryPeer {
    network: MemoryNetwork,
    broker: BrokerId,
}

impl PeerNetwork for MemoryPeer {
    fn call(
        &self,
        to: BrokerId,
        service: PeerService,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let network = self.network.clone();
        network.call(self.broker, to, service, request).boxed()
    }

    fn open(
        &self,
        to: BrokerId,
        service: PeerService,
        head: Bytes,
    ) -> BoxFuture<'static, Result<PeerStream, PeerError>> {
        let (network, from) = (self.network.clone(), self.broker);
        async move { network.open(from, to, service, head) }.boxed()
    }
}

impl fmt::Debug for MemoryPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryPeer({})", self.broker)
    }
}

/// The parts of a message as one, as they arrive.
fn joined(message: PeerMessage) -> PeerMessage {
    let PeerMessage { head, mut parts } = message;
    parts.retain(|part| !part.is_empty());
    if parts.len() > 1 {
        parts = vec![parts.concat().into()];
    }
    PeerMessage { head, parts }
}

#[cfg(test)]
mod tests;
