use std::time::Duration;

use flumen_protocol::ids::ShardId;
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    peer::{PeerService, memory::MemoryNetwork},
    shard::{
        group::lone::{Idle, parts},
        raft::{Failure, Payload, RaftParts},
    },
};

const SHARD: ShardId = ShardId(5);

/// Longer than anything here may take, on a busy machine.
const LONG: Duration = Duration::from_mins(1);

/// The replicas of the brokers 1 to 3, and how broker 1 fails.
struct Replicas {
    groups: Vec<Group>,
    failure: Failure,
}

impl Replicas {
    /// Broker 1 leads and has the only vote; the others are learners.
    async fn start() -> Self {
        let network = MemoryNetwork::new();
        let mut replicas = Self {
            groups: Vec::new(),
            failure: Failure::new(),
        };
        for broker in [1, 2, 3].map(BrokerId) {
            let founding = broker == BrokerId(1);
            let mut parts = RaftParts {
                broker,
                network: network.peer(broker),
                founding,
                ..parts()
            };
            if founding {
                parts.failure = replicas.failure.clone();
            }
            let served = Arc::new(parts.replicas.clone());
            network.serve(broker, PeerService::Raft, served);
            let group = Group::start(SHARD, Arc::new(Idle::default()), parts).await;
            let group = group.unwrap();
            group.ready().await.unwrap();
            group.keep_time(true);
            replicas.groups.push(group);
        }
        let others = addressed(&[2, 3]);
        replicas.of(1).add_learners(&others).await.unwrap();
        replicas
    }

    fn of(&self, broker: usize) -> &Group {
        &self.groups[broker - 1]
    }

    /// Leaves broker 1 half-way from the vote of its own to one of another broker, as if it had
    /// been interrupted.
    async fn begin_change_to(&self, voter: u64) {
        let members = self.of(1).members();
        let nodes: BTreeMap<_, _> = members.nodes().map(|(id, at)| (*id, at.clone())).collect();
        let voters = vec![BTreeSet::from([1]), BTreeSet::from([voter])];
        let half_way = Membership::new(voters, nodes).unwrap();
        let begun = self
            .of(1)
            .raft()
            .append_membership(half_way, Payload::Blank, []);
        begun.await.unwrap();
        assert!(self.of(1).view().changing);
    }

    async fn until_leads(&self, broker: usize) {
        let leads = async {
            while !self.of(broker).leads() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, leads).await.unwrap();
    }

    async fn stop(self) {
        assert_eq!(self.failure.get(), None);
        for group in self.groups {
            group.stop().await;
        }
    }
}

fn set(ids: &[u64]) -> BTreeSet<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn addressed(ids: &[u64]) -> BTreeMap<BrokerId, String> {
    let address = |id: &u64| (BrokerId(*id), format!("broker-{id}:4650"));
    ids.iter().map(address).collect()
}

#[tokio::test]
async fn a_change_that_others_follow_ends_before_they_begin() {
    let replicas = Replicas::start().await;
    replicas.begin_change_to(2).await;
    replicas.of(1).set_voters(&set(&[3]), false).await.unwrap();
    let view = replicas.of(1).view();
    assert_eq!((view.voters, view.changing), (set(&[2]), false));
    replicas.until_leads(2).await;
    replicas.of(2).set_voters(&set(&[3]), false).await.unwrap();
    replicas.until_leads(3).await;
    assert_eq!(replicas.of(3).view().voters, set(&[3]));
    replicas.stop().await;
}

#[tokio::test]
async fn a_change_that_is_not_wanted_any_more_is_undone() {
    let replicas = Replicas::start().await;
    replicas.begin_change_to(2).await;
    replicas.of(1).set_voters(&set(&[1]), true).await.unwrap();
    let view = replicas.of(1).view();
    assert_eq!((view.voters, view.changing), (set(&[1]), false));
    assert_eq!(view.learners, set(&[2, 3]));
    replicas.stop().await;
}

#[tokio::test]
async fn a_leader_that_was_left_out_changes_no_members() {
    let replicas = Replicas::start().await;
    let left_out = replicas.of(1);
    left_out.set_voters(&set(&[2]), false).await.unwrap();
    assert!(!left_out.view().is_member(BrokerId(1)));
    let back = addressed(&[1]);
    left_out.add_learners(&back).await.unwrap_err();
    left_out.set_voters(&set(&[3]), false).await.unwrap_err();
    left_out.remove_learners(&set(&[3])).await.unwrap_err();
    replicas.until_leads(2).await;
    assert_eq!(replicas.of(2).view().voters, set(&[2]));
    assert_eq!(replicas.of(2).view().learners, set(&[3]));
    replicas.stop().await;
}

#[tokio::test]
async fn members_that_have_changed_since_are_not_changed() {
    let replicas = Replicas::start().await;
    let leader = replicas.of(1);
    let seen = leader.members();
    leader.set_voters(&set(&[2]), false).await.unwrap();
    let node = BasicNode::new("broker-4:4650");
    let late = ChangeMembers::AddNodes(BTreeMap::from([(4, node)]));
    leader.change(&seen, late, true).await.unwrap_err();
    replicas.until_leads(2).await;
    assert_eq!(replicas.of(2).view().learners, set(&[3]));
    replicas.stop().await;
}
