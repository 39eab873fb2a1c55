//! `flumen bench consume`: records that are in the page cache, and how late new ones arrive.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use flumen_client::{Client, Raw, StartAt};
use hdrhistogram::Histogram;

use super::{
    child::Target,
    load::{self, Limit},
    payload::Values,
    produce::{Producers, Topic},
    report::{histogram, median, megabytes_per_second, quantile_ms, record},
};
use crate::{
    commands::bench::{BrokerArguments, Load},
    output::OutputFormat,
};

/// Records whose way from producer to consumer is timed.
const TIMED_RECORDS: u64 = 1_000;

/// Bytes of values that the topic is filled with unless the user says how many records.
const TOPIC_BYTES: u64 = 1 << 30;

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
    let values = Values::random(load.record_size);
    let records = load
        .records
        .unwrap_or(TOPIC_BYTES / u64::from(load.record_size));
    let filling = Load {
        batch_records: load.batch_records.max(2),
        ..load.clone()
    };
    let mut producers = Producers::connect(target, &filling, topic.name(), &values).await?;
    let filled = producers.round(records).await?.records;
    producers.close().await;

    let mut report = load::report(load);
    report.bench = "consume";
    report.wal_sync = Some(target.wal_sync().await?);
    // The first pass brings everything into the page cache.
    read_all(topic.client(), topic.name(), filled).await?;
    let mut pings = Vec::new();
    for _ in 0..load.rounds {
        report.limit_rounds.push(limit.receive().await?);
        pings.push(quantile_ms(&limit.ping().await?, 0.5));
        let (bytes, elapsed) = read_all(topic.client(), topic.name(), filled).await?;
        report.rounds.push(megabytes_per_second(bytes, elapsed));
        report.records += filled;
        progress.inc(1);
    }
    let latencies = time_arrivals(topic.client(), topic.name(), values).await?;
    progress.finish_and_clear();
    report.ping_p50_ms = median(&pings);
    report.latencies(&latencies);
    report.summarise();
    topic.delete().await?;
    report.print(output)
}

/// Reads the topic from its beginning to its end; returns the bytes of all values.
async fn read_all(
    client: &Client,
    topic: &str,
    records: u64,
) -> Result<(u64, std::time::Duration)> {
    let started = Instant::now();
    let mut consumer = client
        .consumer::<Raw>(topic)
        .from(StartAt::Beginning)
        .until_end()
        .build()
        .await?;
    let (mut count, mut bytes) = (0, 0);
    while let Some(batch) = consumer.next_batch().await {
        for (_, record) in batch?.records() {
            count += 1;
            bytes += record.value.map_or(0, <[u8]>::len) as u64;
        }
    }
    if count != records {
        bail!("{count} of {records} records came back");
    }
    Ok((bytes, started.elapsed()))
}

/// From handing one record to a producer to its arrival at a consumer that waits for it.
async fn time_arrivals(client: &Client, topic: &str, mut values: Values) -> Result<Histogram<u64>> {
    let mut consumer = client
        .consumer::<Raw>(topic)
        .from(StartAt::End)
        .build()
        .await?;
    let producer = client.producer::<Raw>(topic).build().await?;
    let mut latencies = histogram();
    for _ in 0..TIMED_RECORDS {
        let started = Instant::now();
        let receipt = producer.submit(values.next()).await?;
        consumer.next().await.context("the consumer ended")??;
        record(&mut latencies, started.elapsed());
        receipt.await?;
    }
    Ok(latencies)
}
