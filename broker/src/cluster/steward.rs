//! The task that brings what is closer to what should be, on every broker.

mod hand_over;
mod memory;
mod replicas;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flumen_protocol::ids::{BrokerId, ShardId};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::memory::Memory;
use super::{
    catalog_steps,
    report::{BrokerReport, LedShard, ReplicaReport, Reports},
    shard_steps::{Situation, Step},
};
use crate::{
    catalog::{CATALOG_SHARD, CatalogState},
    peer::PeerNetwork,
    shard::raft::{Group, GroupView},
    shards::Shards,
};

/// How often a steward looks at everything.
const ROUND: Duration = Duration::from_millis(200);

/// How often the others are told even if nothing has changed.
const REPORT_INTERVAL: Duration = Duration::from_millis(600);

/// How long one change of members may take before the steward looks again.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a broker that stops waits for others to lead its shards.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks after a broker's part of the cluster until it is stopped.
pub(crate) struct Steward {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    broker: BrokerId,
    shards: Shards,
    network: Arc<dyn PeerNetwork>,
    reports: Reports,
    stopping: CancellationToken,
}

impl Steward {
    /// Starts to look after the shards of a broker.
    pub(crate) fn start(shards: Shards, network: Arc<dyn PeerNetwork>, reports: Reports) -> Self {
        reports.attach(shards.clone());
        let shared = Arc::new(Shared {
            broker: shards.broker(),
            shards,
            network,
            reports,
            stopping: CancellationToken::new(),
        });
        let task = tokio::spawn(run(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// What this broker tells the others about itself.
    pub(crate) fn own_report(&self) -> BrokerReport {
        self.shared.own_report(&self.shared.views())
    }

    /// Ends it at once, as if the process had been killed.
    #[cfg(test)]
    pub(crate) fn abort(self) {
        self.task.abort();
    }

    /// Hands what this broker leads to others, waits until they do lead, and stops. Without
    /// others, it only stops.
    pub(crate) async fn stop(self) {
        self.shared.stopping.cancel();
        if let Err(error) = self.task.await {
            tracing::error!("the steward has failed: {error}");
        }
        let handed = timeout(HAND_OVER_TIMEOUT, self.shared.hand_all_over()).await;
        if handed.is_err() {
            tracing::warn!("some shards still had no other leader after {HAND_OVER_TIMEOUT:?}");
        }
    }
}

async fn run(shared: Arc<Shared>) {
    let mut memory = Memory::default();
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut catalog = shared.shards.catalog().watch();
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            _ = round.tick() => {}
            changed = catalog.changed() => if changed.is_err() {
                return;
            },
        }
        shared.round(&mut memory);
    }
}

impl Shared {
    /// Waits for nothing: what takes time is a step, and others have to hear of this broker
    /// meanwhile.
    fn round(self: &Arc<Self>, memory: &mut Memory) {
        while let Some(done) = memory.steps.try_join_next() {
            if let Err(error) = done {
                tracing::error!("a step of the steward has failed: {error}");
            }
        }
        let state = self.shards.catalog().snapshot();
        self.shards.set_clustered(state.brokers.len() > 1);
        self.open_replicas(memory, &state);
        let views = self.views();
        self.repair_replicas(memory, &state, &views);
        self.apply_vouched(memory);
        memory.note_leadership(&views);
        self.report(memory, &state, &views);
        if state.brokers.len() > 1 {
            self.look_after_shards(memory, &state, &views);
            self.look_after_catalog(memory, &state);
            self.give_replicas_up(memory, &state, &views);
        }
    }

    fn views(&self) -> BTreeMap<ShardId, GroupView> {
        let data = self.shards.all_data();
        let data = data.iter().map(|shard| (shard.id(), shard.group().view()));
        data.chain([(CATALOG_SHARD, self.shards.catalog().group().view())])
            .collect()
    }

    fn report(
        &self,
        memory: &mut Memory,
        state: &CatalogState,
        views: &BTreeMap<ShardId, GroupView>,
    ) {
        let others = state.brokers.keys().copied();
        let others: Vec<_> = others.filter(|broker| *broker != self.broker).collect();
        if others.is_empty() {
            return;
        }
        let led = views.iter().filter(|(_, view)| view.leads);
        let leading: Vec<_> = led.map(|(shard, view)| (*shard, view.term)).collect();
        let is_due = memory
            .reported
            .as_ref()
            .is_none_or(|(at, reported)| at.elapsed() >= REPORT_INTERVAL || *reported != leading);
        if !is_due {
            return;
        }
        memory.reported = Some((Instant::now(), leading));
        let report = self.own_report(views);
        self.reports.look_at_progress(self.broker, &report);
        let network = Arc::clone(&self.network);
        tokio::spawn(async move { report.send(&*network, others).await });
    }

    fn own_report(&self, views: &BTreeMap<ShardId, GroupView>) -> BrokerReport {
        let led = views.iter().filter(|(_, view)| view.leads);
        let leads = led.map(|(shard, view)| led_shard(*shard, view, self.applied_voters(*shard)));
        let data = self.shards.all_data();
        let replicas = data.iter().map(|shard| {
            let appended = shard.appended();
            ReplicaReport {
                shard: shard.id(),
                applied_index: shard.group().applied_index(),
                partitions: appended.partitions,
                records: appended.records,
                bytes: appended.bytes,
            }
        });
        let mut damaged = self.shards.unrepaired();
        damaged.extend(self.shards.with_damage());
        BrokerReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leads: leads.collect(),
            replicas: replicas.collect(),
            degraded: self.shards.degraded(),
            damaged: damaged.into_iter().collect(),
        }
    }

    /// Who votes on a shard as of the last entry that is applied here, which is committed.
    fn applied_voters(&self, shard: ShardId) -> BTreeSet<BrokerId> {
        if shard == CATALOG_SHARD {
            return self.shards.catalog().group().applied_voters();
        }
        let data = self.shards.data(shard);
        data.map(|data| data.group().applied_voters())
            .unwrap_or_default()
    }

    fn look_after_shards(
        self: &Arc<Self>,
        memory: &mut Memory,
        state: &CatalogState,
        views: &BTreeMap<ShardId, GroupView>,
    ) {
        let degraded = self.degraded(&self.reachable(state));
        for (shard, wanted) in &state.placement {
            let Some(view) = views.get(shard).filter(|view| view.leads) else {
                continue;
            };
            let step = Situation {
                broker: self.broker,
                view,
                wanted,
                led_for: memory.led_for(*shard),
                present: &self.present(state, *shard),
                degraded: &degraded,
            }
            .next_step();
            self.take(memory, *shard, step);
        }
    }

    /// Those of the brokers that take no records, or that nobody gets to.
    fn degraded(&self, brokers: &BTreeSet<BrokerId>) -> BTreeSet<BrokerId> {
        let is_degraded = |broker: &BrokerId| {
            if *broker == self.broker {
                return self.shards.degraded().is_some();
            }
            let report = self.reports.of(*broker);
            report.is_some_and(|(_, report)| report.degraded.is_some())
        };
        brokers.iter().copied().filter(is_degraded).collect()
    }

    fn reachable(&self, state: &CatalogState) -> BTreeSet<BrokerId> {
        let brokers = state.brokers.keys().copied();
        brokers
            .filter(|broker| *broker == self.broker || self.reports.is_reachable(*broker))
            .collect()
    }

    /// Those that have a replica of a data shard that nothing is wrong with.
    fn present(&self, state: &CatalogState, shard: ShardId) -> BTreeSet<BrokerId> {
        let brokers = state.brokers.keys().copied();
        brokers
            .filter(|broker| *broker == self.broker || self.reports.has_replica(*broker, shard))
            .collect()
    }

    fn look_after_catalog(self: &Arc<Self>, memory: &mut Memory, state: &CatalogState) {
        let view = self.shards.catalog().group().view();
        if !view.leads {
            return;
        }
        let reachable = self.reachable(state);
        let step = catalog_steps::next_step(state, &view, &reachable);
        if step != Step::None {
            return self.take(memory, CATALOG_SHARD, step);
        }
        // Others could not pass on to it what clients ask them for.
        if self.shards.unreachable().is_some()
            && let Some(heir) = catalog_steps::heir(&view, &reachable, &self.degraded(&reachable))
        {
            return self.take(memory, CATALOG_SHARD, Step::TransferLeadership(heir));
        }
        let replaced = catalog_steps::replaced(state);
        if replaced.is_empty() {
            return;
        }
        let catalog = self.shards.catalog().clone();
        memory.begin(CATALOG_SHARD, async move {
            let placed = timeout(STEP_TIMEOUT, catalog.place(replaced)).await;
            if let Ok(Err(error)) = placed {
                tracing::warn!(%error, "the replicas of shards were not placed anew");
            }
        });
    }

    /// Begins a step, unless one of the shard is under way.
    fn take(self: &Arc<Self>, memory: &mut Memory, shard: ShardId, step: Step) {
        if step == Step::None {
            return;
        }
        let this = Arc::clone(self);
        memory.begin(shard, async move {
            tracing::debug!(%shard, ?step, "replicas change");
            this.carry_out(shard, step).await;
        });
    }

    async fn carry_out(&self, shard: ShardId, step: Step) {
        if shard == CATALOG_SHARD {
            // Who votes no longer on the catalog still has it.
            self.carry_out_on(self.shards.catalog().group(), step, true)
                .await;
        } else if let Some(data) = self.shards.data(shard) {
            self.carry_out_on(data.group(), step, false).await;
        }
    }

    async fn carry_out_on(&self, group: &Group, step: Step, keep_members: bool) {
        let done = async {
            match step {
                Step::None => Ok(()),
                Step::AddLearners(brokers) => group.add_learners(&self.addressed(brokers)).await,
                Step::SetVoters(voters) => group.set_voters(&voters, keep_members).await,
                Step::RemoveLearners(brokers) => group.remove_learners(&brokers).await,
                Step::TransferLeadership(to) => {
                    group.transfer_leadership(to).await;
                    Ok(())
                }
            }
        };
        match timeout(STEP_TIMEOUT, done).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the next round tries again"),
            Err(_) => tracing::debug!("a change of replicas takes longer than {STEP_TIMEOUT:?}"),
        }
    }

    fn addressed(&self, brokers: BTreeSet<BrokerId>) -> BTreeMap<BrokerId, String> {
        let state = self.shards.catalog().snapshot();
        let address = |broker: &BrokerId| {
            let info = state.brokers.get(broker);
            info.map(|info| info.address.clone()).unwrap_or_default()
        };
        let brokers = brokers.into_iter();
        brokers.map(|broker| (broker, address(&broker))).collect()
    }
}

/// A shard that is led here. A leader goes by its newest entry that tells of voters, committed or
/// not; whoever is told of them stops a broker that is none. So those of the last entry that is
/// applied count, too: until the change is committed, their votes may be needed.
fn led_shard(shard: ShardId, view: &GroupView, applied_voters: BTreeSet<BrokerId>) -> LedShard {
    let mut voters = applied_voters;
    voters.extend(&view.voters);
    LedShard {
        shard,
        term: view.term,
        last_index: view.last_index,
        matched: view.matched.clone(),
        members: voters.union(&view.learners).copied().collect(),
        voters: voters.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_votes_until_it_is_committed_that_it_does_not() {
        let brokers = |ids: &[u64]| ids.iter().copied().map(BrokerId).collect::<BTreeSet<_>>();
        let view = GroupView {
            voters: brokers(&[2, 3]),
            learners: brokers(&[1]),
            ..GroupView::default()
        };
        let all: Vec<_> = brokers(&[1, 2, 3]).into_iter().collect();
        let uncommitted = led_shard(CATALOG_SHARD, &view, brokers(&[1, 2, 3]));
        assert_eq!((&uncommitted.voters, &uncommitted.members), (&all, &all));
        let committed = led_shard(CATALOG_SHARD, &view, brokers(&[2, 3]));
        assert_eq!(committed.voters, [BrokerId(2), BrokerId(3)]);
        assert_eq!(committed.members, all);
    }
}
