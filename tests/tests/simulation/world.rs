//! The simulated world: machines, hosts of services and the network between them, which go
//! through time step by step, and what faults do to them.

use std::{net::IpAddr, time::Duration};

use flumen_broker::{
    disk::{CrashKeep, FaultPlan},
    executor::simulation::Latencies,
};
use rand::{RngExt, rngs::StdRng};

use crate::{
    faults::{Bounds, Fault},
    host::{Host, STEP},
    jobs::ServiceHost,
    machine::{Health, Machine},
    network::{Link, Network},
    operator::{Order, Roster},
    system,
    trace::Trace,
};

/// All that there is in a run.
pub(crate) struct World {
    /// Those with a broker, and in some runs one that waits for its turn.
    pub(crate) machines: Vec<Machine>,
    /// When each machine is started again.
    pub(crate) restarts: Vec<Option<Duration>>,
    pub(crate) services: Vec<ServiceHost>,
    /// Where the operator works, whose machine has no faults.
    pub(crate) office: Host,
    pub(crate) roster: Roster,
    pub(crate) network: Network,
    pub(crate) trace: Trace,
    pub(crate) rng: StdRng,
    pub(crate) bounds: Bounds,
}

impl World {
    /// Goes on until something holds; false if it does not in time.
    pub(crate) fn step_until(&mut self, at_most: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let deadline = system::now() + at_most;
        while !holds(self) {
            if system::now() >= deadline {
                return false;
            }
            self.step();
        }
        true
    }

    /// One step of time, for everybody.
    pub(crate) fn step(&mut self) {
        system::set_now(system::now() + STEP);
        self.network.deliver();
        for machine in &mut self.machines {
            machine.host.step();
        }
        for services in &mut self.services {
            services.host.step();
        }
        self.office.step();
        for services in &mut self.services {
            services.look_after();
        }
        while let Some(order) = self.roster.next_order() {
            self.obey(order);
        }
        for at in 0..self.machines.len() {
            self.look_after(at);
        }
    }

    /// Does what the operator says.
    fn obey(&mut self, order: Order) {
        match order {
            Order::Start { machine: at, token } => {
                let machine = &mut self.machines[at];
                machine.token = Some(token);
                machine.is_wanted = true;
                self.restarts[at] = Some(system::now());
            }
            Order::Unplug { machine: at } => {
                self.machines[at].kill(CrashKeep::Nothing);
                self.machines[at].is_wanted = false;
                self.restarts[at] = None;
            }
            Order::Wipe { machine: at } => {
                if self.machines[at].host.is_on() {
                    self.machines[at].kill(CrashKeep::Nothing);
                }
                self.machines[at].wipe();
                self.restarts[at] = None;
            }
        }
    }

    /// Does what systemd would do.
    fn look_after(&mut self, at: usize) {
        let now = system::now();
        let machine = &mut self.machines[at];
        if !machine.is_wanted {
            return;
        }
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

    /// A fault comes.
    pub(crate) fn begin(&mut self, fault: &Fault, until: Duration) {
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
            Fault::KillServices { host } => {
                let services = &mut self.services[*host];
                self.network.close_all(services.host.address);
                services.kill(until);
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
            Fault::Outage { keep } => {
                for at in 0..self.machines.len() {
                    if self.machines[at].host.is_on() {
                        self.machines[at].kill(*keep);
                        self.restarts[at] = Some(until);
                    }
                }
            }
            Fault::Cut { .. } | Fault::Isolate { .. } | Fault::IsolateFromBrokers { .. } => {
                let cut = Link {
                    cut: true,
                    ..Link::default()
                };
                for (from, to) in self.links_of(fault) {
                    self.network.set_link(from, to, cut.clone());
                }
            }
            Fault::Bad { link, .. } => {
                for (from, to) in self.links_of(fault) {
                    self.network.set_link(from, to, link.clone());
                }
            }
        }
    }

    /// A fault is over.
    pub(crate) fn end(&mut self, fault: &Fault) {
        match fault {
            // Machines are started again by the plan for them; clocks stay as they are.
            Fault::Kill { .. }
            | Fault::Stop { .. }
            | Fault::Outage { .. }
            | Fault::KillServices { .. }
            | Fault::Clock { .. } => {}
            Fault::CrashIn { broker, .. }
            | Fault::Disk { broker, .. }
            | Fault::Full { broker, .. } => {
                self.machines[*broker].disk.set_faults(FaultPlan::default());
            }
            Fault::Slow { broker, .. } => {
                self.machines[*broker].host.latencies = Latencies::default();
            }
            Fault::Weather(_) => self.network.reset_weather(),
            Fault::Cut { .. }
            | Fault::Bad { .. }
            | Fault::Isolate { .. }
            | Fault::IsolateFromBrokers { .. } => {
                for (from, to) in self.links_of(fault) {
                    self.network.reset_link(from, to);
                }
            }
        }
    }

    /// The links that a fault cuts, or makes bad.
    fn links_of(&self, fault: &Fault) -> Vec<(IpAddr, IpAddr)> {
        let hosts = self.machines.iter().map(|machine| machine.host.address);
        let services = self.services.iter().map(|services| services.host.address);
        let all: Vec<_> = hosts.chain(services).collect();
        match *fault {
            Fault::Cut { from, to, both } | Fault::Bad { from, to, both, .. } => {
                let mut links = vec![(all[from], all[to])];
                links.extend(both.then_some((all[to], all[from])));
                links
            }
            Fault::Isolate { host } => both_ways(&all, all[host]),
            Fault::IsolateFromBrokers { broker } => {
                both_ways(&all[..self.machines.len()], all[broker])
            }
            _ => Vec::new(),
        }
    }

    /// Ends all faults; what is down is started again.
    pub(crate) fn heal(&mut self) {
        self.trace.say("all faults end");
        self.network.heal();
        let now = system::now();
        for restart in self.restarts.iter_mut().flatten() {
            *restart = now.min(*restart);
        }
        for services in &mut self.services {
            services.heal();
        }
        for machine in &mut self.machines {
            machine.disk.set_faults(FaultPlan::default());
            machine.host.latencies = Latencies::default();
        }
    }

    /// The end of all machines with brokers at once; they are started again.
    pub(crate) fn kill_all(&mut self) {
        let keep = if self.bounds.power_losses {
            CrashKeep::Nothing
        } else {
            CrashKeep::Everything
        };
        for (machine, restart) in self.machines.iter_mut().zip(&mut self.restarts) {
            if machine.is_wanted {
                machine.kill(keep);
                *restart = Some(system::now());
            }
        }
    }

    /// Whether all brokers serve that should.
    pub(crate) fn all_ready(&self) -> bool {
        let mut machines = self.machines.iter();
        machines.all(|machine| !machine.is_wanted || machine.is_ready())
    }

    /// How it is with the brokers, for the reader.
    pub(crate) fn healths(&self) -> String {
        let healths = self.machines.iter();
        healths
            .map(|machine| format!("{}: {:?}", machine.host.name, machine.health()))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// The links between a host and all others of some.
fn both_ways(all: &[IpAddr], host: IpAddr) -> Vec<(IpAddr, IpAddr)> {
    let others = all.iter().copied().filter(|other| *other != host);
    others
        .flat_map(|other| [(host, other), (other, host)])
        .collect()
}
