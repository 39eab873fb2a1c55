//! One run from one seed: machines, services and faults, and in the end the question whether all
//! is as it must be.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flumen_broker::{
    config::{BrokerConfig, ByteSize},
    disk::{CrashKeep, FaultPlan},
    executor::simulation::Latencies,
    wal::SyncPolicy,
};
use flumen_client::{Profile, TopicConfig};
use flumen_protocol::join::JoinToken;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    checker::{Ledger, Place, Record},
    clients::{Busy, Load, Services},
    faults::{self, Bounds, Fault, Planned},
    host::{Host, STEP},
    machine::{Health, Machine, PORT},
    network::{Link, Network},
    system,
    trace::Trace,
};

/// How long the first start may take, and how long it may take after the last fault until all is
/// served again and every producer is done.
const RECOVERY_MAX: Duration = Duration::from_secs(90);

/// How long something may take that a service is asked for once.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// Machines with services.
const SERVICE_HOSTS: u8 = 2;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) trace: (u64, u64),
    pub(crate) lasted: Duration,
    pub(crate) acknowledged: usize,
    pub(crate) seen: usize,
    pub(crate) faults: usize,
    pub(crate) contradictions: Vec<String>,
    pub(crate) lines: Vec<String>,
}

type Read = BTreeMap<(String, Place), Vec<(u64, Record)>>;

struct Simulation {
    machines: Vec<Machine>,
    /// When each machine is started again.
    restarts: Vec<Option<Duration>>,
    services: Vec<Host>,
    network: Network,
    trace: Trace,
    rng: StdRng,
    bounds: Bounds,
}

/// Runs a seed. To be called in a fresh thread of a process that runs no other seed.
pub(crate) fn run(seed: u64, brokers: u8) -> Report {
    system::enter(seed);
    let trace = Trace::new();
    let mut rng = StdRng::seed_from_u64(seed);
    let network = Network::new(rng.random(), trace.clone());
    // Different times for each datagram would look like loss all the time.
    let distance = Duration::from_millis(rng.random_range(1..30));
    network.set_climate(Link {
        latency: distance..distance + STEP,
        ..Link::default()
    });
    let config = draw_config(&mut rng);
    let upkeep_interval = Duration::from_millis(rng.random_range(500..15_000));
    let bounds = Bounds {
        brokers: brokers.into(),
        hosts: usize::from(brokers + SERVICE_HOSTS),
        power_losses: config.wal.sync == SyncPolicy::Always,
    };
    let machines: Vec<_> = (1..=brokers)
        .map(|number| {
            let network = network.clone();
            Machine::new(
                number,
                config.clone(),
                upkeep_interval,
                network,
                trace.clone(),
            )
        })
        .collect();
    let services = (1..=SERVICE_HOSTS)
        .map(|number| Host::new(format!("services {number}"), [10, 0, 1, number].into()));
    let mut simulation = Simulation {
        restarts: vec![None; brokers.into()],
        machines,
        services: services.collect(),
        network,
        trace: trace.clone(),
        rng,
        bounds,
    };
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut read = Read::new();
    let faults = simulation.live(&ledger, &mut read);
    let Simulation {
        machines, services, ..
    } = simulation;
    drop((services, machines));

    let ledger = std::mem::take(&mut *ledger.lock().unwrap_or_else(PoisonError::into_inner));
    let (acknowledged, seen) = ledger.counts();
    let mut contradictions = ledger.contradictions(&read);
    contradictions.extend(crate::panics());
    Report {
        trace: trace.hash(),
        lasted: system::now(),
        acknowledged,
        seen,
        faults,
        contradictions,
        lines: trace.lines(),
    }
}

fn draw_config(rng: &mut StdRng) -> BrokerConfig {
    let mut config = BrokerConfig {
        shards: rng.random_range(1..5),
        ..BrokerConfig::default()
    };
    config.limits.batch_bytes_max = ByteSize::new(256 * 1024);
    // As small as may be, so that files are read, too, and not only what is in memory.
    config.memory.tail_bytes_max = ByteSize::mib(1);
    config.wal.segment_bytes = ByteSize::mib(1);
    config.wal.bytes_max = ByteSize::mib(rng.random_range(4..9));
    if rng.random_bool(0.25) {
        config.wal.sync = SyncPolicy::Every(Duration::from_millis(100));
    }
    config
}

impl Simulation {
    /// The run, from the first start to the last reader. Returns how many things went wrong.
    fn live(&mut self, ledger: &Arc<Mutex<Ledger>>, read: &mut Read) -> usize {
        let object = |text: String| {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.object(text);
        };
        self.restarts[0] = Some(Duration::ZERO);
        if !self.step_until(RECOVERY_MAX, |this| this.is_ready(0)) {
            object(format!(
                "the first broker does not start: {}",
                self.healths()
            ));
            return 0;
        }
        let services = match self.services_of(ledger) {
            Ok(services) => services,
            Err(error) => {
                object(format!("there is no profile for clients: {error}"));
                return 0;
            }
        };
        if let Err(error) = self.form_cluster(&services) {
            object(format!("the cluster does not form: {error}"));
            return 0;
        }
        let topics = self.start_services(&services);
        let length = Duration::from_millis(self.rng.random_range(5_000..25_000));
        let planned = faults::draw(&mut self.rng, self.bounds, length);
        self.suffer(&planned, system::now(), length);
        self.heal();
        services.stop.store(true, Ordering::SeqCst);
        let recovered = self.step_until(RECOVERY_MAX, |this| {
            this.all_ready() && services.busy.is_nobody()
        });
        if !recovered {
            object(format!(
                "not all is served again: busy are {:?}; {}",
                services.busy.names(),
                self.healths()
            ));
            return planned.len();
        }
        // What was acknowledged survives the end of all machines at once.
        self.kill_all();
        if !self.step_until(RECOVERY_MAX, Self::all_ready) {
            object(format!("the brokers do not come back: {}", self.healths()));
            return planned.len();
        }
        match self.read_all(&services, topics) {
            Some(Ok(all)) => *read = all,
            Some(Err(error)) => object(format!("not all can be read: {error}")),
            None => object("reading everything takes too long".to_owned()),
        }
        planned.len()
    }

    /// Starts the other brokers, which join the first one.
    fn form_cluster(&mut self, services: &Services) -> Result<(), String> {
        if self.machines.len() == 1 {
            return Ok(());
        }
        let service = services.clone();
        let brokers = vec![self.broker_addresses().swap_remove(0)];
        let token = self.ask(move |host| async move {
            let client = service.try_connect(host, brokers).await;
            let client = client.map_err(|error| error.to_string())?;
            let token = client.admin().create_join_token(RECOVERY_MAX).await;
            token.map_err(|error| error.to_string())
        });
        let token = token.ok_or("nobody makes a join token")??;
        let token: JoinToken = token.parse().map_err(|error| format!("{error}"))?;
        for at in 1..self.machines.len() {
            self.machines[at].token = Some(token.clone());
            self.restarts[at] = Some(system::now());
        }
        if self.step_until(RECOVERY_MAX, Self::all_ready) {
            Ok(())
        } else {
            Err(self.healths())
        }
    }

    /// Has a service do something once; `None` if that takes too long.
    fn ask<T, F>(&mut self, work: impl FnOnce(IpAddr) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let result = Arc::new(Mutex::new(None));
        let done = Arc::clone(&result);
        let host = &mut self.services[0];
        let work = work(host.address);
        host.spawn(async move {
            let answer = work.await;
            *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        });
        let lock = || result.lock().unwrap_or_else(PoisonError::into_inner);
        self.step_until(ANSWER_MAX, |_| lock().is_some());
        lock().take()
    }

    fn services_of(&mut self, ledger: &Arc<Mutex<Ledger>>) -> Result<Services, String> {
        let profile = Profile::read(&self.machines[0].profile());
        Ok(Services {
            ledger: Arc::clone(ledger),
            trace: self.trace.clone(),
            network: self.network.clone(),
            profile: profile.map_err(|error| error.to_string())?,
            brokers: self.broker_addresses(),
            load: Load {
                pause_ms_max: self.rng.random_range(5..120),
                large: [0.01, 0.05, 0.2][self.rng.random_range(0..3)],
            },
            stop: Arc::new(AtomicBool::new(false)),
            busy: Busy::default(),
        })
    }

    fn broker_addresses(&self) -> Vec<String> {
        let addresses = self.machines.iter().map(|machine| machine.host.address);
        addresses
            .map(|address| format!("{address}:{PORT}"))
            .collect()
    }

    /// Starts the services, and returns the topics that they use.
    fn start_services(&mut self, services: &Services) -> Vec<String> {
        let topics: Vec<_> = (0..self.rng.random_range(1..3))
            .map(|number| format!("numbers-{number}"))
            .collect();
        for topic in &topics {
            let partitions = self.rng.random_range(1..4);
            let config = TopicConfig {
                partitions,
                segment_bytes: 64 * 1024,
                ..TopicConfig::default()
            };
            let host = &mut self.services[0];
            let address = host.address;
            host.spawn(services.clone().make_topic(address, topic.clone(), config));
            for partition in 0..partitions {
                for _ in 0..self.rng.random_range(1..3) {
                    let place = Place {
                        topic: topic.clone(),
                        partition,
                    };
                    let (host, address) = self.any_service_host();
                    host.spawn(services.clone().produce(address, place));
                }
            }
            for number in 0..self.rng.random_range(1..3) {
                let name = format!("consumer {topic}.{number}");
                let (host, address) = self.any_service_host();
                host.spawn(services.clone().consume(address, topic.clone(), name));
            }
        }
        let (host, address) = self.any_service_host();
        host.spawn(services.clone().administrate(address, "passing".to_owned()));
        topics
    }

    fn any_service_host(&mut self) -> (&mut Host, IpAddr) {
        let at = self.rng.random_range(0..self.services.len());
        let host = &mut self.services[at];
        let address = host.address;
        (host, address)
    }

    /// Lets the planned faults come and go.
    fn suffer(&mut self, planned: &[Planned], start: Duration, length: Duration) {
        let mut coming = planned.iter().peekable();
        let mut present: Vec<&Planned> = Vec::new();
        while system::now() < start + length {
            let passed = system::now().saturating_sub(start);
            while let Some(next) = coming.next_if(|next| next.at <= passed) {
                self.trace.say(format!(
                    "for {} ms: {:?}",
                    next.lasts.as_millis(),
                    next.fault
                ));
                self.begin(&next.fault, start + next.until());
                present.push(next);
            }
            let (over, rest) = present
                .into_iter()
                .partition(|fault| fault.until() <= passed);
            present = rest;
            let over: Vec<&Planned> = over;
            for fault in over {
                self.end(&fault.fault);
            }
            self.step();
        }
    }

    fn begin(&mut self, fault: &Fault, until: Duration) {
        match fault {
            Fault::Kill { broker, keep } => {
                if self.machines[*broker].host.is_on() {
                    self.machines[*broker].kill(*keep);
                    self.restarts[*broker] = Some(until);
                }
            }
            Fault::Stop { broker } => {
                if self.machines[*broker].health() == Health::Ready {
                    self.machines[*broker].stop();
                    self.restarts[*broker] = Some(until);
                }
            }
            Fault::CrashIn { broker, operations } => {
                self.machines[*broker].disk.set_faults(FaultPlan {
                    crash_in: Some(*operations),
                    ..FaultPlan::default()
                });
            }
            Fault::Disk { broker, plan } => self.machines[*broker].disk.set_faults(plan.clone()),
            Fault::Full { broker, bytes_left } => {
                let disk = &self.machines[*broker].disk;
                disk.set_faults(FaultPlan {
                    capacity_bytes: Some(disk.used_bytes() + bytes_left),
                    ..FaultPlan::default()
                });
            }
            Fault::Slow { broker, latencies } => {
                self.machines[*broker].host.latencies = latencies.clone();
            }
            Fault::Clock { broker, skew_ms } => self.machines[*broker].host.skew_ms = *skew_ms,
            Fault::Weather(link) => self.network.set_weather(link.clone()),
            Fault::Cut { .. } | Fault::Isolate { .. } => {
                let cut = Link {
                    cut: true,
                    ..Link::default()
                };
                for (from, to) in self.links_of(fault) {
                    self.network.set_link(from, to, cut.clone());
                }
            }
        }
    }

    fn end(&mut self, fault: &Fault) {
        match fault {
            // The machine is started again by the plan for it; clocks stay as they are.
            Fault::Kill { .. } | Fault::Stop { .. } | Fault::Clock { .. } => {}
            Fault::CrashIn { broker, .. }
            | Fault::Disk { broker, .. }
            | Fault::Full { broker, .. } => {
                self.machines[*broker].disk.set_faults(FaultPlan::default());
            }
            Fault::Slow { broker, .. } => {
                self.machines[*broker].host.latencies = Latencies::default();
            }
            Fault::Weather(_) => self.network.reset_weather(),
            Fault::Cut { .. } | Fault::Isolate { .. } => {
                for (from, to) in self.links_of(fault) {
                    self.network.reset_link(from, to);
                }
            }
        }
    }

    /// The links that a fault cuts.
    fn links_of(&self, fault: &Fault) -> Vec<(IpAddr, IpAddr)> {
        let hosts = self.machines.iter().map(|machine| machine.host.address);
        let services = self.services.iter().map(|host| host.address);
        let all: Vec<_> = hosts.chain(services).collect();
        match *fault {
            Fault::Cut { from, to, both } => {
                let mut links = vec![(all[from], all[to])];
                links.extend(both.then_some((all[to], all[from])));
                links
            }
            Fault::Isolate { host } => {
                let others = (0..all.len()).filter(|other| *other != host);
                others
                    .flat_map(|other| [(all[host], all[other]), (all[other], all[host])])
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// Ends all faults; what is down is started again.
    fn heal(&mut self) {
        self.trace.say("all faults end");
        self.network.heal();
        let now = system::now();
        for restart in self.restarts.iter_mut().flatten() {
            *restart = now.min(*restart);
        }
        for machine in &mut self.machines {
            machine.disk.set_faults(FaultPlan::default());
            machine.host.latencies = Latencies::default();
        }
    }

    fn kill_all(&mut self) {
        let keep = if self.bounds.power_losses {
            CrashKeep::Nothing
        } else {
            CrashKeep::Everything
        };
        for (machine, restart) in self.machines.iter_mut().zip(&mut self.restarts) {
            machine.kill(keep);
            *restart = Some(system::now());
        }
    }

    /// Reads all topics; `None` if that takes too long.
    fn read_all(
        &mut self,
        services: &Services,
        topics: Vec<String>,
    ) -> Option<Result<Read, String>> {
        let (services, brokers) = (services.clone(), self.broker_addresses());
        self.ask(|host| async move { read_from_all(&services, host, brokers, topics).await })
    }

    /// Goes on until something holds; false if it does not in time.
    fn step_until(&mut self, at_most: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let deadline = system::now() + at_most;
        while !holds(self) {
            if system::now() >= deadline {
                return false;
            }
            self.step();
        }
        true
    }

    fn all_ready(&self) -> bool {
        (0..self.machines.len()).all(|at| self.is_ready(at))
    }

    fn is_ready(&self, at: usize) -> bool {
        let machine = &self.machines[at];
        machine.health() == Health::Ready && !machine.disk.is_down()
    }

    fn healths(&self) -> String {
        let healths = self.machines.iter();
        healths
            .map(|machine| format!("{}: {:?}", machine.host.name, machine.health()))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// One step of time, for everybody.
    fn step(&mut self) {
        system::set_now(system::now() + STEP);
        self.network.deliver();
        for machine in &self.machines {
            machine.host.step();
        }
        for host in &self.services {
            host.step();
        }
        for at in 0..self.machines.len() {
            self.look_after(at);
        }
    }

    /// Does what an operator, or systemd, would do.
    fn look_after(&mut self, at: usize) {
        let now = system::now();
        let machine = &mut self.machines[at];
        let failed = matches!(machine.health(), Health::Failed(_)) && machine.host.is_on();
        if machine.disk.is_down() || failed {
            let keep = match (machine.disk.is_down(), self.bounds.power_losses) {
                (true, true) => CrashKeep::Random(self.rng.random()),
                _ => CrashKeep::Everything,
            };
            machine.kill(keep);
            let pause = Duration::from_millis(self.rng.random_range(50..1_500));
            self.restarts[at] = Some(now + pause);
        }
        let is_due = self.restarts[at].is_some_and(|time| time <= now);
        if is_due && machine.health() == Health::Down {
            self.restarts[at] = None;
            if machine.host.is_on() {
                // The process has ended in order; what it leaves is in the page cache.
                machine.kill(CrashKeep::Everything);
            }
            machine.start();
        }
    }
}

async fn read_from_all(
    services: &Services,
    host: IpAddr,
    brokers: Vec<String>,
    topics: Vec<String>,
) -> Result<Read, String> {
    let mut read = Read::new();
    for broker in brokers {
        let client = services.try_connect(host, vec![broker.clone()]).await;
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
