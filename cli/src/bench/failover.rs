//! `flumen bench failover`: how long a client waits when its leader is killed, and when a leader
//! is told to stop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use flumen_client::{Client, Producer, Raw};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    cluster::Cluster,
    report::median,
    trial::{Findings, SEND_INTERVAL, TOPIC, Trial, leader_when_well, question},
};
use crate::{
    commands::bench::FailoverArguments,
    output::{OutputFormat, counted, progress},
};

/// An acknowledgement this soon after the kill was on its way before: no leader is elected so fast.
const ON_ITS_WAY: Duration = Duration::from_millis(20);

/// How long a client may wait until the benchmark gives up.
const OUTAGE_MAX: Duration = Duration::from_mins(1);

/// How long the cluster is left alone before each run.
const SETTLE: Duration = Duration::from_secs(1);

/// How long pauses are still looked for after a broker has stopped in order.
const AFTERMATH: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Found {
    /// From SIGKILL of the leader to the next acknowledged send, of each run.
    runs: Vec<f64>,
    p50_ms: f64,
    worst_ms: f64,
    /// The longest pause between acknowledged sends while a broker stops in order, of each run.
    handovers: Vec<f64>,
    longest_pause_ms: f64,
    /// Sends that failed, in all runs.
    failed_sends: u64,
    sends: u64,
    producers: u32,
}

const METHOD: &str = "brokers in processes of their own on one machine; each producer sends to one \
                      partition, one record after the other; the leader of the first producer's \
                      partition is killed, or told to stop, and started again until all is well";

pub(crate) async fn run(arguments: &FailoverArguments, output: OutputFormat) -> Result<()> {
    let trial = Trial {
        bench: "failover",
        method: METHOD,
        cluster: &arguments.cluster,
        partitions: arguments.partitions,
    };
    let measure =
        async |cluster: &mut Cluster, client: &Client| measure(cluster, client, arguments).await;
    trial.run(output, measure).await
}

async fn measure(
    cluster: &mut Cluster,
    client: &Client,
    arguments: &FailoverArguments,
) -> Result<Found> {
    let mut senders = Senders::start(client, arguments).await?;
    let mut found = Found {
        producers: arguments.producers,
        ..Found::default()
    };
    let all = arguments.runs + arguments.handovers;
    let progress = progress(Some(all.into()), "runs");
    for run in 0..all {
        let leader = settled_leader(cluster, client).await?;
        senders.watch();
        if run < arguments.runs {
            progress.set_message("killing");
            cluster.kill(leader).await?;
            found.runs.push(milliseconds(senders.recovery().await?));
        } else {
            progress.set_message("stopping");
            let status = cluster.terminate(leader).await?;
            if !status.success() {
                bail!("the broker did not stop in order: {status}");
            }
            tokio::time::sleep(AFTERMATH).await;
            found.handovers.push(milliseconds(senders.longest_pause()));
        }
        cluster.restart(leader)?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    senders.add_to(&mut found);
    found.summarise();
    Ok(found)
}

/// The broker that leads the first producer's partition, once the cluster is well.
async fn settled_leader(cluster: &Cluster, client: &Client) -> Result<usize> {
    cluster.until_well(client).await?;
    tokio::time::sleep(SETTLE).await;
    let (status, leader) = leader_when_well(cluster, client).await?;
    cluster.position(&status, leader)
}

/// What a producer has seen since it is watched.
#[derive(Debug)]
struct Trace {
    since: Instant,
    last: Instant,
    /// The first acknowledgement that was not on its way before.
    recovered: Option<Instant>,
    longest_pause: Duration,
    sends: u64,
    failed: u64,
}

impl Trace {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            last: now,
            recovered: None,
            longest_pause: Duration::ZERO,
            sends: 0,
            failed: 0,
        }
    }

    fn watch(&mut self) {
        let (sends, failed) = (self.sends, self.failed);
        *self = Self {
            sends,
            failed,
            ..Self::new()
        };
    }

    fn note(&mut self, is_acknowledged: bool) {
        self.sends += 1;
        if !is_acknowledged {
            self.failed += 1;
            return;
        }
        let now = Instant::now();
        self.longest_pause = self.longest_pause.max(now - self.last);
        self.last = now;
        if self.recovered.is_none() && now - self.since > ON_ITS_WAY {
            self.recovered = Some(now);
        }
    }
}

/// Producers that send one record after the other, each to a partition of its own.
struct Senders {
    traces: Vec<Arc<Mutex<Trace>>>,
    /// Ended when the benchmark is over.
    _tasks: JoinSet<()>,
}

impl Senders {
    async fn start(client: &Client, arguments: &FailoverArguments) -> Result<Self> {
        let mut traces = Vec::new();
        let mut tasks = JoinSet::new();
        for index in 0..arguments.producers {
            let producer = client.producer::<Raw>(TOPIC).build().await?;
            let partition = index * arguments.partitions / arguments.producers;
            let trace = Arc::new(Mutex::new(Trace::new()));
            tasks.spawn(send(producer, partition, Arc::clone(&trace)));
            traces.push(trace);
        }
        Ok(Self {
            traces,
            _tasks: tasks,
        })
    }

    /// From now on pauses count.
    fn watch(&mut self) {
        for trace in &self.traces {
            trace.lock().watch();
        }
    }

    /// Waits until the first producer has an acknowledgement again: how long it took.
    async fn recovery(&self) -> Result<Duration> {
        let deadline = Instant::now() + OUTAGE_MAX;
        loop {
            {
                let trace = self.traces[0].lock();
                if let Some(recovered) = trace.recovered {
                    return Ok(recovered - trace.since);
                }
            }
            if Instant::now() > deadline {
                bail!("no send was acknowledged within {OUTAGE_MAX:?} of the kill");
            }
            tokio::time::sleep(SEND_INTERVAL).await;
        }
    }

    fn longest_pause(&self) -> Duration {
        let pauses = self.traces.iter().map(|trace| {
            let trace = trace.lock();
            trace.longest_pause.max(trace.last.elapsed())
        });
        pauses.max().unwrap_or_default()
    }

    fn add_to(&self, found: &mut Found) {
        for trace in &self.traces {
            let trace = trace.lock();
            found.sends += trace.sends;
            found.failed_sends += trace.failed;
        }
    }
}

async fn send(producer: Producer<Raw>, partition: u32, trace: Arc<Mutex<Trace>>) {
    loop {
        let outcome = producer.send(question(partition)).await;
        if let Err(error) = &outcome {
            tracing::warn!(partition, %error, "a send failed");
        }
        trace.lock().note(outcome.is_ok());
        tokio::time::sleep(SEND_INTERVAL).await;
    }
}

impl Found {
    fn summarise(&mut self) {
        self.p50_ms = median(&self.runs);
        self.worst_ms = self.runs.iter().copied().fold(0.0, f64::max);
        self.longest_pause_ms = self.handovers.iter().copied().fold(0.0, f64::max);
    }
}

impl Findings for Found {
    fn fields(&self) -> Vec<(&'static str, String)> {
        let killed = format!(
            "p50 {:.0} ms, worst {:.0} ms of {}",
            self.p50_ms,
            self.worst_ms,
            counted(self.runs.len() as u64, "run")
        );
        let stopped = format!(
            "longest pause {:.0} ms in {}",
            self.longest_pause_ms,
            counted(self.handovers.len() as u64, "run")
        );
        vec![
            ("producers", counted(self.producers.into(), "producer")),
            ("leader killed", killed),
            ("leader stopped", stopped),
            (
                "failed sends",
                format!("{} of {}", self.failed_sends, self.sends),
            ),
        ]
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
