//! What is wrong with a cluster, from its status.

use super::{BrokerOverview, BrokerState, ClusterStatus, ShardOverview};
use crate::{ids::BrokerId, size::Size};

/// Bytes that a copy may be behind its leader and still count as in step: what is on its way
/// under load is no defect.
pub const IN_STEP_LAG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Brokers that vote on the catalog at most. All have it.
const CATALOG_VOTERS_MAX: usize = 5;

/// Copies that most clusters should have.
const REPLICAS_USUAL: usize = 3;

/// How many of the brokers that may have replicas should vote on the catalog. An odd number: an
/// even one may lose no more than the odd one below it. But of two both, if shards should have
/// copies: what is acknowledged is then on both.
#[must_use]
pub fn catalog_voters(brokers: usize, replication_factor: usize) -> usize {
    match brokers {
        2 if replication_factor > 1 => 2,
        _ => (brokers.saturating_sub(1) | 1).min(CATALOG_VOTERS_MAX),
    }
}

impl ClusterStatus {
    /// What is wrong, a sentence each; nothing when the cluster is healthy. A broker that is
    /// drained and replicas that move are no defects.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.leaderless(&mut problems);
        for broker in &self.brokers {
            if broker.state == BrokerState::Removed {
                continue;
            }
            if !broker.reachable {
                problems.push(format!("broker {broker} cannot be reached"));
            }
            if let Some(reason) = &broker.degraded {
                problems.push(format!("broker {broker} {reason}"));
            }
            if broker.damaged_shards > 0 {
                let shards = counted(broker.damaged_shards, "shard");
                problems.push(format!("broker {broker} has damaged files: {shards}"));
            }
        }
        self.incomplete(&mut problems);
        self.behind(&mut problems);
        problems
    }

    fn leaderless(&self, problems: &mut Vec<String>) {
        let leaderless = self.shards.iter().filter(|shard| shard.leader.is_none());
        let (catalog, data): (Vec<_>, Vec<_>) = leaderless.partition(|shard| shard.id.0 == 0);
        if let Some(problem) = self.without_majority() {
            problems.push(problem);
        } else if !catalog.is_empty() {
            problems.push("the catalog has no leader: nothing can be changed".to_owned());
        }
        if !data.is_empty() {
            let shards = counted(data.len(), "shard");
            let partitions: u64 = data.iter().map(|shard| shard.partitions).sum();
            let partitions = counted(partitions, "partition");
            problems.push(format!("no leader: {shards} with {partitions}"));
        }
    }

    /// So few of those that vote on the catalog can be reached that nothing can be decided.
    fn without_majority(&self) -> Option<String> {
        let catalog = self.shards.iter().find(|shard| shard.id.0 == 0)?;
        let is_reachable = |id: BrokerId| self.broker(id).is_some_and(|broker| broker.reachable);
        let voters = catalog.voters();
        let votes = catalog.replicas.iter().filter(|replica| replica.voter);
        let reachable = votes.filter(|vote| is_reachable(vote.broker)).count();
        (reachable <= voters / 2 && voters > 0).then(|| {
            format!(
                "no majority: {} of the {} that vote on the catalog cannot be reached, and nothing \
                 can be changed until more of them can",
                voters - reachable,
                counted(voters, "broker")
            )
        })
    }

    /// Shards with fewer copies that count than they should have.
    fn incomplete(&self, problems: &mut Vec<String>) {
        let factor = self.replication_factor as usize;
        let is_active = |broker: &&BrokerOverview| broker.state == BrokerState::Active;
        let active = self.brokers.iter().filter(is_active).count();
        let (catalog, data): (Vec<_>, Vec<_>) =
            self.shards.iter().partition(|shard| shard.id.0 == 0);
        let voters = catalog_voters(active, factor);
        if catalog.iter().any(|shard| shard.voters() < voters) {
            let voters = counted(voters, "complete replica");
            problems.push(format!("fewer than {voters} that vote: the catalog"));
        }
        let count = data.iter().filter(|shard| shard.voters() < factor).count();
        if count > 0 {
            let shards = counted(count, "shard");
            let replicas = counted(factor, "complete replica");
            let hint = if active < factor {
                format!(
                    "; only {} may have some: add one, or lower it by `flumen cluster \
                     replication-factor`",
                    counted(active, "broker")
                )
            } else {
                String::new()
            };
            problems.push(format!("fewer than {replicas}: {shards}{hint}"));
        }
    }

    /// Whether any shard but the catalog has fewer copies that count than it should have.
    #[must_use]
    pub fn lacks_replicas(&self) -> bool {
        let factor = self.replication_factor as usize;
        let mut data = self.shards.iter().filter(|shard| shard.id.0 != 0);
        data.any(|shard| shard.voters() < factor)
    }

    /// What is as it was told to be, and yet not safe.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let is_member = |broker: &&BrokerOverview| broker.state != BrokerState::Removed;
        let members = self.brokers.iter().filter(is_member).count();
        if self.replication_factor == 1 && members > 1 {
            return vec![format!(
                "each record is on one of the {members} brokers only, and lost with it; `flumen \
                 cluster replication-factor {}` makes copies; only with three or more may a broker \
                 fail without a pause",
                members.min(REPLICAS_USUAL),
            )];
        }
        Vec::new()
    }

    /// Copies that are far behind, or behind for long.
    fn behind(&self, problems: &mut Vec<String>) {
        for broker in &self.brokers {
            let is_used = broker.reachable && broker.state != BrokerState::Removed;
            if is_used && broker.lag_bytes > IN_STEP_LAG_BYTES_MAX {
                let lag = Size(broker.lag_bytes);
                problems.push(format!("broker {broker} is {lag} behind"));
            } else if is_used && broker.behind_shards > 0 {
                let shards = counted(broker.behind_shards, "shard");
                problems.push(format!("broker {broker} stays behind: {shards}"));
            }
        }
    }

    /// The broker of that id.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerOverview> {
        self.brokers.iter().find(|broker| broker.id == id)
    }
}

impl ShardOverview {
    /// Copies that count for a majority.
    fn voters(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.voter).count()
    }
}

impl BrokerOverview {
    /// Whether it was drained, and nothing is left on it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.state == BrokerState::Draining && self.leaders == 0 && self.replicas == 0
    }
}

impl std::fmt::Display for BrokerOverview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.id, self.address)
    }
}

fn counted(count: impl TryInto<u64>, noun: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::ShardId,
        message::{ReplicaStatus, cluster::sample},
    };

    #[test]
    fn a_cluster_that_is_complete_and_in_step_is_healthy() {
        let mut status = sample(3);
        assert_eq!(status.problems(), Vec::<String>::new());
        status.brokers[0].state = BrokerState::Draining;
        status.brokers[0].lag_bytes = IN_STEP_LAG_BYTES_MAX;
        status.moves_left = 7;
        assert_eq!(status.problems(), Vec::<String>::new());
    }

    #[test]
    fn each_defect_is_named_with_what_it_concerns() {
        let mut status = sample(3);
        status.brokers[1].reachable = false;
        status.brokers[2].degraded = Some("takes no records: the disk is full".to_owned());
        status.brokers[2].lag_bytes = 1 << 30;
        status.brokers[0].damaged_shards = 2;
        status.brokers[0].behind_shards = 1;
        status.shards[0].leader = None;
        status.shards[2].leader = None;
        status.shards[2].partitions = 500;
        status.shards[1].replicas[0].voter = false;
        assert_eq!(
            status.problems(),
            [
                "the catalog has no leader: nothing can be changed",
                "no leader: 1 shard with 500 partitions",
                "broker 1 (broker-1:4650) has damaged files: 2 shards",
                "broker 2 (broker-2:4650) cannot be reached",
                "broker 3 (broker-3:4650) takes no records: the disk is full",
                "fewer than 3 complete replicas: 1 shard",
                "broker 1 (broker-1:4650) stays behind: 1 shard",
                "broker 3 (broker-3:4650) is 1 GiB behind",
            ]
        );
    }

    #[test]
    fn a_majority_that_cannot_be_reached_is_said_once_for_the_catalog() {
        let mut status = sample(3);
        status.brokers[0].reachable = false;
        status.shards[0].leader = None;
        assert_eq!(
            status.problems()[0],
            "the catalog has no leader: nothing can be changed"
        );
        status.brokers[2].reachable = false;
        assert_eq!(
            status.problems(),
            [
                "no majority: 2 of the 3 brokers that vote on the catalog cannot be reached, and \
                 nothing can be changed until more of them can",
                "broker 1 (broker-1:4650) cannot be reached",
                "broker 3 (broker-3:4650) cannot be reached",
            ]
        );
    }

    #[test]
    fn an_odd_number_votes_on_the_catalog_but_both_of_two_that_keep_copies() {
        let voters = |factor| [1, 2, 3, 4, 5, 6, 9].map(|brokers| catalog_voters(brokers, factor));
        assert_eq!(voters(1), [1, 1, 3, 3, 5, 5, 5]);
        assert_eq!(voters(3), [1, 2, 3, 3, 5, 5, 5]);
    }

    #[test]
    fn single_copies_are_warned_of_with_the_command_that_makes_more() {
        let mut status = sample(3);
        assert_eq!(status.warnings(), Vec::<String>::new());
        status.replication_factor = 1;
        let warnings = status.warnings();
        assert!(
            warnings[0].contains("one of the 3 brokers only"),
            "{warnings:?}"
        );
        assert!(
            warnings[0].contains("replication-factor 3`"),
            "{warnings:?}"
        );
        status.brokers[0].state = BrokerState::Removed;
        assert!(status.warnings()[0].contains("replication-factor 2`"));
        status.brokers[1].state = BrokerState::Removed;
        assert_eq!(status.warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_removed_broker_is_no_defect() {
        let mut status = sample(3);
        status.brokers[0].reachable = false;
        status.brokers[0].state = BrokerState::Removed;
        assert_eq!(status.problems(), Vec::<String>::new());
    }

    #[test]
    fn a_broker_is_drained_once_nothing_is_left_on_it() {
        let mut broker = sample(1).brokers.remove(0);
        broker.state = BrokerState::Draining;
        assert!(!broker.is_drained());
        (broker.leaders, broker.replicas) = (0, 0);
        assert!(broker.is_drained());
        broker.state = BrokerState::Active;
        assert!(!broker.is_drained());
    }

    #[test]
    fn copies_that_do_not_count_yet_leave_a_shard_incomplete() {
        let mut status = sample(2);
        status.shards[1].replicas.push(ReplicaStatus {
            broker: BrokerId(9),
            voter: false,
            lag_entries: None,
            lag_records: 0,
            lag_bytes: 0,
        });
        assert_eq!(status.shards[1].id, ShardId(1));
        assert_eq!(status.problems(), Vec::<String>::new());
        status.replication_factor = 3;
        assert_eq!(
            status.problems(),
            [
                "fewer than 3 complete replicas: 2 shards; only 2 brokers may have some: add one, \
                 or lower it by `flumen cluster replication-factor`"
            ]
        );
        status.shards[0].replicas[1].voter = false;
        assert_eq!(
            status.problems()[0],
            "fewer than 2 complete replicas that vote: the catalog"
        );
    }
}
