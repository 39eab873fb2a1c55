//! How much is measured, of bare QUIC and in all.

use std::time::Instant;

use anyhow::Result;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;

use super::{
    raw::Peer,
    report::{Report, megabytes_per_second},
};
use crate::{commands::bench::Load, output};

/// Round trips that are measured.
const PINGS: u64 = 2_000;

/// Bytes that a round of bare QUIC sends first, to learn how many it should send.
const PROBE_BYTES: u64 = 64 << 20;

/// Bare QUIC is not made to send records one by one: it is the limit of what can be reached.
const CHUNK_BYTES_MIN: usize = 64 * 1024;

impl Load {
    /// Records or batches on their way at once, for each producer.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.unwrap_or(if self.batch_records == 1 {
            1
        } else {
            flumen_client::IN_FLIGHT_BATCHES_MAX as u32
        })
    }

    /// Whether every producer has one record on its way, and no more.
    pub(super) fn is_one_by_one(&self) -> bool {
        self.batch_records == 1 && self.in_flight() == 1
    }

    /// Connections that the producers share.
    pub(super) fn connections(&self) -> u32 {
        self.connections.min(self.producers)
    }

    /// Bytes of the values of one batch.
    pub(super) fn batch_bytes(&self) -> usize {
        self.record_size as usize * self.batch_records as usize
    }
}

/// A report with what was asked for filled in.
pub(super) fn report(load: &Load) -> Report {
    Report {
        record_size: load.record_size,
        batch_records: load.batch_records,
        producers: load.producers,
        connections: load.connections(),
        dedicated: load.dedicated,
        in_flight: load.in_flight(),
        partitions: load.partitions,
        ..Report::default()
    }
}

/// A line that counts rounds.
pub(super) fn progress(load: &Load) -> ProgressBar {
    let progress = output::progress(Some(load.rounds.into()), "rounds");
    progress.set_message("measuring");
    progress
}

/// Bare QUIC, warm, and how much of it makes a round.
#[derive(Debug)]
pub(super) struct Limit {
    peer: Peer,
    chunk_bytes: usize,
    record_size: u32,
    round_bytes: u64,
}

impl Limit {
    /// Starts the other end, warms up, and finds the size of a round.
    pub(super) async fn start(load: &Load) -> Result<Self> {
        let peer = Peer::start().await?;
        let chunk_bytes = load.batch_bytes().max(CHUNK_BYTES_MIN);
        let started = Instant::now();
        let mut fastest = 0.0_f64;
        while started.elapsed() < load.warm_up.duration() / 3 || fastest == 0.0 {
            let elapsed = peer.send(PROBE_BYTES, chunk_bytes).await?;
            fastest = fastest.max(PROBE_BYTES as f64 / elapsed.as_secs_f64());
        }
        let round_bytes = fastest * load.round_time.duration().as_secs_f64();
        Ok(Self {
            peer,
            chunk_bytes,
            record_size: load.record_size,
            round_bytes: (round_bytes as u64).max(1),
        })
    }

    /// Records whose values make up a round.
    pub(super) fn records(&self) -> u64 {
        self.round_bytes / u64::from(self.record_size)
    }

    /// A round towards the other end, in megabytes per second.
    pub(super) async fn send(&self) -> Result<f64> {
        let elapsed = self.peer.send(self.round_bytes, self.chunk_bytes).await?;
        Ok(megabytes_per_second(self.round_bytes, elapsed))
    }

    /// A round from the other end, in megabytes per second.
    pub(super) async fn receive(&self) -> Result<f64> {
        let elapsed = self
            .peer
            .receive(self.round_bytes, self.chunk_bytes)
            .await?;
        Ok(megabytes_per_second(self.round_bytes, elapsed))
    }

    /// Round trips a second when all producers make them at the same time.
    pub(super) async fn pings(&self, load: &Load) -> Result<f64> {
        let size = self.record_size as usize;
        let (callers, connections) = (load.producers, load.connections());
        self.peer.pings(callers, connections, size).await
    }

    /// Round trips of messages of the size of a record.
    pub(super) async fn ping(&self) -> Result<Histogram<u64>> {
        self.peer.ping(PINGS, self.record_size as usize).await
    }
}
