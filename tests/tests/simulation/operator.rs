//! A simulated operator, who has brokers join, drains them, removes them, replaces one whose disk is
//! lost, and changes the number of copies.
//!
//! The operator looks at the cluster and does one thing at a time, so that whatever was
//! interrupted is found undone.

use std::{
    collections::VecDeque,
    error::Error,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flumen_client::{BrokerId, Client};
use flumen_protocol::{
    join::JoinToken,
    message::{BrokerOverview, BrokerState, ClusterStatus, ShardOverview},
};
use rand::{RngExt, seq::IndexedRandom};
use tokio::time::sleep;

use crate::clients::{RETRY_AFTER, Services};

/// Brokers that the cluster keeps at least, so that a majority is left when one is lost.
const BROKERS_MIN: usize = 3;

/// How long a token to join is good for: longer than any run, by all clocks.
const TOKEN_TTL: Duration = Duration::from_hours(48);

/// What is done to a machine by hand.
#[derive(Debug)]
pub(crate) enum Order {
    /// It gets a broker that joins.
    Start { machine: usize, token: JoinToken },
    /// It is turned off for good.
    Unplug { machine: usize },
    /// Its disk is wiped: it may have a new broker.
    Wipe { machine: usize },
}

/// The machines, as the operator knows them. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Roster(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    spare: Option<usize>,
    orders: VecDeque<Order>,
    /// Whether shards may have had fewer copies than usual: then no disk may be lost any more, as
    /// what a broker says of them may be old.
    had_fewer_copies: bool,
}

impl Roster {
    /// Says which machine has no broker.
    pub(crate) fn with_spare(machine: usize) -> Self {
        let roster = Self::default();
        roster.lock().spare = Some(machine);
        roster
    }

    pub(crate) fn has_spare(&self) -> bool {
        self.lock().spare.is_some()
    }

    /// What is to be done to a machine next.
    pub(crate) fn next_order(&self) -> Option<Order> {
        self.lock().orders.pop_front()
    }

    fn order(&self, order: Order) {
        self.lock().orders.push_back(order);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Attempt<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The operator.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) services: Services,
    pub(crate) roster: Roster,
    pub(crate) host: IpAddr,
}

impl Operator {
    /// Changes the members of the cluster until it is time to stop.
    pub(crate) async fn operate(self) {
        let _busy = self.services.begin("the operator".to_owned());
        while !self.services.stopping() {
            let pause = rand::rng().random_range(100..3_000);
            sleep(Duration::from_millis(pause)).await;
            if let Err(error) = self.do_something().await {
                let trace = &self.services.trace;
                trace.say(format!("the operator cannot go on: {error}"));
            }
        }
    }

    async fn do_something(&self) -> Attempt<()> {
        let client = self.connect().await?;
        let status = client.admin().cluster_status().await?;
        let is_member = |broker: &&BrokerOverview| broker.state != BrokerState::Removed;
        let members: Vec<_> = status.brokers.iter().filter(is_member).collect();
        let draining = members
            .iter()
            .find(|broker| broker.state == BrokerState::Draining);
        if let Some(draining) = draining {
            if draining.is_drained() {
                self.remove(draining).await;
            } else if rand::rng().random_bool(0.1) {
                self.say("undrains", draining.id);
                client.admin().undrain_broker(draining.id).await?;
            }
            return Ok(());
        }
        if rand::rng().random_bool(0.15) {
            return self.change_copies(&client).await;
        }
        let spare = self.roster.lock().spare;
        let any = members.choose(&mut rand::rng()).copied();
        if let Some(machine) = spare {
            let token = client.admin().create_join_token(TOKEN_TTL).await?;
            let token: JoinToken = token.parse()?;
            self.services.trace.say("the operator has a broker join");
            self.roster.lock().spare = None;
            self.roster.order(Order::Start { machine, token });
        } else if members.len() > BROKERS_MIN
            && let Some(broker) = any
        {
            let may_lose = is_spread(&status) && !self.roster.lock().had_fewer_copies;
            if may_lose && rand::rng().random_bool(0.3) {
                self.say("unplugs", broker.id);
                let machine = self.machine_of(broker)?;
                self.roster.order(Order::Unplug { machine });
                self.remove(broker).await;
            } else {
                self.say("drains", broker.id);
                client.admin().drain_broker(broker.id).await?;
            }
        }
        Ok(())
    }

    async fn change_copies(&self, client: &Client) -> Attempt<()> {
        let copies = rand::rng().random_range(1..=BROKERS_MIN as u32);
        self.roster.lock().had_fewer_copies |= (copies as usize) < BROKERS_MIN;
        let trace = &self.services.trace;
        trace.say(format!("the operator wants {copies} copies"));
        client.admin().set_replication_factor(copies).await?;
        Ok(())
    }

    /// Removes a broker, and insists on it: a request whose outcome is not known may yet be
    /// carried out.
    async fn remove(&self, broker: &BrokerOverview) {
        self.say("removes", broker.id);
        loop {
            match self.try_remove(broker).await {
                Ok(()) => return,
                Err(error) => {
                    let trace = &self.services.trace;
                    trace.say(format!("cannot remove broker {}: {error}", broker.id));
                }
            }
            sleep(RETRY_AFTER).await;
        }
    }

    async fn try_remove(&self, broker: &BrokerOverview) -> Attempt<()> {
        let machine = self.machine_of(broker)?;
        let client = self.connect().await?;
        let status = client.admin().cluster_status().await?;
        let known = status.brokers.iter().find(|known| known.id == broker.id);
        let state = known.map(|known| known.state);
        // An earlier request to undrain it, of which nothing was heard, may have come through.
        if broker.state == BrokerState::Draining && state == Some(BrokerState::Active) {
            self.say("drains again", broker.id);
            client.admin().drain_broker(broker.id).await?;
        }
        if state != Some(BrokerState::Removed) {
            client.admin().remove_broker(broker.id).await?;
        }
        self.roster.order(Order::Wipe { machine });
        self.roster.lock().spare = Some(machine);
        Ok(())
    }

    async fn connect(&self) -> Attempt<Client> {
        let brokers = self.services.brokers.clone();
        Ok(self.services.try_connect(self.host, brokers, None).await?)
    }

    fn machine_of(&self, broker: &BrokerOverview) -> Attempt<usize> {
        let mut addresses = self.services.brokers.iter();
        let machine = addresses.position(|address| *address == broker.address);
        machine.ok_or_else(|| format!("no machine has the address {}", broker.address).into())
    }

    fn say(&self, what: &str, id: BrokerId) {
        let trace = &self.services.trace;
        trace.say(format!("the operator {what} broker {id}"));
    }
}

/// Whether every shard stands where it should, so that one disk may be lost. Of a shard without a
/// leader the status says where it should be, which need not be so.
fn is_spread(status: &ClusterStatus) -> bool {
    let voters = |shard: &ShardOverview| shard.replicas.iter().filter(|copy| copy.voter).count();
    let mut shards = status.shards.iter();
    let is_spread = |shard: &ShardOverview| shard.leader.is_some() && voters(shard) >= BROKERS_MIN;
    status.moves_left == 0 && shards.all(is_spread)
}
