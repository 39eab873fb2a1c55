//! `flumen plugin test`: a plugin on its author's machine, by the broker's own engine.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use flumen_broker::plugin::{TrialRecord, TryOutReport, try_out};
use flumen_protocol::{limits::RECORD_BYTES_MAX, topic::Name};
use serde_json::{Value, json};

use super::{component::read_component, settings::CallFlags};
use crate::{
    commands::{
        consume::format::plain,
        produce::{key::KeyFlags, lines::Lines},
    },
    output::{self, OutputFormat},
};

const EXAMPLES: &str = "\
Examples:
  # check that it could be deployed
  flumen plugin test json_filter.wasm --config @filter.json
  flumen plugin test json_filter.wasm examples/data/earthquakes.ndjson \\
      --config '{\"field\":\"magnitude\",\"op\":\">=\",\"value\":4.5}'
  my-app | flumen plugin test my_plugin.wasm -
  # a plugin that looks at keys
  flumen plugin test by_region.wasm orders.ndjson --key-json region

What the plugin lets through is printed, one record a line; what it did is told on stderr. With
--output json, one object says it all. Exit code 1: the plugin failed on a record.";

/// Failed records that are told one by one.
const FAILURES_TOLD_MAX: usize = 5;

/// Try a plugin out on a file of records, without a broker
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The WebAssembly component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// A file of which each line is a record's value; `-` is standard input
    #[arg(value_name = "RECORDS.ndjson")]
    records: Option<PathBuf>,
    #[command(flatten)]
    key: KeyFlags,
    #[command(flatten)]
    call: CallFlags,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let component = read_component(&arguments.file)?;
    let binding = arguments.call.binding(Name::new("test")?)?;
    let mut records = Vec::new();
    if let Some(path) = &arguments.records {
        let mut lines = Lines::open(Some(path.clone()), RECORD_BYTES_MAX)?;
        while let Some(chunk) = lines.next().await {
            for line in chunk? {
                let split = arguments.key.split(line.text);
                let (key, value) = split.with_context(|| format!("line {}", line.number))?;
                records.push(TrialRecord {
                    key: key.map(Vec::from),
                    value: value.into(),
                });
            }
        }
    }
    let report = tokio::task::spawn_blocking(move || try_out(component, binding, &records))
        .await?
        .with_context(|| format!("{} cannot be used", arguments.file.display()))?;
    match output {
        OutputFormat::Text => tell(&report)?,
        OutputFormat::Json => output.print(&to_json(&report), |_| Ok(()))?,
    }
    if !report.failed.is_empty() {
        bail!(
            "the plugin failed on {} of {}",
            output::count(report.failed.len() as u64),
            output::counted(report.records, "record")
        );
    }
    Ok(())
}

fn tell(report: &TryOutReport) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    for value in report.output.iter().flatten() {
        out.write_all(value)?;
        writeln!(out)?;
    }
    out.flush()?;
    let world = report
        .world
        .map_or_else(String::new, |world| world.to_string());
    eprintln!(
        "a {world}, compiled in {:.0?}: a broker would take it",
        report.compile_time
    );
    if report.records == 0 {
        return Ok(());
    }
    eprint!(
        "{}: {} kept, {} dropped, {} failed",
        output::counted(report.records, "record"),
        output::count(report.kept),
        output::count(report.dropped),
        output::count(report.failed.len() as u64),
    );
    if let Some(changed) = report.changed.filter(|changed| *changed > 0) {
        eprint!(", {} changed", output::count(changed));
    }
    for (topic, count) in &report.routed {
        eprint!(", {} to topic {topic}", output::count(*count));
    }
    match report.nanoseconds_per_record {
        Some(nanoseconds) => eprintln!("; {nanoseconds:.0} ns a record"),
        None => eprintln!(),
    }
    for (name, value) in &report.counters {
        eprintln!("counter {name}: {}", output::count(*value));
    }
    for (value, why) in report.failed.iter().take(FAILURES_TOLD_MAX) {
        eprintln!("failed: {why}\n    on {}", text(value.as_deref()));
    }
    Ok(())
}

fn text(value: Option<&[u8]>) -> String {
    value.map_or_else(
        || "a record without a value".to_owned(),
        |value| String::from_utf8_lossy(value).into_owned(),
    )
}

fn to_json(report: &TryOutReport) -> Value {
    let failed: Vec<_> = report
        .failed
        .iter()
        .map(|(value, why)| json!({ "value": value.as_deref().map(plain), "error": why }))
        .collect();
    let output: Vec<_> = report
        .output
        .iter()
        .map(|value| value.as_deref().map(plain))
        .collect();
    json!({
        "world": report.world,
        "records": report.records,
        "kept": report.kept,
        "dropped": report.dropped,
        "changed": report.changed,
        "routed": report.routed,
        "failed": failed,
        "failed_calls": report.failed_calls,
        "counters": report.counters,
        "nanoseconds_per_record": report.nanoseconds_per_record,
        "compile_ms": report.compile_time.as_millis() as u64,
        "output": output,
    })
}
