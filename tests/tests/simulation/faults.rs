//! What goes wrong in a run, and when: drawn from the seed, one thing after the other and some at
//! the same time.

use std::{ops::Range, time::Duration};

use flumen_broker::{
    disk::{CrashKeep, FaultPlan},
    executor::simulation::Latencies,
};
use rand::{RngExt, rngs::StdRng};

use crate::network::Link;

/// Something that goes wrong on a broker's machine or on the network.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The process or the machine dies; it is started again after a while.
    Kill { broker: usize, keep: CrashKeep },
    /// The broker is told to stop, and started again after a while.
    Stop { broker: usize },
    /// The machine with services dies; they are started again after a while.
    KillServices { host: usize },
    /// The machine dies with one of its next operations on the disk.
    CrashIn { broker: usize, operations: u64 },
    /// The disk fails.
    Disk { broker: usize, plan: FaultPlan },
    /// The disk has so many bytes left.
    Full { broker: usize, bytes_left: u64 },
    /// The machine is slow.
    Slow { broker: usize, latencies: Latencies },
    /// The wall clock jumps.
    Clock { broker: usize, skew_ms: i64 },
    /// All links are like this.
    Weather(Link),
    /// Between two hosts, by number, brokers first; one way or both.
    Cut { from: usize, to: usize, both: bool },
    /// What goes between two hosts, one way or both, is like this.
    Bad {
        from: usize,
        to: usize,
        both: bool,
        link: Link,
    },
    /// A host is cut off from all others.
    Isolate { host: usize },
    /// A broker is cut off from the other brokers, and not from clients.
    IsolateFromBrokers { broker: usize },
    /// All brokers lose power at once.
    Outage { keep: CrashKeep },
}

/// A fault, when it comes, and for how long it lasts.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

impl Planned {
    /// When it is over.
    pub(crate) fn until(&self) -> Duration {
        self.at + self.lasts
    }
}

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) brokers: usize,
    /// Brokers and clients.
    pub(crate) hosts: usize,
    /// Whether a loss of power may take what was not synced.
    pub(crate) power_losses: bool,
}

/// Draws the faults of a run of `length`.
pub(crate) fn draw(rng: &mut StdRng, bounds: Bounds, length: Duration) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut at = millis(rng, 500..3_000);
    // Some runs have calm stretches, some have none; in some nothing lasts.
    let pause_ms_max = rng.random_range(300..4_000);
    let lasts_ms_max = rng.random_range(100..4_000);
    while at < length {
        let lasts = millis(rng, 20..lasts_ms_max);
        planned.push(Planned {
            at,
            lasts,
            fault: draw_one(rng, bounds),
        });
        at += millis(rng, 10..pause_ms_max);
    }
    planned
}

fn draw_one(rng: &mut StdRng, bounds: Bounds) -> Fault {
    let broker = rng.random_range(0..bounds.brokers);
    match rng.random_range(0..107) {
        0..30 => Fault::Kill {
            broker,
            keep: keep(rng, bounds),
        },
        30..38 => Fault::Stop { broker },
        38..44 if bounds.power_losses => Fault::CrashIn {
            broker,
            operations: rng.random_range(0..200),
        },
        44..50 => Fault::Disk {
            broker,
            plan: disk_plan(rng, bounds),
        },
        50..54 => Fault::Full {
            broker,
            bytes_left: rng.random_range(0..500_000),
        },
        54..60 => Fault::Slow {
            broker,
            latencies: latencies(rng),
        },
        60..66 => Fault::Clock {
            broker,
            skew_ms: skew_ms(rng),
        },
        66..75 => Fault::Weather(weather(rng)),
        75..84 => {
            let (from, to) = two_hosts(rng, bounds);
            let both = rng.random();
            Fault::Cut { from, to, both }
        }
        84..88 => {
            let (from, to) = two_hosts(rng, bounds);
            let (both, link) = (rng.random(), weather(rng));
            Fault::Bad {
                from,
                to,
                both,
                link,
            }
        }
        88..91 => Fault::KillServices {
            host: rng.random_range(0..bounds.hosts - bounds.brokers),
        },
        91..100 => Fault::Isolate {
            host: rng.random_range(0..bounds.hosts),
        },
        100..105 => Fault::IsolateFromBrokers { broker },
        _ => Fault::Outage {
            keep: keep(rng, bounds),
        },
    }
}

/// How far a clock is off: by seconds, or by as much as a machine that was not told of its time
/// zone. Certificates bear a day between two brokers.
fn skew_ms(rng: &mut StdRng) -> i64 {
    const HOUR_MS: i64 = 3_600_000;
    let far_ms = if rng.random_bool(0.3) {
        11 * HOUR_MS
    } else {
        20_000
    };
    rng.random_range(-far_ms..far_ms)
}

fn two_hosts(rng: &mut StdRng, bounds: Bounds) -> (usize, usize) {
    let from = rng.random_range(0..bounds.hosts);
    let other = rng.random_range(1..bounds.hosts);
    (from, (from + other) % bounds.hosts)
}

fn keep(rng: &mut StdRng, bounds: Bounds) -> CrashKeep {
    if !bounds.power_losses {
        return CrashKeep::Everything;
    }
    match rng.random_range(0..3) {
        0 => CrashKeep::Everything,
        1 => CrashKeep::Nothing,
        _ => CrashKeep::Random(rng.random()),
    }
}

fn disk_plan(rng: &mut StdRng, bounds: Bounds) -> FaultPlan {
    let mut plan = FaultPlan::default();
    if bounds.power_losses && rng.random() {
        plan.fail_sync_in = Some(rng.random_range(0..50));
    } else {
        plan.fail_write_in = Some(rng.random_range(0..200));
    }
    plan
}

fn latencies(rng: &mut StdRng) -> Latencies {
    let slowest_ms = rng.random_range(10..800);
    Latencies {
        sync: Duration::from_millis(slowest_ms / 4)..Duration::from_millis(slowest_ms),
        blocking: Duration::ZERO..Duration::from_millis(slowest_ms / 2),
    }
}

fn weather(rng: &mut StdRng) -> Link {
    let slowest_ms = rng.random_range(2..150);
    Link {
        latency: Duration::from_millis(1)..Duration::from_millis(slowest_ms),
        loss: rng.random_range(0.0..0.25),
        duplication: rng.random_range(0.0..0.1),
        datagram_bytes_max: rng.random_range(1_252..6_100),
        ..Link::default()
    }
}

fn millis(rng: &mut StdRng, range: Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}
