//! `flumen bench catch-up`: how long a broker that was away takes to have everything again, and
//! what that costs those who send meanwhile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use flumen_client::{Client, Producer, Raw};
use flumen_protocol::ids::BrokerId;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

use super::{
    cluster::Cluster,
    payload::Values,
    report::{histogram, quantile_ms, record},
    trial::{Findings, SEND_INTERVAL, TOPIC, Trial, leader_when_well, question},
};
use crate::{
    commands::bench::CatchUpArguments,
    output::{OutputFormat, progress},
};

/// How long they are watched while nothing else happens.
const BASELINE: Duration = Duration::from_secs(10);

/// How long the cluster is left alone before anything is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// Bytes of each record that the broker misses.
const RECORD_BYTES: u32 = 1_000;

/// Records that are handed over at once.
const RECORDS_AT_ONCE: u64 = 1_000;

/// A broker that lacks no more than this has everything but what was just sent: brokers tell each
/// other a few times a second.
const IN_SYNC_BYTES: u64 = 1 << 20;

/// How often it is asked for.
const POLL: Duration = Duration::from_millis(50);

/// How long it may take until the benchmark gives up.
const PATIENCE: Duration = Duration::from_mins(10);

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    missed_bytes: u64,
    /// From the start of the broker's process until it had all that it missed.
    in_sync_seconds: f64,
    /// Of sends one after the other while all is well.
    baseline_p50_ms: f64,
    baseline_p99_ms: f64,
    /// The same while the broker catches up.
    catching_up_p50_ms: f64,
    catching_up_p99_ms: f64,
    p99_ratio: f64,
    sends: u64,
    failed_sends: u64,
}

const METHOD: &str = "brokers in processes of their own on one machine and disk; a broker that \
                      does not lead the watched producer's partition is killed, misses what is \
                      written, and is started again";

pub(crate) async fn run(arguments: &CatchUpArguments, output: OutputFormat) -> Result<()> {
    let trial = Trial {
        bench: "catch-up",
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
    arguments: &CatchUpArguments,
) -> Result<Found> {
    cluster.until_well(client).await?;
    tokio::time::sleep(SETTLE).await;

    let progress = progress(Some(3), "steps");
    let watched = Watched::start(client).await?;
    progress.set_message("all is well");
    watched.begin_anew();
    tokio::time::sleep(BASELINE).await;
    let baseline = watched.begin_anew();
    progress.inc(1);

    progress.set_message("writing without a broker");
    let (away, id) = a_follower(cluster, client).await?;
    cluster.kill(away).await?;
    write(client, arguments).await?;
    tokio::time::sleep(SETTLE).await;
    progress.inc(1);

    progress.set_message("catching up");
    watched.begin_anew();
    let started = Instant::now();
    cluster.restart(away)?;
    until_in_sync(client, id).await?;
    let in_sync = started.elapsed();
    let meanwhile = watched.begin_anew();
    progress.finish_and_clear();
    let p99 = |seen: &Seen| quantile_ms(&seen.latencies, 0.99);
    Ok(Found {
        missed_bytes: arguments.missed.as_u64(),
        in_sync_seconds: in_sync.as_secs_f64(),
        baseline_p50_ms: quantile_ms(&baseline.latencies, 0.5),
        baseline_p99_ms: p99(&baseline),
        catching_up_p50_ms: quantile_ms(&meanwhile.latencies, 0.5),
        catching_up_p99_ms: p99(&meanwhile),
        p99_ratio: p99(&meanwhile) / p99(&baseline),
        sends: baseline.latencies.len() + meanwhile.latencies.len(),
        failed_sends: baseline.failed + meanwhile.failed,
    })
}

/// A broker that does not lead the watched partition: its process, and its id.
async fn a_follower(cluster: &Cluster, client: &Client) -> Result<(usize, BrokerId)> {
    let (status, leader) = leader_when_well(cluster, client).await?;
    let other = status.brokers.iter().find(|broker| {
        // The first broker's address is the one that clients are given at first.
        broker.id != leader && cluster.position(&status, broker.id).is_ok_and(|at| at > 0)
    });
    let id = other.context("no broker follows")?.id;
    Ok((cluster.position(&status, id)?, id))
}

/// Writes what the broker will have missed, to all partitions.
async fn write(client: &Client, arguments: &CatchUpArguments) -> Result<()> {
    let producer = client.producer::<Raw>(TOPIC).build().await?;
    let mut values = Values::random(RECORD_BYTES);
    let mut left = arguments.missed.as_u64().div_ceil(u64::from(RECORD_BYTES));
    while left > 0 {
        let count = left.min(RECORDS_AT_ONCE);
        let records = (0..count).map(|_| values.next());
        producer.enqueue_all(records).await?;
        left -= count;
    }
    Ok(producer.close().await?)
}

/// Waits until a broker has what it missed.
async fn until_in_sync(client: &Client, broker: BrokerId) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(status) = client.admin().cluster_status().await
            && let Some(found) = status.broker(broker)
            && found.reachable
            && found.lag_bytes <= IN_SYNC_BYTES
        {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the broker has not caught up within {PATIENCE:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What became of sends.
struct Seen {
    latencies: Histogram<u64>,
    failed: u64,
}

impl Seen {
    fn new() -> Self {
        Self {
            latencies: histogram(),
            failed: 0,
        }
    }
}

/// A producer that sends one record after the other to the first partition.
struct Watched {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    async fn start(client: &Client) -> Result<Self> {
        // Its records wait for nobody else's.
        let producer = client.producer::<Raw>(TOPIC).dedicated().build().await?;
        let seen = Arc::new(Mutex::new(Seen::new()));
        let task = tokio::spawn(send(producer, Arc::clone(&seen)));
        Ok(Self { seen, task })
    }

    /// What was seen since the last call.
    fn begin_anew(&self) -> Seen {
        std::mem::replace(&mut *self.seen.lock(), Seen::new())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send(producer: Producer<Raw>, seen: Arc<Mutex<Seen>>) {
    loop {
        let started = Instant::now();
        let outcome = producer.send(question(0)).await;
        {
            let mut seen = seen.lock();
            record(&mut seen.latencies, started.elapsed());
            seen.failed += u64::from(outcome.is_err());
        }
        tokio::time::sleep(SEND_INTERVAL).await;
    }
}

impl Findings for Found {
    fn fields(&self) -> Vec<(&'static str, String)> {
        let times = |p50: f64, p99: f64| format!("p50 {p50:.2} ms, p99 {p99:.2} ms");
        vec![
            ("missed bytes", self.missed_bytes.to_string()),
            ("in sync", format!("after {:.1} s", self.in_sync_seconds)),
            (
                "sends while all is well",
                times(self.baseline_p50_ms, self.baseline_p99_ms),
            ),
            (
                "sends meanwhile",
                times(self.catching_up_p50_ms, self.catching_up_p99_ms),
            ),
            ("ratio of the p99", format!("{:.2}", self.p99_ratio)),
            (
                "failed sends",
                format!("{} of {}", self.failed_sends, self.sends),
            ),
        ]
    }
}
