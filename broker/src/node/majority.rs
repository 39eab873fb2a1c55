//! Whether those answer without whom nothing can be decided.

use std::collections::BTreeSet;

use flumen_protocol::{
    error::{ErrorCode, WireError},
    ids::{BrokerId, ShardId},
    message::Request,
};

use super::Node;
use crate::{
    catalog::CATALOG_SHARD,
    cluster::REPORT_AGE_MAX,
    shard::raft::{Group, GroupView},
};

impl Node {
    /// Why the catalog cannot be changed, if no majority of those that vote on it answers this
    /// broker: who is missing, and what to do. Known within [`REPORT_AGE_MAX`].
    pub(super) fn no_majority(&self) -> Option<String> {
        let view = self.catalog.group().view();
        let me = self.shards.broker();
        let silent = missing_majority(&view.voters, |broker| self.answers(*broker));
        let silent = if view.leads {
            // Whom it reaches, Raft knows better; the others' reports only say who is missing.
            let others = || view.voters.iter().copied().filter(|voter| *voter != me);
            lost_its_majority(&view).then(|| silent.unwrap_or_else(|| others().collect()))?
        } else {
            silent?
        };
        let brokers = &self.catalog.snapshot().brokers;
        let named = silent.iter().map(|broker| match brokers.get(broker) {
            Some(info) => format!("broker {broker} ({})", info.address),
            None => format!("broker {broker}"),
        });
        let named: Vec<_> = named.collect();
        let named = named.join(" and ");
        Some(match silent.len() {
            _ if view.voters.len() == 1 => format!(
                "{named}, which alone votes on the catalog, does not answer broker {me}; start it, \
                 or see that they reach each other"
            ),
            1 => format!(
                "no majority of the brokers that vote on the catalog: {named} does not answer \
                 broker {me}; start it, or see that they reach each other"
            ),
            _ => format!(
                "no majority of the brokers that vote on the catalog: {named} do not answer broker \
                 {me}; start them, or see that they reach each other"
            ),
        })
    }

    /// Whether a broker was heard of lately; this one always is.
    fn answers(&self, broker: BrokerId) -> bool {
        broker == self.shards.broker() || self.reports.is_reachable(broker)
    }

    /// An error of a request; where no majority is why, it says so. One that leaves open whether a
    /// change was made stays.
    pub(super) fn with_cause(&self, error: WireError, reads: bool) -> WireError {
        let is_due_to_others = match error.code {
            ErrorCode::NotLeader | ErrorCode::Unavailable => true,
            ErrorCode::Timeout => reads,
            _ => false,
        };
        match self.no_majority().filter(|_| is_due_to_others) {
            Some(reason) => WireError::new(ErrorCode::NoMajority, reason),
            None => error,
        }
    }

    /// Whether a shard has a leader of which this broker hears.
    pub(super) fn is_in_touch(&self, shard: ShardId) -> bool {
        let leader = self.shards.leader_of(shard);
        leader.is_some_and(|leader| self.hears(shard, leader))
    }

    /// Whether this broker hears of a shard's leader, or, if that is itself, of a majority.
    pub(super) fn hears(&self, shard: ShardId, leader: BrokerId) -> bool {
        if leader == self.shards.broker() {
            !self.leads_alone(shard)
        } else {
            self.reports.is_reachable(leader)
        }
    }

    /// Whether this broker leads a shard and does not reach a majority of those that vote there.
    pub(super) fn leads_alone(&self, shard: ShardId) -> bool {
        let is_alone = |group: &Group| lost_its_majority(&group.view());
        match self.shards.data(shard) {
            Some(data) => is_alone(data.group()),
            None => shard == CATALOG_SHARD && is_alone(self.catalog.group()),
        }
    }
}

/// Whether a leader has heard nothing of a majority for too long.
pub(super) fn lost_its_majority(view: &GroupView) -> bool {
    let silence = view.majority_silence;
    silence.is_some_and(|silence| silence > REPORT_AGE_MAX)
}

/// Whether a request changes nothing.
pub(super) fn reads(request: &Request) -> bool {
    matches!(
        request,
        Request::Metadata { .. }
            | Request::ListTopics
            | Request::ListPlugins
            | Request::DescribeTopic { .. }
            | Request::DescribePlugin { .. }
            | Request::OffsetsForTime { .. }
            | Request::Status
            | Request::ClusterStatus
    )
}

/// The voters that do not answer, if the others are no majority.
fn missing_majority(
    voters: &BTreeSet<BrokerId>,
    answers: impl Fn(&BrokerId) -> bool,
) -> Option<Vec<BrokerId>> {
    let silent: Vec<_> = voters.iter().filter(|v| !answers(v)).copied().collect();
    let answering = voters.len() - silent.len();
    (!silent.is_empty() && answering <= voters.len() / 2).then_some(silent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_missing_when_half_of_the_voters_or_more_are_silent() {
        let missing = |voters: u64, silent: u64| {
            let voters = (1..=voters).map(BrokerId).collect();
            missing_majority(&voters, |voter| voter.0 > silent).map(|silent| silent.len() as u64)
        };
        assert_eq!(missing(0, 0), None, "nothing is known yet");
        assert_eq!(missing(1, 0), None);
        assert_eq!(missing(2, 1), Some(1));
        assert_eq!(missing(3, 1), None);
        assert_eq!(missing(3, 2), Some(2));
        assert_eq!(missing(4, 2), Some(2));
        assert_eq!(missing(5, 2), None);
    }
}
