//! The task that brings what is closer to what should be, on every broker.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use flumen_protocol::ids::{BrokerId, ShardId};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

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

/// How long the heir of a shard may take before another one may be asked.
const HAND_OVER_RETRY_AFTER: Duration = Duration::from_millis(200);

/// How long until the same heir is asked again. An heir that lacks an entry yet lets the request
/// pass, and meanwhile the leader takes no records: this is how long clients wait then.
const HAND_OVER_ASK_AGAIN_AFTER: Duration = Duration::from_millis(40);

/// How long to wait before a replica whose repair has failed is repaired again.
const REPAIR_RETRY_AFTER: Duration = Duration::from_secs(5);

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

/// What the steward remembers from round to round.
#[derive(Default)]
struct Memory {
    /// Since when this broker has led what it leads, and in which term.
    led_since: BTreeMap<ShardId, (u64, Instant)>,
    reported: Option<(Instant, Vec<(ShardId, u64)>)>,
    /// Steps under way, and the shards that they are of.
    steps: JoinSet<()>,
    busy: Arc<Mutex<BTreeSet<ShardId>>>,
}

/// A shard with a step under way; it ends with this, however that comes about.
struct Busy {
    shards: Arc<Mutex<BTreeSet<ShardId>>>,
    shard: ShardId,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shards.lock().remove(&self.shard);
    }
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
        shared.round(&mut memory).await;
    }
}

impl Shared {
    async fn round(self: &Arc<Self>, memory: &mut Memory) {
        while let Some(done) = memory.steps.try_join_next() {
            if let Err(error) = done {
                tracing::error!("a step of the steward has failed: {error}");
            }
        }
        let state = self.shards.catalog().snapshot();
        self.shards.set_clustered(state.brokers.len() > 1);
        self.open_replicas(&state).await;
        let views = self.views();
        self.repair_replicas(memory, &state, &views);
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

    async fn open_replicas(&self, state: &CatalogState) {
        for shard in state.shards_of(self.broker) {
            if let Err(error) = self.shards.open_replica(shard).await {
                tracing::error!(%shard, %error, "the replica does not open");
            }
        }
    }

    /// Begins to repair the replicas with damaged files that others have, too. One that is open
    /// must not lead any more first, and stays open while the others are no majority without it:
    /// what is whole of it is needed.
    fn repair_replicas(
        self: &Arc<Self>,
        memory: &mut Memory,
        state: &CatalogState,
        views: &BTreeMap<ShardId, GroupView>,
    ) {
        for shard in self.shards.with_damage() {
            let (Some(data), Some(view)) = (self.shards.data(shard), views.get(&shard)) else {
                continue;
            };
            let this = Arc::clone(self);
            if view.leads {
                memory.begin(shard, async move {
                    let handed = this.hand_over(shard, data.group());
                    if timeout(HAND_OVER_TIMEOUT, handed).await.is_err() || data.leads() {
                        tracing::warn!(%shard, "files are damaged, and no other broker can lead");
                        sleep(REPAIR_RETRY_AFTER).await;
                    }
                });
                continue;
            }
            let present = self.present(state, shard);
            let led = self
                .reports
                .led(shard)
                .filter(|(_, led)| led.term >= view.term);
            if led.is_some_and(|(_, led)| led.goes_on(self.broker, &present)) {
                memory.begin(shard, async move {
                    if let Err(error) = this.shards.close_damaged(shard).await {
                        tracing::error!(%shard, %error, "a damaged replica does not close");
                    }
                });
            }
        }
        for shard in self.shards.unrepaired() {
            let this = Arc::clone(self);
            memory.begin(shard, async move {
                if let Err(error) = this.shards.repair(shard).await {
                    tracing::error!(%shard, %error, "a damaged replica is not repaired");
                    sleep(REPAIR_RETRY_AFTER).await;
                }
            });
        }
    }

    /// Begins to give up the replicas that are elsewhere now, by the catalog and by their leader.
    /// Both may be old news: whether it is so is made sure of then.
    fn give_replicas_up(
        &self,
        memory: &mut Memory,
        state: &CatalogState,
        views: &BTreeMap<ShardId, GroupView>,
    ) {
        for (shard, view) in views {
            let placed = state.placement.get(shard);
            let placed = placed.is_none_or(|placed| placed.contains(&self.broker));
            if placed || *shard == CATALOG_SHARD || view.leads {
                continue;
            }
            let Some((leader, led)) = self.reports.led(*shard) else {
                continue;
            };
            let left = led.term >= view.term && !led.members.contains(&self.broker);
            let reachable = self.reports.is_reachable(leader);
            if !left || !reachable {
                continue;
            }
            let (shards, shard) = (self.shards.clone(), *shard);
            memory.begin(shard, async move {
                if let Err(error) = shards.give_replica_up(shard, leader).await {
                    tracing::error!(%shard, %error, "the replica, which is elsewhere now, is not removed");
                }
            });
        }
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
        let leads = led.map(|(shard, view)| led_shard(*shard, view));
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

    /// Those of the brokers that take no records.
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
        let step = catalog_steps::next_step(state, &view, &self.reachable(state));
        if step != Step::None {
            return self.take(memory, CATALOG_SHARD, step);
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

    /// Asks another voter to take each shard that this broker leads, and waits until it does.
    async fn hand_all_over(&self) {
        let data = self.shards.all_data();
        let data = data
            .iter()
            .map(|shard| self.hand_over(shard.id(), shard.group()));
        let catalog = self.hand_over(CATALOG_SHARD, self.shards.catalog().group());
        tokio::join!(join_all(data), catalog);
    }

    /// Returns when another broker leads the group, or none can.
    async fn hand_over(&self, shard: ShardId, group: &Group) {
        loop {
            let view = group.view();
            let others = view.voters.iter().filter(|voter| **voter != self.broker);
            // One that was not heard of may still be there; one that was is asked first.
            let best = others.filter_map(|voter| {
                let matched = view.matched.get(voter)?;
                let known = shard == CATALOG_SHARD || self.reports.has_replica(*voter, shard);
                Some((known, matched, *voter))
            });
            let Some((.., heir)) = best.max().filter(|_| view.leads) else {
                return;
            };
            let handed = ask_to_lead(group, &view, heir);
            if timeout(HAND_OVER_RETRY_AFTER, handed).await.is_err() {
                tracing::debug!(%heir, "a shard is not taken over yet");
            }
        }
    }
}

/// A shard that is led here.
fn led_shard(shard: ShardId, view: &GroupView) -> LedShard {
    LedShard {
        shard,
        term: view.term,
        last_index: view.last_index,
        matched: view.matched.clone(),
        members: view.voters.union(&view.learners).copied().collect(),
        voters: view.voters.iter().copied().collect(),
    }
}

/// Asks an heir until leader or term change. One that stands for election already takes no notice
/// of being asked again; another one would stand against it.
async fn ask_to_lead(group: &Group, view: &GroupView, heir: BrokerId) {
    loop {
        group.transfer_leadership(heir).await;
        let changed = timeout(HAND_OVER_ASK_AGAIN_AFTER, group.changed(view)).await;
        if changed.is_ok() {
            return;
        }
    }
}

impl Memory {
    /// Begins a step of a shard, unless one is under way.
    fn begin(&mut self, shard: ShardId, step: impl Future<Output = ()> + Send + 'static) {
        if self.busy.lock().insert(shard) {
            let busy = Busy {
                shards: Arc::clone(&self.busy),
                shard,
            };
            self.steps.spawn(async move {
                step.await;
                drop(busy);
            });
        }
    }

    fn note_leadership(&mut self, views: &BTreeMap<ShardId, GroupView>) {
        self.led_since.retain(|shard, (term, _)| {
            views.get(shard).is_some_and(|v| v.leads && v.term == *term)
        });
        for (shard, view) in views.iter().filter(|(_, view)| view.leads) {
            let since = (view.term, Instant::now());
            self.led_since.entry(*shard).or_insert(since);
        }
    }

    fn led_for(&self, shard: ShardId) -> Duration {
        let since = self.led_since.get(&shard);
        since.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }
}
