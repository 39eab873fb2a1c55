//! Telling the cluster where this broker is, by way of a broker that has found it there.
//!
//! ```text
//! this broker                        another member, the catalog's leader first
//!   ── Register: address ─────────────> dials the address: is it this broker?
//!                                       asks the catalog's leader what the catalog says
//!                                       proposes the address, unless that is it
//!   <──────────── Reached, or why not ──
//! ```
//!
//! The question travels over a connection that this broker has made: where the others know it by an
//! address that it has left, none of them reaches it. What its own replica of the catalog says does
//! not count, since that may be old: it may name the address of before a move that was made and
//! taken back. Where this broker leads the catalog, the others only try the address.
//!
//! An address that nobody can dial is not registered while the one before is still good: clients would
//! be sent there. Until it is, the broker is not ready. One other broker that gets there is enough, as
//! some ways may be cut. An address that no other broker gets to is told of in any case, and others
//! lead what the broker has, if they fare better.
//!
//! A try is advice, and a broker must be found all the same: what nobody was there to try, or nobody
//! knows how to, is taken as it is after a while; so is an address instead of one that is not good
//! either.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use flumen_protocol::{
    error::{ErrorCode, WireError},
    ids::BrokerId,
    message::BrokerInfo,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::node::{Node, remote};
use crate::{
    catalog::{Catalog, CatalogError},
    peer::Peers,
};

/// The rest before the others are asked again, when nobody could say anything.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The longest rest while none of them gets to this broker. Each attempt doubles it up to this.
const REST_MAX: Duration = Duration::from_secs(5);

/// A broker whom nobody answers for this long registers itself untried.
const UNANSWERED_MAX: Duration = Duration::from_secs(5);

/// Rounds in a row after which a broker that nobody gets to counts as unreachable: once, a busy
/// machine may not answer in time.
const FAILED_ROUNDS_MIN: u32 = 2;

/// Rounds in a row after which an address takes the place of one that some have tried in vain, though
/// others cannot be asked.
const FAILED_ROUNDS_MANY: u32 = 6;

/// How often a broker that is registered looks whether it still is.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long a member may take to dial an address that it was asked to try: as long as it would take for
/// itself, with a name to look up and several addresses of which the last is the right one.
const TRY_TIMEOUT: Duration = Duration::from_secs(6);

/// What came of it that a member dialed another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::node) enum Tried {
    /// The broker is there.
    Reached,
    /// It is not, or cannot be reached.
    Failed { reason: String },
}

/// What came of one round.
enum Outcome {
    Registered,
    /// Nobody who was asked gets to the address.
    Unreachable {
        reason: String,
        /// Whether it is registered all the same, as far as that can be told.
        is_known: Option<bool>,
    },
    /// Nobody could say.
    Unknown,
}

impl Node {
    /// Tells the cluster where this broker can be reached, from now on and for as long as it runs.
    /// Where there is no other broker, that is done on return.
    pub(in crate::node) async fn make_known(self: &Arc<Self>) {
        let (view, me) = (self.catalog.group().view(), self.shards.broker());
        if view.leads && view.voters == BTreeSet::from([me]) && view.learners.is_empty() {
            match register(&self.catalog, self.info()).await {
                Ok(()) => self.note_registered(),
                Err(error) => tracing::debug!(%error, "this broker is not registered yet"),
            }
        }
        self.in_background(keep_known(Arc::downgrade(self)));
    }

    /// Tries the address that another broker gives as its own, and registers it if it is there.
    pub(in crate::node) async fn register_other(
        &self,
        broker: BrokerInfo,
    ) -> Result<Tried, WireError> {
        let tried = self.try_address(broker.id, &broker.address).await;
        if tried == Tried::Reached {
            register(&self.catalog, broker).await?;
        }
        Ok(tried)
    }

    /// Why this broker is not reached, if others have said so.
    fn not_reached(&self) -> String {
        let reason = self.shards.unreachable();
        reason.map_or_else(String::new, |reason| format!(": it {reason}"))
    }

    /// Tries whether a broker is at an address.
    pub(in crate::node) async fn try_address(&self, broker: BrokerId, address: &str) -> Tried {
        let tried = timeout(TRY_TIMEOUT, self.peers.try_address(broker, address)).await;
        let in_time = tried.unwrap_or_else(|_| Err(format!("no answer within {TRY_TIMEOUT:?}")));
        match in_time {
            Ok(()) => Tried::Reached,
            Err(reason) => Tried::Failed { reason },
        }
    }

    /// Why nobody should be sent here yet, if so.
    pub(in crate::node) fn unregistered(&self) -> Option<String> {
        (!self.registered.load(Ordering::Relaxed)).then(|| {
            format!(
                "the cluster does not know yet that this broker is at {}{}",
                self.address.read(),
                self.not_reached()
            )
        })
    }

    fn note_registered(&self) {
        self.registered.store(true, Ordering::Relaxed);
        if self.shards.set_unreachable(None).is_some() {
            let address = &*self.address.read();
            tracing::info!(address, "the other brokers reach this one at its address");
        }
    }

    fn note_unreachable(&self, reason: &str) {
        let address = &*self.address.read();
        let text = format!("cannot be reached at its address {address}: {reason}; {WHAT_TO_CHECK}");
        let before = self.shards.set_unreachable(Some(text));
        if before.is_none() {
            tracing::error!(
                address,
                reason,
                "no other broker reaches this one at its address, and clients may not either: where \
                 others are reached, they lead what it has; {WHAT_TO_CHECK}"
            );
        }
    }

    fn info(&self) -> BrokerInfo {
        BrokerInfo {
            id: self.identity.broker_id(),
            address: self.address.read().clone(),
            zone: self.zone.clone(),
        }
    }

    /// Whether there is a sign that the others know this broker by another address.
    fn is_misplaced(&self) -> bool {
        let state = self.catalog.snapshot();
        let known = state.brokers.get(&self.identity.broker_id());
        known.is_some_and(|known| *known != self.info()) || self.leaderless().is_some()
    }
}

/// What an operator looks at when nobody gets to a broker.
const WHAT_TO_CHECK: &str =
    "check --advertise, the port mapping, and that firewalls let UDP through";

/// Goes on while the node is there. An answer may take long: the node must not be kept by it.
async fn keep_known(node: Weak<Node>) {
    let mut rest = RETRY_AFTER;
    let mut failed_rounds = 0;
    let mut unanswered_since = Instant::now();
    loop {
        let Some(strong) = node.upgrade() else { return };
        let is_settled = failed_rounds == 0
            && strong.unregistered().is_none()
            && strong.shards.unreachable().is_none()
            && !strong.is_misplaced();
        let registration = Registration {
            broker: strong.info(),
            catalog: strong.catalog.clone(),
            peers: strong.peers.clone(),
        };
        drop(strong);
        if is_settled {
            unanswered_since = Instant::now();
            rest = RETRY_AFTER;
            sleep(LOOK_INTERVAL).await;
            continue;
        }
        let untried = unanswered_since.elapsed() >= UNANSWERED_MAX;
        let outcome = registration.round(untried, failed_rounds).await;
        drop(registration);
        let Some(strong) = node.upgrade() else { return };
        match outcome {
            Outcome::Registered => {
                strong.note_registered();
                failed_rounds = 0;
                // What else is amiss is not mended by the same again and again.
                rest = (rest * 2).min(REST_MAX);
            }
            Outcome::Unreachable { reason, is_known } => {
                unanswered_since = Instant::now();
                failed_rounds += 1;
                if let Some(is_known) = is_known {
                    strong.registered.store(is_known, Ordering::Relaxed);
                }
                if failed_rounds >= FAILED_ROUNDS_MIN {
                    strong.note_unreachable(&reason);
                    rest = (rest * 2).min(REST_MAX);
                }
            }
            Outcome::Unknown => rest = RETRY_AFTER,
        }
        drop(strong);
        sleep(rest).await;
    }
}

/// Makes sure that the catalog has a broker as it is. What the catalog here says counts only once it
/// has caught up with its leader.
async fn register(catalog: &Catalog, broker: BrokerInfo) -> Result<(), CatalogError> {
    catalog.catch_up().await?;
    if catalog.snapshot().brokers.get(&broker.id) == Some(&broker) {
        return Ok(());
    }
    catalog.register_broker(broker).await
}

/// What a round needs.
struct Registration {
    broker: BrokerInfo,
    catalog: Catalog,
    peers: Peers,
}

impl Registration {
    /// Asks the others once, after so many rounds in which nobody got to the address. If `untried`, the
    /// broker is registered also if nobody answers.
    async fn round(&self, untried: bool, failed_rounds: u32) -> Outcome {
        let leader = self.catalog.group().view();
        if leader.leads && self.catalog.catch_up().await.is_ok() {
            return self.as_leader(untried, failed_rounds).await;
        }
        let mut others = self.others();
        others.sort_by_key(|other| Some(*other) != leader.leader);
        let mut failed = None;
        for other in others {
            match remote::register(&self.peers, other, &self.broker).await {
                Ok(Tried::Reached) => return Outcome::Registered,
                Ok(Tried::Failed { reason }) => failed = Some(reason_from(other, &reason)),
                Err(error) => {
                    tracing::debug!(%other, %error, "this broker is not registered yet");
                }
            }
        }
        match failed {
            Some(reason) => self.unreachable(reason, failed_rounds).await,
            None if untried => self.register().await,
            None => Outcome::Unknown,
        }
    }

    /// Nobody gets to the address. If it is registered already, or the one that is leads nowhere
    /// either, it is to be.
    async fn unreachable(&self, reason: String, failed_rounds: u32) -> Outcome {
        let is_known = match self.known_address().await {
            Some(known)
                if known == self.broker.address
                    || self.leads_nowhere(&known, failed_rounds).await =>
            {
                // Its zone may have changed, though its address has not.
                Some(matches!(self.register().await, Outcome::Registered))
            }
            Some(_) => Some(false),
            None => None,
        };
        Outcome::Unreachable { reason, is_known }
    }

    /// The address that the catalog's leader has, empty if it has none; `None` if that is not known.
    async fn known_address(&self) -> Option<String> {
        self.catalog.catch_up().await.ok()?;
        let state = self.catalog.snapshot();
        let known = state.brokers.get(&self.broker.id);
        Some(known.map_or_else(String::new, |known| known.address.clone()))
    }

    /// Whether others have tried an address in vain. Who cannot be asked may be the one that gets
    /// there, and is waited for, but not for ever.
    async fn leads_nowhere(&self, address: &str, failed_rounds: u32) -> bool {
        if failed_rounds + 1 < FAILED_ROUNDS_MIN {
            return false;
        }
        let tries = self.others().into_iter();
        let tries = tries.map(|other| remote::try_address(&self.peers, other, address));
        let tries: FuturesUnordered<_> = tries.collect();
        let tries: Vec<_> = tries.collect().await;
        let failed = |tried: &Result<_, _>| matches!(tried, Ok(Tried::Failed { .. }));
        let reached = |tried: &Result<_, _>| matches!(tried, Ok(Tried::Reached));
        if failed_rounds < FAILED_ROUNDS_MANY {
            !tries.is_empty() && tries.iter().all(failed)
        } else {
            tries.iter().any(failed) && !tries.iter().any(reached)
        }
    }

    async fn register(&self) -> Outcome {
        match register(&self.catalog, self.broker.clone()).await {
            Ok(()) => Outcome::Registered,
            Err(error) => {
                tracing::debug!(%error, "this broker is not registered yet");
                Outcome::Unknown
            }
        }
    }

    async fn as_leader(&self, untried: bool, failed_rounds: u32) -> Outcome {
        let others = self.others();
        let is_alone = others.is_empty();
        let mut failed = None;
        let asked = others.into_iter().map(|other| {
            let tried = remote::try_address(&self.peers, other, &self.broker.address);
            async move { (other, tried.await) }
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        while let Some((other, tried)) = asked.next().await {
            match tried {
                Ok(Tried::Reached) => return self.register().await,
                Ok(Tried::Failed { reason }) => failed = Some(reason_from(other, &reason)),
                Err(error) => tracing::debug!(%other, %error, "it does not try the address"),
            }
        }
        match failed {
            Some(reason) => self.unreachable(reason, failed_rounds).await,
            None if is_alone || untried => self.register().await,
            None => Outcome::Unknown,
        }
    }

    /// All who may be there: the network may not know yet whom the catalog knows.
    fn others(&self) -> Vec<BrokerId> {
        let state = self.catalog.snapshot();
        let linked = self.peers.round_trips().into_iter().map(|(other, _)| other);
        let mut others: BTreeSet<_> = state.brokers.keys().copied().chain(linked).collect();
        others.remove(&self.broker.id);
        others.into_iter().collect()
    }
}

fn reason_from(other: BrokerId, reason: &str) -> String {
    format!("broker {other} has tried it: {reason}")
}

/// Whether a broker speaks for itself.
pub(in crate::node) fn check_own_address(
    from: BrokerId,
    broker: &BrokerInfo,
) -> Result<(), WireError> {
    if from == broker.id {
        return Ok(());
    }
    let text = format!("broker {from} cannot register broker {}", broker.id);
    Err(WireError::new(ErrorCode::InvalidRequest, text))
}
