//! What brokers tell each other about themselves, a few times a second.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flumen_protocol::ids::{BrokerId, ShardId};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{behind::Behind, shard_steps::has_caught_up};
use crate::{
    peer::{PeerHandler, PeerNetwork, PeerService, PeerStream, encode},
    shards::Shards,
};

/// A broker that has told nothing for this long counts as unreachable.
pub(crate) const REPORT_AGE_MAX: Duration = Duration::from_secs(3);

/// How long a report may take to arrive.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// A broker on itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BrokerReport {
    /// Its software version.
    pub(crate) version: String,
    /// The shards that it leads.
    pub(crate) leads: Vec<LedShard>,
    /// The replicas that it has.
    pub(crate) replicas: Vec<ReplicaReport>,
    /// That it takes no records, or soon will not, or that nobody gets to it, and why.
    pub(crate) degraded: Option<String>,
    /// Those of its shards that have damaged files, open or not.
    pub(crate) damaged: Vec<ShardId>,
}

/// A shard on its leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LedShard {
    pub(crate) shard: ShardId,
    pub(crate) term: u64,
    /// The last entry of its log.
    pub(crate) last_index: u64,
    /// Up to where each replica has the log.
    pub(crate) matched: BTreeMap<BrokerId, u64>,
    /// Brokers that have a replica by Raft, voting or not.
    pub(crate) members: Vec<BrokerId>,
    /// Those of them that vote, or that did before a change which is not committed yet.
    pub(crate) voters: Vec<BrokerId>,
}

impl LedShard {
    /// How many entries a replica lacks, as far as the leader knows.
    pub(crate) fn lag(&self, replica: BrokerId) -> Option<u64> {
        let matched = self.matched.get(&replica)?;
        Some(self.last_index.saturating_sub(*matched))
    }

    /// Whether a majority of the voters has the log, without one of them. Those count that are
    /// `present`.
    pub(super) fn goes_on(&self, without: BrokerId, present: &BTreeSet<BrokerId>) -> bool {
        let ready = self.voters.iter().filter(|voter| {
            **voter != without && present.contains(voter) && has_caught_up(self.lag(**voter))
        });
        ready.count() > self.voters.len() / 2
    }
}

/// A replica on the broker that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicaReport {
    pub(crate) shard: ShardId,
    /// Up to where it has applied its log.
    pub(crate) applied_index: u64,
    pub(crate) partitions: u64,
    /// Records that were ever appended to its partitions.
    pub(crate) records: u64,
    /// Bytes of their batches.
    pub(crate) bytes: u64,
}

/// The last report of each other broker. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reports {
    shared: Arc<Shared>,
}

struct Shared {
    shards: RwLock<Option<Shards>>,
    heard: RwLock<BTreeMap<BrokerId, (Instant, BrokerReport)>>,
    behind: Mutex<Behind>,
}

impl Default for Reports {
    fn default() -> Self {
        let shared = Shared {
            shards: RwLock::new(None),
            heard: RwLock::default(),
            behind: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl Reports {
    /// From now on leaders that are heard of are passed on to `shards`.
    pub(super) fn attach(&self, shards: Shards) {
        *self.shared.shards.write() = Some(shards);
    }

    fn take(&self, from: BrokerId, report: BrokerReport) {
        if let Some(shards) = &*self.shared.shards.read() {
            for led in &report.leads {
                shards.leaders().note(led.shard, led.term, from);
            }
        }
        let heard = (Instant::now(), report);
        self.shared.heard.write().insert(from, heard);
    }

    /// Looks how far replicas are, `own` being what this broker, `me`, tells of itself.
    pub(super) fn look_at_progress(&self, me: BrokerId, own: &BrokerReport) {
        let heard = self.shared.heard.read();
        let fresh = heard
            .iter()
            .filter(|(_, (at, _))| at.elapsed() < REPORT_AGE_MAX);
        let mut reports: BTreeMap<_, _> = fresh.map(|(id, (_, report))| (*id, report)).collect();
        reports.insert(me, own);
        self.shared.behind.lock().look(&reports);
    }

    /// How many replicas of a broker have been behind their leaders for too long.
    pub(crate) fn behind(&self, broker: BrokerId) -> u32 {
        self.shared.behind.lock().count(broker)
    }

    /// The last report of a broker and its age.
    pub(crate) fn of(&self, broker: BrokerId) -> Option<(Duration, BrokerReport)> {
        let heard = self.shared.heard.read();
        let (at, report) = heard.get(&broker)?;
        Some((at.elapsed(), report.clone()))
    }

    /// Whether a broker was heard of lately.
    pub(crate) fn is_reachable(&self, broker: BrokerId) -> bool {
        let heard = self.shared.heard.read();
        heard
            .get(&broker)
            .is_some_and(|(at, _)| at.elapsed() < REPORT_AGE_MAX)
    }

    /// Whether a broker, which was heard of lately, has a replica of a shard that is open and
    /// that nothing is wrong with.
    pub(super) fn has_replica(&self, broker: BrokerId, shard: ShardId) -> bool {
        let heard = self.shared.heard.read();
        heard.get(&broker).is_some_and(|(at, report)| {
            let mut replicas = report.replicas.iter();
            at.elapsed() < REPORT_AGE_MAX
                && replicas.any(|replica| replica.shard == shard)
                && !report.damaged.contains(&shard)
        })
    }

    /// The leader of a shard, and what it told of it last.
    pub(super) fn led(&self, shard: ShardId) -> Option<(BrokerId, LedShard)> {
        let heard = self.shared.heard.read();
        let led = heard.iter().flat_map(|(broker, (_, report))| {
            let leads = report.leads.iter();
            leads.map(|led| (*broker, led))
        });
        let led = led.filter(|(_, led)| led.shard == shard);
        let (broker, led) = led.max_by_key(|(_, led)| led.term)?;
        Some((broker, led.clone()))
    }
}

impl PeerHandler for Reports {
    fn call(&self, from: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let report = postcard::from_bytes(&request);
        let taken = report.map(|report| self.take(from, report));
        let answer = taken.map(|()| Bytes::new()).map_err(|e| e.to_string());
        Box::pin(std::future::ready(answer))
    }

    fn stream(&self, _: BrokerId, _: Bytes, _: PeerStream) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl BrokerReport {
    /// Tells all others; who cannot be reached hears the next one.
    pub(super) async fn send(&self, network: &dyn PeerNetwork, to: Vec<BrokerId>) {
        let bytes = encode(self);
        let calls = to.into_iter().map(|broker| {
            let call = network.call(broker, PeerService::Status, bytes.clone());
            async move {
                match tokio::time::timeout(REPORT_TIMEOUT, call).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => tracing::trace!(%broker, %error, "report not delivered"),
                    Err(_) => tracing::trace!(%broker, "report not delivered in time"),
                }
            }
        });
        futures_util::future::join_all(calls).await;
    }
}
