//! What the leader of a data shard does next to make its replicas what they should be. Decided by
//! a pure function of what is and what should be.

use std::{collections::BTreeSet, time::Duration};

use flumen_protocol::ids::BrokerId;

use crate::shard::raft::GroupView;

/// A replica that lacks fewer entries than this has caught up: it may vote.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// A leader that should not be one stays for so long after its election: a broker that has just
/// come back, or a shard that has just lost its leader, is not bothered at once.
pub(super) const LEADER_REST: Duration = Duration::from_secs(3);

/// What a leader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing; everything is as it should be, or has to be waited for.
    None,
    AddLearners(BTreeSet<BrokerId>),
    SetVoters(BTreeSet<BrokerId>),
    RemoveLearners(BTreeSet<BrokerId>),
    TransferLeadership(BrokerId),
}

/// What there is to know about a shard that this broker leads.
#[derive(Debug)]
pub(super) struct Situation<'a> {
    pub(super) broker: BrokerId,
    pub(super) view: &'a GroupView,
    /// The replicas that there should be, the leader first.
    pub(super) wanted: &'a [BrokerId],
    /// How long this broker has led.
    pub(super) led_for: Duration,
    /// Brokers that were heard of lately, and have a replica that nothing is wrong with.
    pub(super) present: &'a BTreeSet<BrokerId>,
    /// Brokers that take no records, such as one whose disk is full, or that nobody gets to; this one
    /// may be among them.
    pub(super) degraded: &'a BTreeSet<BrokerId>,
}

impl Situation<'_> {
    pub(super) fn next_step(&self) -> Step {
        let view = self.view;
        let wanted: BTreeSet<_> = self.wanted.iter().copied().collect();
        if wanted.is_empty() {
            return Step::None;
        }
        // It is no replica any more and leads until another takes over, which is to make the next
        // change: one of the leader that was left out ends openraft's core for the shard.
        if !view.is_member(self.broker) {
            return Step::None;
        }
        let missing = missing(view, &wanted);
        if !missing.is_empty() {
            return Step::AddLearners(missing);
        }
        if view.voters != wanted || view.changing {
            let ready = may_become_voters(view, &wanted, |broker| self.has_caught_up(broker));
            // A change that was interrupted half-way has to be finished in any case. It ends with
            // voters that were ready when it began, which may not be those that are wanted now.
            return if ready || view.changing {
                Step::SetVoters(wanted)
            } else {
                Step::None
            };
        }
        let idle: BTreeSet<_> = view.learners.difference(&wanted).copied().collect();
        if !idle.is_empty() {
            return Step::RemoveLearners(idle);
        }
        self.rightful_leader()
            .map_or(Step::None, Step::TransferLeadership)
    }

    fn rightful_leader(&self) -> Option<BrokerId> {
        if self.degraded.contains(&self.broker) {
            // It refuses what another replica would take.
            let mut others = self.wanted.iter().copied();
            return others.find(|other| *other != self.broker && self.could_lead(*other));
        }
        let first = *self.wanted.first()?;
        let ready = first != self.broker && self.led_for >= LEADER_REST && self.could_lead(first);
        ready.then_some(first)
    }

    fn could_lead(&self, broker: BrokerId) -> bool {
        !self.degraded.contains(&broker) && self.has_caught_up(broker)
    }

    /// Whether a broker is there and has the log: then its vote brings no change to a halt.
    fn has_caught_up(&self, broker: BrokerId) -> bool {
        broker == self.broker || is_ready(self.view, self.present, broker)
    }
}

/// Those that should be members and are not.
pub(super) fn missing(view: &GroupView, wanted: &BTreeSet<BrokerId>) -> BTreeSet<BrokerId> {
    let missing = wanted.iter().filter(|broker| !view.is_member(**broker));
    missing.copied().collect()
}

/// Whether a change to these voters brings the shard to no halt: those of them who are new are
/// ready, and so is a majority of all. One that votes already and is away keeps nobody else from
/// coming or going.
pub(super) fn may_become_voters(
    view: &GroupView,
    wanted: &BTreeSet<BrokerId>,
    is_ready: impl Fn(BrokerId) -> bool,
) -> bool {
    let (ready, others): (Vec<BrokerId>, Vec<BrokerId>) =
        wanted.iter().partition(|broker| is_ready(**broker));
    let are_voters = others.iter().all(|broker| view.voters.contains(broker));
    are_voters && ready.len() > wanted.len() / 2
}

/// Whether another broker was heard of lately and lacks hardly anything of the log.
pub(super) fn is_ready(view: &GroupView, present: &BTreeSet<BrokerId>, broker: BrokerId) -> bool {
    present.contains(&broker) && has_caught_up(view.lag(broker))
}

/// Whether a replica that lacks so many entries, as far as the leader knows, may vote.
pub(super) fn has_caught_up(lag: Option<u64>) -> bool {
    lag.is_some_and(|lag| lag < CAUGHT_UP_ENTRIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    fn view(voters: &[u64], learners: &[u64], matched: &[(u64, u64)]) -> GroupView {
        GroupView {
            leader: Some(BrokerId(1)),
            leads: true,
            voters: set(voters),
            learners: set(learners),
            last_index: 1000,
            matched: matched
                .iter()
                .map(|(id, at)| (BrokerId(*id), *at))
                .collect(),
            ..GroupView::default()
        }
    }

    fn step(view: &GroupView, wanted: &[u64], led_for: Duration) -> Step {
        let wanted: Vec<_> = wanted.iter().copied().map(BrokerId).collect();
        let situation = Situation {
            broker: BrokerId(1),
            view,
            wanted: &wanted,
            led_for,
            present: &set(&[1, 2, 3]),
            degraded: &set(&[]),
        };
        situation.next_step()
    }

    #[test]
    fn a_new_replica_learns_first_and_votes_when_it_has_caught_up() {
        let wanted = [1, 2, 3];
        let rest = Duration::ZERO;
        let alone = view(&[1], &[], &[]);
        assert_eq!(step(&alone, &wanted, rest), Step::AddLearners(set(&[2, 3])));
        let learning = view(&[1], &[2, 3], &[(2, 1000), (3, 10)]);
        assert_eq!(step(&learning, &wanted, rest), Step::None);
        let learned = view(&[1], &[2, 3], &[(2, 1000), (3, 990)]);
        assert_eq!(step(&learned, &wanted, rest), Step::SetVoters(set(&wanted)));
        let done = view(&[1, 2, 3], &[], &[(2, 1000), (3, 1000)]);
        assert_eq!(step(&done, &wanted, rest), Step::None);
    }

    #[test]
    fn who_should_lead_does_after_a_while_if_it_is_there_and_has_the_log() {
        let all = view(&[1, 2, 3], &[], &[(2, 1000), (3, 1000)]);
        assert_eq!(step(&all, &[2, 1, 3], Duration::ZERO), Step::None);
        let handed = Step::TransferLeadership(BrokerId(2));
        assert_eq!(step(&all, &[2, 1, 3], LEADER_REST), handed);
        let behind = view(&[1, 2, 3], &[], &[(2, 500), (3, 1000)]);
        assert_eq!(step(&behind, &[2, 1, 3], LEADER_REST), Step::None);
    }

    #[test]
    fn a_leader_that_takes_no_records_hands_over_at_once_to_one_that_does() {
        let all = view(&[1, 2, 3], &[], &[(2, 1000), (3, 1000)]);
        let wanted = [1, 2, 3].map(BrokerId);
        let step = |degraded: &[u64], led_for| {
            let situation = Situation {
                broker: BrokerId(1),
                view: &all,
                wanted: &wanted,
                led_for,
                present: &set(&[1, 2, 3]),
                degraded: &set(degraded),
            };
            situation.next_step()
        };
        let to = |id| Step::TransferLeadership(BrokerId(id));
        assert_eq!(step(&[1], Duration::ZERO), to(2));
        assert_eq!(step(&[1, 2], Duration::ZERO), to(3));
        assert_eq!(step(&[1, 2, 3], LEADER_REST), Step::None);
    }

    #[test]
    fn who_should_lead_does_not_while_it_takes_no_records() {
        let all = view(&[1, 2, 3], &[], &[(2, 1000), (3, 1000)]);
        let wanted = [2, 1, 3].map(BrokerId);
        let situation = Situation {
            broker: BrokerId(1),
            view: &all,
            wanted: &wanted,
            led_for: LEADER_REST,
            present: &set(&[1, 2, 3]),
            degraded: &set(&[2]),
        };
        assert_eq!(situation.next_step(), Step::None);
    }

    #[test]
    fn a_broker_that_never_came_gets_no_vote_however_short_the_log_is() {
        let mut young = view(&[1], &[2, 4], &[(2, 3)]);
        young.last_index = 3;
        let wanted = [1, 2, 4].map(BrokerId);
        let mut situation = Situation {
            broker: BrokerId(1),
            view: &young,
            wanted: &wanted,
            led_for: LEADER_REST,
            present: &set(&[1, 2, 4]),
            degraded: &set(&[]),
        };
        assert_eq!(situation.next_step(), Step::None);
        let known = view(&[1], &[2, 4], &[(2, 1000), (4, 1000)]);
        (situation.view, situation.present) = (&known, Box::leak(Box::new(set(&[1, 2]))));
        assert_eq!(situation.next_step(), Step::None);
    }

    #[test]
    fn a_voter_that_is_away_keeps_no_other_one_from_being_replaced() {
        let mut view = view(&[1, 2, 3], &[4], &[(2, 1000), (4, 1000)]);
        let next = |view: &GroupView, wanted: &[u64], present: &[u64]| {
            let wanted: Vec<_> = wanted.iter().copied().map(BrokerId).collect();
            let situation = Situation {
                broker: BrokerId(1),
                view,
                wanted: &wanted,
                led_for: Duration::ZERO,
                present: &set(present),
                degraded: &set(&[]),
            };
            situation.next_step()
        };
        let replaced = Step::SetVoters(set(&[1, 3, 4]));
        assert_eq!(next(&view, &[1, 4, 3], &[1, 2, 4]), replaced);
        assert_eq!(next(&view, &[1, 4, 3], &[1, 2]), Step::None, "it is new");
        // With one of two gone, the one that is left would decide nothing.
        assert_eq!(next(&view, &[1, 3], &[1, 2, 4]), Step::None);
        view.matched = [(BrokerId(2), 1000), (BrokerId(4), 10)].into();
        assert_eq!(
            next(&view, &[1, 4, 3], &[1, 2, 4]),
            Step::None,
            "it lacks much"
        );
    }

    #[test]
    fn a_change_that_was_interrupted_is_finished() {
        let mut joint = view(&[1, 2, 3], &[], &[(2, 0), (3, 0)]);
        joint.changing = true;
        let finished = Step::SetVoters(set(&[1, 2, 3]));
        assert_eq!(step(&joint, &[1, 2, 3], Duration::ZERO), finished);
    }

    #[test]
    fn a_leader_that_was_left_out_changes_nothing_even_if_it_is_wanted_back() {
        let left_out = view(&[2], &[], &[(2, 1000)]);
        assert_eq!(step(&left_out, &[2, 3, 1], LEADER_REST), Step::None);
        let learner = view(&[2], &[1], &[(2, 1000)]);
        let next = Step::AddLearners(set(&[3]));
        assert_eq!(step(&learner, &[2, 3, 1], LEADER_REST), next);
    }
}
