//! Which replicas stay behind.
//!
//! Under load every follower is a little behind its leader, always. What is wrong is one that does
//! not get to where the leader was a while ago, however little that is: it is stuck, or too slow.

use std::{collections::BTreeMap, time::Duration};

use flumen_protocol::ids::{BrokerId, ShardId};
use tokio::time::Instant;

use super::report::BrokerReport;
use crate::catalog::CATALOG_SHARD;

/// How long a replica may take to where its leader was; then it counts as behind.
pub(crate) const BEHIND_MAX: Duration = Duration::from_secs(30);

/// The replicas that were behind when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Behind {
    marks: BTreeMap<(BrokerId, ShardId), Mark>,
}

/// Where a replica has to get to.
#[derive(Debug)]
struct Mark {
    /// The entry that the leader had.
    index: u64,
    /// When that was.
    at: Instant,
}

impl Behind {
    /// Looks at the replicas that vote of all shards with a leader, by what brokers told last.
    pub(super) fn look(&mut self, reports: &BTreeMap<BrokerId, &BrokerReport>) {
        let now = Instant::now();
        let mut marks = std::mem::take(&mut self.marks);
        for (shard, at_leader, replicas) in positions(reports) {
            for (broker, index) in replicas {
                let before = marks.remove(&(broker, shard));
                let mark = match before {
                    _ if index >= at_leader => continue,
                    // It gets there later.
                    Some(mark) if index < mark.index => mark,
                    _ => Mark {
                        index: at_leader,
                        at: now,
                    },
                };
                self.marks.insert((broker, shard), mark);
            }
        }
    }

    /// How many replicas of a broker stay behind.
    pub(super) fn count(&self, broker: BrokerId) -> u32 {
        let replicas = self.marks.iter().filter(|((of, _), _)| *of == broker);
        let late = replicas.filter(|(_, mark)| mark.at.elapsed() > BEHIND_MAX);
        late.count() as u32
    }
}

/// A shard, how far its leader is, and how far the others are that vote.
type Positions = (ShardId, u64, Vec<(BrokerId, u64)>);

/// The positions of each shard that is led.
fn positions(reports: &BTreeMap<BrokerId, &BrokerReport>) -> Vec<Positions> {
    let mut led = BTreeMap::new();
    for (broker, report) in reports {
        for shard in &report.leads {
            let latest = led.entry(shard.shard).or_insert((*broker, shard));
            if latest.1.term < shard.term {
                *latest = (*broker, shard);
            }
        }
    }
    let position = |broker: &BrokerId, shard: ShardId| {
        let mut replicas = reports.get(broker)?.replicas.iter();
        let replica = replicas.find(|replica| replica.shard == shard);
        Some(replica.map_or(0, |replica| replica.applied_index))
    };
    let of_shard = |(shard, (leader, led)): (ShardId, (BrokerId, &super::LedShard))| {
        let others = led.voters.iter().filter(|voter| **voter != leader);
        if shard == CATALOG_SHARD {
            let here = others.filter(|voter| reports.contains_key(voter));
            let here = here.map(|voter| (*voter, led.matched.get(voter).copied().unwrap_or(0)));
            return Some((shard, led.last_index, here.collect()));
        }
        let at_leader = position(&leader, shard)?;
        let others = others.filter_map(|voter| Some((*voter, position(voter, shard)?)));
        Some((shard, at_leader, others.collect()))
    };
    led.into_iter().filter_map(of_shard).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::cluster::{LedShard, ReplicaReport};

    const LEADER: BrokerId = BrokerId(1);
    const FOLLOWER: BrokerId = BrokerId(2);
    const SHARD: ShardId = ShardId(3);

    fn report(applied_index: u64, leads: bool) -> BrokerReport {
        let led = LedShard {
            shard: SHARD,
            term: 1,
            last_index: applied_index,
            matched: BTreeMap::new(),
            members: vec![LEADER, FOLLOWER],
            voters: vec![LEADER, FOLLOWER],
        };
        BrokerReport {
            leads: leads.then_some(led).into_iter().collect(),
            replicas: vec![ReplicaReport {
                shard: SHARD,
                applied_index,
                partitions: 1,
                records: applied_index,
                bytes: applied_index,
            }],
            ..BrokerReport::default()
        }
    }

    /// Looks each second, at a leader and a follower that are so far by then; tells how many are
    /// behind in the end.
    async fn after(seconds: u64, at: impl Fn(u64) -> (u64, u64)) -> u32 {
        let mut behind = Behind::default();
        for second in 0..=seconds {
            let (leader, follower) = at(second);
            let (leader, follower) = (report(leader, true), report(follower, false));
            behind.look(&BTreeMap::from([(LEADER, &leader), (FOLLOWER, &follower)]));
            advance(Duration::from_secs(1)).await;
        }
        behind.count(FOLLOWER) + behind.count(LEADER)
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_lacks_a_single_entry_for_ever_is_behind_after_a_while() {
        assert_eq!(after(20, |_| (10, 9)).await, 0);
        assert_eq!(after(31, |_| (10, 9)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_always_a_moment_late_is_not() {
        let a_second_late = |second| (100 * (second + 1), 100 * second);
        assert_eq!(after(300, a_second_late).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_falls_back_further_and_further_is() {
        assert_eq!(after(300, |second| (100 * second, 50 * second)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gets_there_in_the_end_is_not_any_more() {
        let late = |second| (100, if second < 50 { 99 } else { 100 });
        assert_eq!(after(49, late).await, 1);
        assert_eq!(after(51, late).await, 0);
    }
}
