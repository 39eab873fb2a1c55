//! Runs a plugin over records on its author's machine, with the engine that a broker has.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use flumen_protocol::{
    batch::{Batch, BatchBuilder, BatchError, Codec, PushError, RecordRef},
    plugin::{BindingConfig, ErrorPolicy, World},
    topic::TopicName,
};

use super::{
    apply::HEADER_ERROR,
    engine::PluginEngine,
    error::{BindError, DeployError, EngineError},
    hook::{Hook, HookBatch, HookOutcome},
};
use crate::clock::now_ms;

/// Records in one batch of a trial.
const RECORDS_PER_BATCH: usize = 1_000;

/// How long the records are run again and again to tell what one costs.
const MEASURE: Duration = Duration::from_millis(200);

/// The topic that a trial plays.
const TOPIC: &str = "trial";

/// Where failed records go in a trial, to be told apart.
const FAILED: &str = "trial.failed";

/// A record that a plugin is tried on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrialRecord {
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Vec<u8>,
}

/// What a plugin did with records.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TryOutReport {
    /// What it implements.
    pub world: Option<World>,
    /// Records that went in.
    pub records: u64,
    /// Records that came out for the topic.
    pub kept: u64,
    /// Records for which nothing came out.
    pub dropped: u64,
    /// Records that came out otherwise than they went in; of a transform that dropped or
    /// added records, `None`, as there is no telling.
    pub changed: Option<u64>,
    /// Records that came out for other topics.
    pub routed: BTreeMap<String, u64>,
    /// Records that it failed on, with its words: each value, and why.
    pub failed: Vec<(Option<Vec<u8>>, String)>,
    /// Calls that failed: traps, time-outs, limits, answers that do not fit.
    pub failed_calls: u64,
    /// The values that came out for the topic.
    pub output: Vec<Option<Vec<u8>>>,
    /// Counters that it keeps.
    pub counters: BTreeMap<String, u64>,
    /// What one record costs in the broker, in nanoseconds, if no call failed.
    pub nanoseconds_per_record: Option<f64>,
    /// How long it took to compile.
    pub compile_time: Duration,
}

/// Why a plugin could not be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryOutError {
    /// The engine does not work here.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A broker would refuse it when it is deployed.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// A broker would refuse to bind it.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A record that no broker takes.
    #[error("record {index} cannot go into a batch: {source}")]
    Record {
        /// Which, counted from 0.
        index: usize,
        /// Why.
        source: PushError,
    },
    /// Records that do not make a batch.
    #[error("the records do not make a batch: {0}")]
    Batch(#[from] BatchError),
    /// What came out does not fit.
    #[error("{0}")]
    Output(String),
}

/// Runs `component` over records. Of `config`, the error policy is not
/// heeded: failures are reported.
///
/// # Panics
/// On a thread of an asynchronous runtime.
pub fn try_out(
    component: Vec<u8>,
    config: BindingConfig,
    records: &[TrialRecord],
) -> Result<TryOutReport, TryOutError> {
    let engine = PluginEngine::without_cache()?;
    let started = Instant::now();
    let plugin = engine.load_blocking(component)?;
    let mut report = TryOutReport {
        world: Some(plugin.world()),
        compile_time: started.elapsed(),
        changed: Some(0),
        ..TryOutReport::default()
    };
    let name =
        |text: &str| TopicName::new(text).map_err(|error| TryOutError::Output(error.to_string()));
    let config = BindingConfig {
        on_error: ErrorPolicy::DeadLetter(name(FAILED)?),
        ..config
    };
    let binding = engine.bind_blocking(&plugin, &name(TOPIC)?, config)?;
    let hook = Hook::new(name(TOPIC)?, vec![binding]);

    let batches = batches(records)?;
    for batch in &batches {
        let outcome = run(&hook, batch)?;
        report.add(batch, &outcome)?;
    }
    let binding = &hook.bindings()[0];
    report.failed_calls = binding.report().failures;
    report.counters = binding.report().counters;
    if report.failed_calls == 0 && report.records > 0 {
        report.nanoseconds_per_record = Some(measure(&hook, &batches)?);
    }
    Ok(report)
}

fn batches(records: &[TrialRecord]) -> Result<Vec<Batch>, TryOutError> {
    let now_ms = now_ms() as i64;
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new();
    for (index, TrialRecord { key, value }) in records.iter().enumerate() {
        let record = RecordRef {
            key: key.as_deref(),
            ..RecordRef::new(now_ms, value)
        };
        let pushed = match builder.push(&record) {
            Err(PushError::BatchFull) => {
                batches.push(std::mem::take(&mut builder).build(Codec::None)?);
                builder.push(&record)
            }
            pushed => pushed,
        };
        pushed.map_err(|source| TryOutError::Record { index, source })?;
        if builder.len() == RECORDS_PER_BATCH {
            batches.push(std::mem::take(&mut builder).build(Codec::None)?);
        }
    }
    if !builder.is_empty() {
        batches.push(builder.build(Codec::None)?);
    }
    Ok(batches)
}

fn run(hook: &Hook, batch: &Batch) -> Result<HookOutcome, TryOutError> {
    hook.run_blocking(batch.clone())
        .map_err(|rejection| TryOutError::Output(rejection.text))
}

/// The time per record of many runs, the broker's own work around the plugin included.
fn measure(hook: &Hook, batches: &[Batch]) -> Result<f64, TryOutError> {
    let started = Instant::now();
    let mut records = 0_u64;
    while started.elapsed() < MEASURE {
        for batch in batches {
            run(hook, batch)?;
            records += u64::from(batch.record_count());
        }
    }
    Ok(started.elapsed().as_nanos() as f64 / records as f64)
}

impl TryOutReport {
    fn add(&mut self, batch: &Batch, outcome: &HookOutcome) -> Result<(), TryOutError> {
        let records = u64::from(batch.record_count());
        self.records += records;
        self.dropped += outcome.dropped;
        let before = batch.columns()?;
        let after = match &outcome.batch {
            HookBatch::Unchanged => Some(before.clone()),
            HookBatch::Changed(changed) => Some(changed.columns()?),
            HookBatch::Empty => None,
        };
        if let Some(after) = &after {
            self.kept += after.len() as u64;
            self.output.extend(
                after
                    .records()
                    .map(|record| record.value.map(<[u8]>::to_vec)),
            );
        }
        if self.world == Some(World::Transform) {
            let same_number = after.as_ref().filter(|after| after.len() == before.len());
            self.changed = match (self.changed, same_number) {
                (Some(changed), Some(after)) => {
                    let pairs = before.records().zip(after.records());
                    Some(changed + pairs.filter(|(before, after)| before != after).count() as u64)
                }
                _ => None,
            };
        }
        for (topic, routed) in &outcome.routed {
            *self.routed.entry(topic.to_string()).or_default() += u64::from(routed.record_count());
        }
        for (_, letters) in &outcome.dead_letters {
            let letters = letters.columns()?;
            self.failed.extend(letters.records().map(|letter| {
                let why = letter.headers.get(HEADER_ERROR).unwrap_or_default();
                (
                    letter.value.map(<[u8]>::to_vec),
                    String::from_utf8_lossy(why).into_owned(),
                )
            }));
        }
        Ok(())
    }
}
