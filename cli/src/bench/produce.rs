//! `flumen bench produce`: from a record in the client's hands to its durable receipt.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use flumen_client::{Client, Name, PendingReceipt, Producer, Raw, TopicConfig};
use hdrhistogram::Histogram;

use super::{
    child::Target,
    load::{self, Limit},
    payload::Values,
    report::{histogram, median, megabytes_per_second, quantile_ms, record},
};
use crate::{
    commands::bench::{BrokerArguments, Load},
    output::OutputFormat,
};

/// The topic that is made for a benchmark, and deleted afterwards.
const TOPIC: &str = "flumen-bench";

/// Records of the first part of the warm-up, by which the size of a round is found.
const PROBE_RECORDS: u64 = 2_000;

/// Batches that gather or wait to be sent besides those on their way, when the user says how
/// many these are.
const BATCHES_WAITING: usize = 2;

/// Bytes that a record takes in a producer's memory besides its own, about.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// The least memory of a producer.
const MEMORY_BYTES_MIN: usize = 1 << 20;

pub(crate) async fn run(
    load: &Load,
    arguments: &BrokerArguments,
    output: OutputFormat,
) -> Result<()> {
    let target = Target::start(arguments).await?;
    let measured = measure(load, &target, output).await;
    target.stop().await?;
    measured
}

async fn measure(load: &Load, target: &Target, output: OutputFormat) -> Result<()> {
    let progress = load::progress(load);
    let limit = Limit::start(load).await?;
    let topic = Topic::create(target, load, "").await?;
    let mut producers = Producers::connect(
        target,
        load,
        topic.name(),
        &Values::random(load.record_size),
    )
    .await?;
    let round_records = producers.warm_up(load).await?;

    let mut report = load::report(load);
    report.bench = "produce";
    report.wal_sync = Some(target.wal_sync().await?);
    let mut latencies = histogram();
    let mut pings = Vec::new();
    let mut ping_rates = Vec::new();
    for _ in 0..load.rounds {
        report.limit_rounds.push(limit.send().await?);
        pings.push(quantile_ms(&limit.ping().await?, 0.5));
        if load.is_one_by_one() {
            ping_rates.push(limit.pings(load).await?);
        }
        let round = producers.round(round_records).await?;
        report.rounds.push(round.megabytes_per_second);
        report.records += round.records;
        latencies.add(&round.latencies)?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    report.ping_p50_ms = median(&pings);
    report.pings_per_second = (!ping_rates.is_empty()).then(|| median(&ping_rates));
    report.latencies(&latencies);
    report.summarise();
    producers.close().await;
    topic.delete().await?;
    report.print(output)
}

/// A topic that lives as long as a benchmark.
#[derive(Debug)]
pub(super) struct Topic {
    client: Client,
    name: String,
}

impl Topic {
    pub(super) async fn create(target: &Target, load: &Load, suffix: &str) -> Result<Self> {
        let client = target.connect().await?;
        let name = Name::new(format!("{TOPIC}{suffix}-{:08x}", std::process::id()))?.to_string();
        let config = TopicConfig {
            partitions: load.partitions,
            ..TopicConfig::default()
        };
        client.admin().create_topic(&name, config).await?;
        Ok(Self { client, name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) async fn delete(self) -> Result<()> {
        self.client
            .admin()
            .delete_topic(&self.name)
            .await
            .with_context(|| format!("cannot delete the benchmark's topic {}", self.name))?;
        self.client.close().await;
        Ok(())
    }
}

/// One round.
pub(super) struct Round {
    pub(super) megabytes_per_second: f64,
    pub(super) records: u64,
    pub(super) latencies: Histogram<u64>,
}

/// All producers of a benchmark.
pub(super) struct Producers {
    workers: Vec<Worker>,
    record_size: u32,
}

/// A producer with what it sends.
struct Worker {
    client: Client,
    producer: Producer<Raw>,
    values: Values,
    batch_records: u64,
    /// Records that may wait for their receipt when each is awaited; batches otherwise.
    in_flight: usize,
}

impl Producers {
    pub(super) async fn connect(
        target: &Target,
        load: &Load,
        topic: &str,
        values: &Values,
    ) -> Result<Self> {
        let mut workers: Vec<Worker> = Vec::new();
        let connections = load.connections() as usize;
        for number in 0..load.producers as usize {
            let in_flight = load.in_flight() as usize;
            let client = match workers.get(number % connections) {
                Some(worker) => worker.client.clone(),
                None => target.connect().await?,
            };
            let mut builder = client.producer::<Raw>(topic).compression(load.compression);
            if load.dedicated {
                builder = builder.dedicated();
            }
            if load.batch_records > 1 {
                builder = builder
                    .batch_records(load.batch_records)
                    .batch_bytes(flumen_protocol::limits::BATCH_BYTES_MAX)
                    .linger(LINGER);
            } else if load.no_coalescing {
                builder = builder.batch_records(1);
            }
            if load.in_flight.is_some() {
                let record = load.record_size as usize + RECORD_OVERHEAD_BYTES;
                let batches = (in_flight + BATCHES_WAITING) * load.batch_records as usize;
                builder = builder
                    .in_flight_batches(in_flight)
                    .memory_bytes((batches * record).max(MEMORY_BYTES_MIN));
            }
            workers.push(Worker {
                producer: builder.build().await?,
                client,
                values: values.clone(),
                batch_records: u64::from(load.batch_records),
                in_flight,
            });
        }
        Ok(Self {
            workers,
            record_size: load.record_size,
        })
    }

    /// Closes all connections in order.
    pub(super) async fn close(self) {
        for worker in self.workers {
            worker.client.close().await;
        }
    }

    /// Runs until everything is warm, and says how many records make a round.
    pub(super) async fn warm_up(&mut self, load: &Load) -> Result<u64> {
        let started = Instant::now();
        let mut records = PROBE_RECORDS;
        let mut fastest = 0.0_f64;
        while started.elapsed() < load.warm_up.duration() || fastest == 0.0 {
            let round = self.round(records).await?;
            let per_second = round.megabytes_per_second * 1e6 / f64::from(self.record_size);
            fastest = fastest.max(per_second);
            // Long enough to tell something, short enough to stop in time.
            records = ((per_second / 4.0) as u64).max(PROBE_RECORDS);
        }
        let round = match load.records {
            Some(records) => records / u64::from(load.rounds),
            None => (fastest * load.round_time.duration().as_secs_f64()) as u64,
        };
        let smallest = u64::from(load.producers) * u64::from(load.batch_records);
        Ok(round.max(smallest))
    }

    /// Sends so many records with all producers at once; ends when all are durable.
    pub(super) async fn round(&mut self, records: u64) -> Result<Round> {
        let each = (records / self.workers.len() as u64).max(1);
        let started = Instant::now();
        let mut tasks = Vec::new();
        for mut worker in self.workers.drain(..) {
            tasks.push(tokio::spawn(async move {
                let latencies = worker.send(each).await;
                (worker, latencies)
            }));
        }
        let mut latencies = histogram();
        for task in tasks {
            let (worker, of_worker) = task.await?;
            self.workers.push(worker);
            latencies.add(of_worker?)?;
        }
        let elapsed = started.elapsed();
        let records = each * self.workers.len() as u64;
        let bytes = records * u64::from(self.record_size);
        Ok(Round {
            megabytes_per_second: megabytes_per_second(bytes, elapsed),
            records,
            latencies,
        })
    }
}

/// A full batch leaves at once; what is left over at the end of a round is flushed.
const LINGER: Duration = Duration::from_millis(5);

impl Worker {
    async fn send(&mut self, records: u64) -> Result<Histogram<u64>> {
        if self.batch_records == 1 {
            self.send_awaiting_each(records).await
        } else {
            self.send_in_batches(records).await
        }
    }

    /// Every record has a receipt of its own; so many wait for theirs at once.
    async fn send_awaiting_each(&mut self, records: u64) -> Result<Histogram<u64>> {
        let mut latencies = histogram();
        let mut waiting: VecDeque<(Instant, PendingReceipt)> = VecDeque::new();
        for _ in 0..records {
            if waiting.len() == self.in_flight
                && let Some((started, receipt)) = waiting.pop_front()
            {
                receipt.await?;
                record(&mut latencies, started.elapsed());
            }
            let started = Instant::now();
            waiting.push_back((started, self.producer.submit(self.values.next()).await?));
        }
        for (started, receipt) in waiting {
            receipt.await?;
            record(&mut latencies, started.elapsed());
        }
        Ok(latencies)
    }

    /// Records go out in full batches; the last one of each is awaited on the side, which
    /// tells the latency of the batch.
    async fn send_in_batches(&mut self, records: u64) -> Result<Histogram<u64>> {
        let (sender, mut receipts) =
            tokio::sync::mpsc::unbounded_channel::<(Instant, PendingReceipt)>();
        let timing = tokio::spawn(async move {
            let mut latencies = histogram();
            while let Some((started, receipt)) = receipts.recv().await {
                receipt.await?;
                record(&mut latencies, started.elapsed());
            }
            Ok::<_, flumen_client::SendError>(latencies)
        });
        let mut left = records;
        while left > 0 {
            let batch = left.min(self.batch_records);
            let values = &mut self.values;
            let all_but_one = (1..batch).map(|_| values.next());
            self.producer.enqueue_all(all_but_one).await?;
            let started = Instant::now();
            let receipt = self.producer.submit(self.values.next()).await?;
            // The other side ends only with an error that it tells itself.
            let _ = sender.send((started, receipt));
            left -= batch;
        }
        self.producer.flush().await?;
        drop(sender);
        Ok(timing.await??)
    }
}
