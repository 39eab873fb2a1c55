//! What a benchmark found.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::output::{OutputFormat, count, counted, write_fields};

/// Figures of one benchmark. Megabytes are millions of bytes of record values.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) bench: &'static str,
    pub(super) records_per_second: f64,
    pub(super) megabytes_per_second: f64,
    /// From handing a record over to its receipt; when consuming, to its arrival.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Bare QUIC in the same run.
    pub(super) limit_megabytes_per_second: f64,
    pub(super) ratio_to_limit: f64,
    /// A round trip of bare QUIC in the same run.
    pub(super) ping_p50_ms: f64,
    pub(super) ratio_to_ping: f64,
    /// Round trips of bare QUIC in the same run when as many callers as there are producers make
    /// them at the same time, each one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pings_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nanoseconds_per_record: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) throughput_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wal_sync: Option<String>,
    pub(super) record_size: u32,
    pub(super) batch_records: u32,
    pub(super) producers: u32,
    pub(super) connections: u32,
    /// Whether each producer has a delivery of its own.
    pub(super) dedicated: bool,
    pub(super) in_flight: u32,
    pub(super) partitions: u32,
    /// Records that were measured, without those to warm up.
    pub(super) records: u64,
    /// Megabytes per second of each round.
    pub(super) rounds: Vec<f64>,
    pub(super) limit_rounds: Vec<f64>,
    pub(super) method: &'static str,
    /// What makes the figures worth less, such as a debug build.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
}

/// How figures came about.
pub(super) const METHOD: &str = "medians of rounds that take turns with rounds of bare QUIC, after \
                                 a warm-up; broker and bare QUIC in processes of their own";

/// Bytes of the unit in which rates are told.
const MEGABYTE: f64 = 1e6;

impl Report {
    /// Rates and ratios from the rounds.
    pub(super) fn summarise(&mut self) {
        self.megabytes_per_second = median(&self.rounds);
        self.records_per_second =
            self.megabytes_per_second * MEGABYTE / f64::from(self.record_size.max(1));
        self.limit_megabytes_per_second = median(&self.limit_rounds);
        self.ratio_to_limit = self.megabytes_per_second / self.limit_megabytes_per_second;
        self.ratio_to_ping = self.p50_ms / self.ping_p50_ms;
        self.method = METHOD;
        self.warnings.extend(warnings());
    }

    /// Takes the latencies from a histogram of nanoseconds.
    pub(super) fn latencies(&mut self, nanoseconds: &Histogram<u64>) {
        self.p50_ms = quantile_ms(nanoseconds, 0.5);
        self.p99_ms = quantile_ms(nanoseconds, 0.99);
    }

    pub(super) fn print(&self, output: OutputFormat) -> Result<()> {
        output.print(self, |out| {
            let records = format!("{} /s", count(self.records_per_second as u64));
            let rate = format!("{:.1} MB/s", self.megabytes_per_second);
            let limit = format!(
                "{:.1} MB/s, of which this is {:.3}",
                self.limit_megabytes_per_second, self.ratio_to_limit
            );
            let latency = format!("p50 {:.4} ms, p99 {:.4} ms", self.p50_ms, self.p99_ms);
            let ping = format!(
                "p50 {:.4} ms, of which this is {:.2} times",
                self.ping_p50_ms, self.ratio_to_ping
            );
            let load = format!(
                "{} B a record, {} a batch, {}, {} in flight, {}",
                self.record_size,
                self.batch_records,
                counted(self.producers.into(), "producer"),
                self.in_flight,
                counted(self.partitions.into(), "partition")
            );
            let mut fields: Vec<(&str, &dyn std::fmt::Display)> = vec![
                ("bench", &self.bench),
                ("load", &load),
                ("records", &records),
                ("payload", &rate),
                ("latency", &latency),
                ("bare QUIC", &limit),
                ("bare QUIC ping", &ping),
            ];
            let pings = self.pings_per_second.map(|pings| {
                let share = self.records_per_second / pings;
                let pings = count(pings as u64);
                format!("{pings} /s by all at once, of which this is {share:.3}")
            });
            if let Some(pings) = &pings {
                fields.push(("bare QUIC pings", pings));
            }
            let sync = self.wal_sync.clone().unwrap_or_default();
            if self.wal_sync.is_some() {
                fields.push(("wal sync", &sync));
            }
            let plugin = match (self.nanoseconds_per_record, self.throughput_ratio) {
                (Some(nanoseconds), Some(ratio)) => {
                    format!("{nanoseconds:.1} ns a record; {ratio:.3} of the throughput without it")
                }
                _ => String::new(),
            };
            if !plugin.is_empty() {
                fields.push(("plugin", &plugin));
            }
            fields.push(("method", &self.method));
            for warning in &self.warnings {
                fields.push(("warning", warning));
            }
            write_fields(out, &fields)
        })
    }
}

/// What makes the figures of this program worth less.
pub(super) fn warnings() -> Vec<String> {
    if cfg!(debug_assertions) {
        vec!["this is a debug build; build with --release".to_owned()]
    } else {
        Vec::new()
    }
}

/// A rate of values in megabytes per second.
pub(super) fn megabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / MEGABYTE / elapsed.as_secs_f64()
}

/// The middle, or the mean of the two in the middle; 0 of nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// A histogram of nanoseconds up to a minute, three digits exact.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

/// Counts a duration; one beyond the bounds counts as the bound.
pub(super) fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
}

/// A quantile in milliseconds.
pub(super) fn quantile_ms(nanoseconds: &Histogram<u64>, quantile: f64) -> f64 {
    nanoseconds.value_at_quantile(quantile) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }
}
