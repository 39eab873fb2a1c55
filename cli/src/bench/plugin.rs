//! `flumen bench plugin`: what a plugin costs a record, and what it costs producers.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use flumen_broker::plugin::{Hook, PluginEngine};
use flumen_client::{BindingConfig, Name};
use flumen_protocol::batch::{Batch, BatchBuilder, Codec, RecordRef};

use super::{
    child::Target,
    load::{self, Limit},
    payload::{Values, now_ms},
    produce::{Producers, Topic},
    report::{histogram, median, quantile_ms},
};
use crate::{
    commands::{
        bench::{BrokerArguments, Load},
        plugin::component::read_component,
    },
    output::OutputFormat,
};

/// The plugin that is measured unless the user names one: as little work as a filter can do. Where
/// `cargo xtask guests` builds it, in the directory of what cargo builds.
const DEFAULT_PLUGIN: &str = "guests/starts_with.wasm";

/// Keeps every record of the benchmark.
const DEFAULT_CONFIG: &str = r#"{"text":"{"}"#;

/// The name under which the plugin is deployed.
const NAME: &str = "flumen-bench";

/// What a call may take: a machine that is busy with something else for a moment must not end a
/// benchmark, as the time-out of a binding would that protects a topic.
const CALL_TIMEOUT_MS: u32 = 5_000;

/// How long calls are timed without a broker, and before that warmed up.
const CALLS_TIME: Duration = Duration::from_millis(500);

pub(crate) async fn run(
    load: &Load,
    arguments: &BrokerArguments,
    plugin: Option<PathBuf>,
    config: Option<String>,
    output: OutputFormat,
) -> Result<()> {
    let (component, config) = match plugin {
        Some(path) => (read_component(&path)?, config.unwrap_or_default()),
        None => (default_component()?, DEFAULT_CONFIG.to_owned()),
    };
    let binding = BindingConfig {
        config,
        timeout_ms: CALL_TIMEOUT_MS,
        ..BindingConfig::new(Name::new(NAME)?)
    };
    let target = Target::start(arguments).await?;
    let measured = measure(load, &target, component, binding, output).await;
    target.stop().await?;
    measured
}

/// The sample of the repository that this program was built in, whatever the working directory.
fn default_component() -> Result<Vec<u8>> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    // It lies in target/release or target/debug; where it was installed, the repository that it
    // was built in may still be there.
    let beside = program.parent().and_then(Path::parent);
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let targets = [
        beside.map(Path::to_owned),
        built_in.map(|root| root.join("target")),
    ];
    read_component(&sample_below(targets.into_iter().flatten())?)
}

fn sample_below(targets: impl Iterator<Item = PathBuf>) -> Result<PathBuf> {
    let mut looked = Vec::new();
    for target in targets {
        let path = target.join(DEFAULT_PLUGIN);
        if path.exists() {
            return Ok(path);
        }
        looked.push(path.display().to_string());
    }
    looked.dedup();
    bail!(
        "the sample plugin is not built, there is no {}: run `cargo xtask guests` in the \
         repository, or name a plugin with --plugin FILE.wasm",
        looked.join(" nor ")
    )
}

async fn measure(
    load: &Load,
    target: &Target,
    component: Vec<u8>,
    binding: BindingConfig,
    output: OutputFormat,
) -> Result<()> {
    let progress = load::progress(load);
    let values = Values::json(load.record_size);
    let nanoseconds = time_calls(&component, &binding, load, values.clone()).await?;

    let limit = Limit::start(load).await?;
    let plain_topic = Topic::create(target, load, "-plain").await?;
    let topic = Topic::create(target, load, "-plugin").await?;
    let admin = topic.client().admin();
    // A run that was interrupted may have left it behind.
    let _ = admin.remove_plugin(NAME).await;
    admin.deploy_plugin(NAME, None, component).await?;
    admin.bind(topic.name(), binding).await?;
    let mut plain = Producers::connect(target, load, plain_topic.name(), &values).await?;
    let mut through = Producers::connect(target, load, topic.name(), &values).await?;
    through.warm_up(load).await?;
    let round_records = plain.warm_up(load).await?;

    let mut report = load::report(load);
    report.bench = "plugin";
    report.wal_sync = Some(target.wal_sync().await?);
    let mut latencies = histogram();
    let (mut ratios, mut pings) = (Vec::new(), Vec::new());
    for round in 0..load.rounds {
        report.limit_rounds.push(limit.send().await?);
        pings.push(quantile_ms(&limit.ping().await?, 0.5));
        // Which one goes first takes turns, too.
        let (without, with) = if round % 2 == 0 {
            let without = plain.round(round_records).await?;
            (without, through.round(round_records).await?)
        } else {
            let with = through.round(round_records).await?;
            (plain.round(round_records).await?, with)
        };
        ratios.push(with.megabytes_per_second / without.megabytes_per_second);
        report.rounds.push(with.megabytes_per_second);
        report.records += with.records;
        latencies.add(&with.latencies)?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    report.nanoseconds_per_record = Some(nanoseconds);
    report.throughput_ratio = Some(throughput_ratio(&ratios));
    report.ping_p50_ms = median(&pings);
    report.latencies(&latencies);
    report.summarise();
    plain.close().await;
    through.close().await;
    topic.client().admin().unbind(topic.name(), NAME).await?;
    topic.client().admin().remove_plugin(NAME).await?;
    topic.delete().await?;
    plain_topic.delete().await?;
    report.print(output)
}

/// What is left of the throughput, from the ratios of rounds whose order takes turns. Who goes second
/// pays for what the first has left to the disk: two rounds, one each way, make one ratio.
fn throughput_ratio(ratios: &[f64]) -> f64 {
    let pairs = ratios.chunks_exact(2);
    let both_ways: Vec<_> = pairs.map(|pair| (pair[0] * pair[1]).sqrt()).collect();
    // A single round says what it can.
    median(if both_ways.is_empty() {
        ratios
    } else {
        &both_ways
    })
}

/// Nanoseconds a record that the broker's engine takes for a whole batch, on one core and
/// without a broker: finding the columns, the call, and applying the answer.
async fn time_calls(
    component: &[u8],
    binding: &BindingConfig,
    load: &Load,
    values: Values,
) -> Result<f64> {
    let engine = PluginEngine::without_cache()?;
    let plugin = engine.load(component.to_vec()).await?;
    let topic = Name::new(NAME)?;
    let binding = engine.bind(&plugin, &topic, binding.clone()).await?;
    let hook = Hook::new(topic, vec![binding]);
    let batch = batch(load, values)?;
    let mut rounds = Vec::new();
    time_batches(&hook, &batch).await?;
    for _ in 0..load.rounds {
        rounds.push(time_batches(&hook, &batch).await?);
    }
    Ok(median(&rounds))
}

async fn time_batches(hook: &Hook, batch: &Batch) -> Result<f64> {
    let started = Instant::now();
    let mut records = 0_u64;
    while started.elapsed() < CALLS_TIME {
        if let Err(rejection) = hook.run(batch.clone()).await {
            bail!("the plugin refuses the benchmark's records: {rejection}");
        }
        records += u64::from(batch.record_count());
    }
    Ok(started.elapsed().as_nanos() as f64 / records as f64)
}

fn batch(load: &Load, mut values: Values) -> Result<Batch> {
    let mut builder = BatchBuilder::new();
    for _ in 0..load.batch_records {
        builder.push(&RecordRef::new(now_ms(), &values.next()))?;
    }
    Ok(builder.build(Codec::None)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn who_goes_first_makes_no_difference_to_the_ratio() {
        // The second of two has 0.8 of what it would have as the first.
        let ratio = throughput_ratio(&[0.8 * 0.98, 0.98 / 0.8, 0.8 * 0.98]);
        assert!((ratio - 0.98).abs() < 1e-9, "{ratio}");
        assert!((throughput_ratio(&[0.9]) - 0.9).abs() < 1e-9);
    }

    #[test]
    fn the_sample_is_found_where_it_was_built_or_the_error_says_how_to_build_it() {
        let dir = tempfile::tempdir().unwrap();
        let targets = || [dir.path().join("a"), dir.path().join("b")].into_iter();
        let error = sample_below(targets()).unwrap_err().to_string();
        for part in [
            "a/guests/starts_with.wasm",
            "b/guests",
            "cargo xtask guests",
            "--plugin",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let built = dir.path().join("b").join(DEFAULT_PLUGIN);
        fs::create_dir_all(built.parent().unwrap()).unwrap();
        fs::write(&built, "").unwrap();
        assert_eq!(sample_below(targets()).unwrap(), built);
    }
}
