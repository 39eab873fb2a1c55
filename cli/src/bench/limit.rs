//! `flumen bench limit`: bare QUIC alone.

use anyhow::Result;

use super::{
    load::{self, Limit},
    report::Report,
};
use crate::{commands::bench::Load, output::OutputFormat};

pub(crate) async fn run(load: &Load, output: OutputFormat) -> Result<()> {
    let progress = load::progress(load);
    let limit = Limit::start(load).await?;
    let mut report = Report {
        bench: "limit",
        ..load::report(load)
    };
    for _ in 0..load.rounds {
        let sent = limit.send().await?;
        report.rounds.push(sent);
        report.limit_rounds.push(sent);
        progress.inc(1);
    }
    let ping = limit.ping().await?;
    progress.finish_and_clear();
    report.records = limit.records() * u64::from(load.rounds);
    report.latencies(&ping);
    report.ping_p50_ms = report.p50_ms;
    report.summarise();
    report.print(output)
}
