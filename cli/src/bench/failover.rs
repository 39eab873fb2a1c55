//! `flumen bench failover`: how long a client waits when its leader is killed, and when a leader
//! is told to stop.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use flumen_client::{Client, Message, Producer, Raw, TopicConfig};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{cluster::Cluster, report::median};
use crate::{
    commands::bench::FailoverArguments,
    output::{OutputFormat, counted, progress, write_fields},
};

const TOPIC: &str = "flumen-bench";

/// The wait between two sends of a producer: a client that waits, not one that loads the machine.
const SEND_INTERVAL: Duration = Duration::from_millis(1);

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
struct Report {
    bench: &'static str,
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
    brokers: u32,
    partitions: u32,
    producers: u32,
    method: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

const METHOD: &str = "brokers in processes of their own on one machine; each producer sends to one \
                      partition, one record after the other; the leader of the first producer's \
                      partition is killed, or told to stop, and started again until all is well";

pub(crate) async fn run(arguments: &FailoverArguments, output: OutputFormat) -> Result<()> {
    let mut cluster = Cluster::start(&arguments.cluster).await?;
    let measured = measure(&mut cluster, arguments).await;
    cluster.stop().await?;
    measured?.print(output)
}

async fn measure(cluster: &mut Cluster, arguments: &FailoverArguments) -> Result<Report> {
    let client = cluster.connect().await?;
    let config = TopicConfig {
        partitions: arguments.partitions,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await?;
    let mut senders = Senders::start(&client, arguments).await?;
    let mut report = Report {
        bench: "failover",
        brokers: arguments.cluster.brokers,
        partitions: arguments.partitions,
        producers: arguments.producers,
        method: METHOD,
        ..Report::default()
    };
    let all = arguments.runs + arguments.handovers;
    let progress = progress(Some(all.into()), "runs");
    for run in 0..all {
        let leader = settled_leader(cluster, &client).await?;
        senders.watch();
        if run < arguments.runs {
            progress.set_message("killing");
            cluster.kill(leader).await?;
            report.runs.push(milliseconds(senders.recovery().await?));
        } else {
            progress.set_message("stopping");
            let status = cluster.terminate(leader).await?;
            if !status.success() {
                bail!("the broker did not stop in order: {status}");
            }
            tokio::time::sleep(AFTERMATH).await;
            report.handovers.push(milliseconds(senders.longest_pause()));
        }
        cluster.restart(leader)?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    senders.add_to(&mut report);
    client.close().await;
    report.summarise();
    Ok(report)
}

/// The broker that leads the first producer's partition, once the cluster is well.
async fn settled_leader(cluster: &Cluster, client: &Client) -> Result<usize> {
    cluster.until_well(client).await?;
    tokio::time::sleep(SETTLE).await;
    let status = cluster.until_well(client).await?;
    let topic = client.admin().describe_topic(TOPIC).await?;
    let leader = topic.partitions[0].leader;
    cluster.position(&status, leader.context("the partition has no leader")?)
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

    fn add_to(&self, report: &mut Report) {
        for trace in &self.traces {
            let trace = trace.lock();
            report.sends += trace.sends;
            report.failed_sends += trace.failed;
        }
    }
}

async fn send(producer: Producer<Raw>, partition: u32, trace: Arc<Mutex<Trace>>) {
    loop {
        let message = Message::new(Raw::from_static(b"are you there?")).partition(partition);
        let outcome = producer.send(message).await;
        if let Err(error) = &outcome {
            tracing::warn!(partition, %error, "a send failed");
        }
        trace.lock().note(outcome.is_ok());
        tokio::time::sleep(SEND_INTERVAL).await;
    }
}

impl Report {
    fn summarise(&mut self) {
        self.p50_ms = median(&self.runs);
        self.worst_ms = self.runs.iter().copied().fold(0.0, f64::max);
        self.longest_pause_ms = self.handovers.iter().copied().fold(0.0, f64::max);
        if cfg!(debug_assertions) {
            self.warnings
                .push("this is a debug build; build with --release".to_owned());
        }
    }

    fn print(&self, output: OutputFormat) -> Result<()> {
        output.print(self, |out| {
            let load = format!(
                "{}, {}, {}",
                counted(self.brokers.into(), "broker"),
                counted(self.partitions.into(), "partition"),
                counted(self.producers.into(), "producer")
            );
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
            let failed = format!("{} of {}", self.failed_sends, self.sends);
            let mut fields: Vec<(&str, &dyn std::fmt::Display)> = vec![
                ("bench", &self.bench),
                ("load", &load),
                ("leader killed", &killed),
                ("leader stopped", &stopped),
                ("failed sends", &failed),
                ("method", &self.method),
            ];
            for warning in &self.warnings {
                fields.push(("warning", warning));
            }
            write_fields(out, &fields)
        })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
