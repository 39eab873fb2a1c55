//! One run from one seed: machines, services and faults, and in the end the question whether all
//! is as it must be.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flumen_broker::{
    config::{BrokerConfig, ByteSize, ShardCount},
    wal::SyncPolicy,
};
use flumen_client::{Profile, TopicConfig};
use flumen_protocol::{join::JoinToken, topic::Cleanup};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    checker::{Ledger, Place, Read},
    clients::{Busy, DELETED_FOR, Load, Services},
    faults::{self, Bounds, Planned},
    host::{Host, STEP},
    jobs::{Job, ServiceHost},
    machine::{Machine, zone},
    network::{Link, Network},
    operator::{Operator, Roster},
    shrink::Reduction,
    system,
    trace::Trace,
    world::World,
};

/// How long the first start may take, and how long it may take after the last fault until all is
/// served again and every producer is done.
const RECOVERY_MAX: Duration = Duration::from_secs(90);

/// How long something may take that a service is asked for once.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// Machines with services.
const SERVICE_HOSTS: u8 = 2;

/// Brokers that a cluster has at least whose members change.
const BROKERS_MIN: u8 = 3;

/// The share of the runs with several brokers in which hosts are far apart, each two differently.
const FAR_APART: f64 = 0.4;

/// The longest way between two hosts. Leases and elections have to bear twice this and the time for
/// the disk.
const DISTANCE_MS_MAX: u64 = 60;

/// The share of topics of which only the last records are kept, and how much of each partition.
const TRIMMED: f64 = 0.3;
const TRIMMED_BYTES: u64 = 200 * 1024;

/// The share of the other topics of which the last record of each key is kept, and of those the
/// share that forgets soon which keys were deleted.
const COMPACTED: f64 = 0.35;
const FORGETFUL: f64 = 0.5;

/// The share of topics that get another partition.
const GROWING: f64 = 0.3;

/// The share of runs in which topics are made anew under the same name.
const CHURNING: f64 = 0.4;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) trace: (u64, u64),
    pub(crate) lasted: Duration,
    pub(crate) acknowledged: usize,
    pub(crate) seen: usize,
    /// For how long there were faults.
    pub(crate) length: Duration,
    /// How many faults and services there were to choose from.
    pub(crate) faults: usize,
    pub(crate) jobs: usize,
    pub(crate) contradictions: Vec<String>,
    pub(crate) lines: Vec<String>,
}

/// Runs a seed. To be called in a fresh thread of a process that runs no other seed.
pub(crate) fn run(seed: u64, brokers: u8, reduction: &Reduction) -> Report {
    system::enter(seed);
    let trace = Trace::new();
    let mut simulation = Simulation {
        world: make_world(seed, brokers, &trace),
        ledger: Arc::default(),
        read: Read::new(),
        reduction,
        length: Duration::ZERO,
        faults: 0,
        jobs: 0,
    };
    let outcome = simulation.live();
    let Simulation {
        world,
        ledger,
        read,
        length,
        faults,
        jobs,
        ..
    } = simulation;
    drop(world);

    let mut ledger = std::mem::take(&mut *ledger.lock().unwrap_or_else(PoisonError::into_inner));
    if let Err(objection) = outcome {
        ledger.object(objection);
    }
    let (acknowledged, seen) = ledger.counts();
    let mut contradictions = ledger.contradictions(&read);
    contradictions.extend(crate::panics());
    Report {
        trace: trace.hash(),
        lasted: system::now(),
        acknowledged,
        seen,
        length,
        faults,
        jobs,
        contradictions,
        lines: trace.lines(),
    }
}

fn make_world(seed: u64, brokers: u8, trace: &Trace) -> World {
    let mut rng = StdRng::seed_from_u64(seed);
    let network = Network::new(rng.random(), trace.clone());
    let are_far_apart = brokers > 1 && rng.random_bool(FAR_APART);
    let distance_ms_max = if are_far_apart { 2 } else { 30 };
    // Different times for each datagram would look like loss all the time.
    let distance = Duration::from_millis(rng.random_range(1..distance_ms_max));
    network.set_climate(Link {
        latency: distance..distance + STEP,
        ..Link::default()
    });
    let config = draw_config(&mut rng);
    let upkeep_interval = Duration::from_millis(rng.random_range(500..15_000));
    let machine = |number| {
        let (config, network, trace) = (config.clone(), network.clone(), trace.clone());
        Machine::new(number, config, upkeep_interval, network, trace)
    };
    let mut machines: Vec<_> = (1..=brokers).map(machine).collect();
    let mut roster = Roster::default();
    // In some runs members change: then there is a machine for one more.
    if brokers >= BROKERS_MIN && rng.random() {
        roster = Roster::with_spare(machines.len());
        let mut spare = machine(brokers + 1);
        spare.is_wanted = false;
        machines.push(spare);
    }
    let services: Vec<_> = (1..=SERVICE_HOSTS).map(ServiceHost::new).collect();
    if are_far_apart {
        let machines = machines.iter().map(|machine| machine.host.address);
        let services = services.iter().map(|services| services.host.address);
        set_apart(
            &mut rng,
            &network,
            &machines.chain(services).collect::<Vec<_>>(),
        );
    }
    World {
        restarts: vec![None; machines.len()],
        bounds: Bounds {
            brokers: machines.len(),
            hosts: machines.len() + usize::from(SERVICE_HOSTS),
            power_losses: config.wal.sync == SyncPolicy::Always,
        },
        machines,
        services,
        office: Host::new("office", [10, 0, 2, 1].into()),
        roster,
        network,
        trace: trace.clone(),
        rng,
    }
}

/// Draws for each two hosts how far they are from each other.
fn set_apart(rng: &mut StdRng, network: &Network, hosts: &[IpAddr]) {
    for (at, one) in hosts.iter().enumerate() {
        for other in &hosts[..at] {
            let distance = Duration::from_millis(rng.random_range(0..DISTANCE_MS_MAX));
            network.set_distance(*one, *other, distance);
        }
    }
}

fn draw_config(rng: &mut StdRng) -> BrokerConfig {
    let mut config = BrokerConfig {
        shards: ShardCount::asked(rng.random_range(1..5)),
        ..BrokerConfig::default()
    };
    config.limits.batch_bytes_max = ByteSize::new(256 * 1024);
    // quinn makes room for all of them with each connection, which takes longer than most have to
    // do; no client here has half as many.
    config.limits.streams_per_connection_max = 128;
    // As small as may be, so that files are read, too, and not only what is in memory.
    config.memory.tail_bytes_max = ByteSize::mib(1);
    config.wal.segment_bytes = ByteSize::mib(1);
    config.wal.bytes_max = ByteSize::mib(rng.random_range(4..9));
    if rng.random_bool(0.25) {
        config.wal.sync = SyncPolicy::Every(Duration::from_millis(100));
    }
    config
}

fn draw_topic(rng: &mut StdRng, partitions: u32) -> TopicConfig {
    let mut config = TopicConfig {
        partitions,
        segment_bytes: 64 * 1024,
        // Clocks jump by more than any age.
        retention_age_ms: None,
        ..TopicConfig::default()
    };
    if rng.random_bool(TRIMMED) {
        config.retention_bytes = Some(TRIMMED_BYTES);
    } else if rng.random_bool(COMPACTED) {
        config.cleanup = Cleanup::Compact;
        if rng.random_bool(FORGETFUL) {
            config.tombstone_retention_ms = DELETED_FOR.as_millis() as u64;
        }
    }
    config
}

struct Simulation<'a> {
    world: World,
    ledger: Arc<Mutex<Ledger>>,
    /// What the last readers saw.
    read: Read,
    reduction: &'a Reduction,
    /// For how long there are faults.
    length: Duration,
    /// How many faults were planned.
    faults: usize,
    /// How many services were, besides those that make the topics.
    jobs: usize,
}

impl Simulation<'_> {
    /// The run, from the first start to the last reader; or what is wrong besides what the ledger
    /// knows.
    fn live(&mut self) -> Result<(), String> {
        self.world.restarts[0] = Some(Duration::ZERO);
        let ready = |world: &World| world.machines[0].is_ready();
        if !self.world.step_until(RECOVERY_MAX, ready) {
            let healths = self.world.healths();
            return Err(format!("the first broker does not start: {healths}"));
        }
        let services = self.services()?;
        let formed = self.form_cluster(&services);
        formed.map_err(|error| format!("the cluster does not form: {error}"))?;
        let topics = self.start_services(&services);
        let world = &mut self.world;
        let length = Duration::from_millis(world.rng.random_range(5_000..25_000));
        let planned = faults::draw(&mut world.rng, world.bounds, length);
        self.faults = planned.len();
        let reduction = self.reduction;
        self.length = reduction.length_ms.map_or(length, Duration::from_millis);
        let planned = (0..).zip(planned);
        let planned = planned.filter(|(number, _)| reduction.faults.contains(*number));
        let planned: Vec<_> = planned.map(|(_, planned)| planned).collect();
        self.suffer(&planned, system::now(), self.length);
        let world = &mut self.world;
        world.heal();
        services.stop.store(true, Ordering::SeqCst);
        let done = |world: &World| world.all_ready() && services.busy.is_nobody();
        if !world.step_until(RECOVERY_MAX, done) {
            return Err(format!(
                "not all is served again: busy are {:?}; {}",
                services.busy.names(),
                world.healths()
            ));
        }
        // What was acknowledged survives the end of all machines at once.
        world.kill_all();
        if !world.step_until(RECOVERY_MAX, World::all_ready) {
            let healths = world.healths();
            return Err(format!("the brokers do not come back: {healths}"));
        }
        self.read_everything(services, topics)
    }

    /// Starts the other brokers, which join the first one.
    fn form_cluster(&mut self, services: &Services) -> Result<(), String> {
        let others = self.members().split_off(1);
        if others.is_empty() {
            return Ok(());
        }
        let service = services.clone();
        let brokers = vec![services.brokers[0].clone()];
        let token = self.ask(move |host| async move {
            let client = service.try_connect(host, brokers, None).await;
            let client = client.map_err(|error| error.to_string())?;
            let token = client.admin().create_join_token(RECOVERY_MAX).await;
            token.map_err(|error| error.to_string())
        });
        let token = token.ok_or("nobody makes a join token")??;
        let token: JoinToken = token.parse().map_err(|error| format!("{error}"))?;
        for at in others {
            self.world.machines[at].token = Some(token.clone());
            self.world.restarts[at] = Some(system::now());
        }
        if self.world.step_until(RECOVERY_MAX, World::all_ready) {
            Ok(())
        } else {
            Err(self.world.healths())
        }
    }

    /// Has somebody do something once; `None` if that takes too long.
    fn ask<T, F>(&mut self, work: impl FnOnce(IpAddr) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let result = Arc::new(Mutex::new(None));
        let done = Arc::clone(&result);
        let office = &mut self.world.office;
        let work = work(office.address);
        office.spawn(async move {
            let answer = work.await;
            *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        });
        let lock = || result.lock().unwrap_or_else(PoisonError::into_inner);
        self.world.step_until(ANSWER_MAX, |_| lock().is_some());
        lock().take()
    }

    fn services(&mut self) -> Result<Services, String> {
        let world = &mut self.world;
        let profile = Profile::read(&world.machines[0].profile());
        let addresses = world.machines.iter().map(Machine::broker_address);
        Ok(Services {
            ledger: Arc::clone(&self.ledger),
            trace: world.trace.clone(),
            network: world.network.clone(),
            profile: profile
                .map_err(|error| format!("there is no profile for clients: {error}"))?,
            brokers: addresses.collect(),
            load: Load {
                pause_ms_max: world.rng.random_range(5..120),
                large: [0.01, 0.05, 0.2][world.rng.random_range(0..3)],
            },
            stop: Arc::new(AtomicBool::new(false)),
            busy: Busy::default(),
        })
    }

    /// Starts the services, and returns the topics that they use.
    fn start_services(&mut self, services: &Services) -> Vec<String> {
        let topics: Vec<_> = (0..self.world.rng.random_range(1..3))
            .map(|number| format!("numbers-{number}"))
            .collect();
        for topic in &topics {
            let partitions = self.world.rng.random_range(1..4);
            let config = draw_topic(&mut self.world.rng, partitions);
            let topic = topic.clone();
            self.employ(services, Job::MakeTopic(topic.clone(), config));
            for partition in 0..partitions {
                for _ in 0..self.world.rng.random_range(1..3) {
                    let topic = topic.clone();
                    let place = Place { topic, partition };
                    self.employ(services, Job::Produce(place));
                }
            }
            if self.world.rng.random_bool(GROWING) {
                self.employ(services, Job::Grow(topic.clone(), partitions + 1));
            }
            for number in 0..self.world.rng.random_range(1..3) {
                let name = format!("consumer {topic}.{number}");
                self.employ(services, Job::Consume(topic.clone(), name));
            }
        }
        self.employ(services, Job::Administrate);
        if self.world.rng.random_bool(CHURNING) {
            self.employ(services, Job::Churn);
        }
        if self.world.roster.has_spare() && self.keeps_next_job() {
            let office = &mut self.world.office;
            let operator = Operator {
                services: services.clone(),
                roster: self.world.roster.clone(),
                host: office.address,
            };
            office.spawn(operator.operate());
        }
        topics
    }

    /// Has any of the machines for services do something.
    fn employ(&mut self, services: &Services, job: Job) {
        let world = &mut self.world;
        let at = world.rng.random_range(0..world.services.len());
        // Who reads everything in the end needs all topics.
        if matches!(job, Job::MakeTopic(..)) || self.keeps_next_job() {
            self.world.services[at].employ(services, job);
        }
    }

    /// Counts a job, and tells whether it is to be done.
    fn keeps_next_job(&mut self) -> bool {
        self.jobs += 1;
        self.reduction.jobs.contains(self.jobs - 1)
    }

    /// Lets the planned faults come and go.
    fn suffer(&mut self, planned: &[Planned], start: Duration, length: Duration) {
        let world = &mut self.world;
        let mut coming = planned.iter().peekable();
        let mut present: Vec<&Planned> = Vec::new();
        while system::now() < start + length {
            let passed = system::now().saturating_sub(start);
            while let Some(next) = coming.next_if(|next| next.at <= passed) {
                world.trace.say(format!(
                    "for {} ms: {:?}",
                    next.lasts.as_millis(),
                    next.fault
                ));
                world.begin(&next.fault, start + next.until());
                present.push(next);
            }
            let (over, rest): (Vec<&Planned>, _) = present
                .into_iter()
                .partition(|fault| fault.until() <= passed);
            present = rest;
            for fault in over {
                world.end(&fault.fault);
            }
            world.step();
        }
    }

    /// Reads all topics from the copies of all brokers.
    fn read_everything(&mut self, services: Services, topics: Vec<String>) -> Result<(), String> {
        let members = self.members();
        let read = self.ask(|host| read_from_all(services, host, members, topics));
        let read = read.ok_or("reading everything takes too long")?;
        self.read = read.map_err(|error| format!("not all can be read: {error}"))?;
        Ok(())
    }

    /// The numbers of the machines that should have a broker.
    fn members(&self) -> Vec<usize> {
        let machines = (0..).zip(&self.world.machines);
        let wanted = machines.filter(|(_, machine)| machine.is_wanted);
        wanted.map(|(at, _)| at).collect()
    }
}

/// Reads all topics, once through each of the brokers, and from its own copies where it has some.
async fn read_from_all(
    services: Services,
    host: IpAddr,
    members: Vec<usize>,
    topics: Vec<String>,
) -> Result<Read, String> {
    let mut read = Read::new();
    for at in members {
        let broker = &services.brokers[at];
        let zone = Some(zone(at + 1));
        let client = services.try_connect(host, vec![broker.clone()], zone).await;
        let client = client.map_err(|error| error.to_string())?;
        for topic in &topics {
            let records = services.read_all(&client, topic).await?;
            for place in services.ledger().places(topic) {
                read.entry((broker.clone(), place)).or_default();
            }
            for (place, offset, record) in records {
                let of_place = read.entry((broker.clone(), place)).or_default();
                of_place.push((offset, record));
            }
        }
        let present = client.admin().list_topics().await;
        let present = present.map_err(|error| error.to_string())?;
        let names: Vec<_> = present.iter().map(|topic| topic.name.to_string()).collect();
        services.ledger().see_topics(&names);
    }
    Ok(read)
}
