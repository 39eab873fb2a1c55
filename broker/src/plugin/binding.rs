//! A plugin attached to a topic: its instances, and how it fares.
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use flumen_protocol::{
    batch::Columns,
    plugin::{BindingConfig, ErrorPolicy, World},
    topic::TopicName,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    breaker::Breaker,
    engine::{Plugin, PluginEngine},
    error::{BindError, CallError},
    host::Voice,
    instance::{InitError, Instance},
    limits::{
        INSTANCES_PER_BINDING_MAX, ISOLATION_CALLS_MAX, ISOLATION_TIMEOUTS_MAX, MEMORY_BYTES_RANGE,
        TIMEOUT_MS_RANGE,
    },
    returned::{check_transformed, check_verdicts},
    window::{Window, pieces},
    wit::{filtering::Verdicts, transforming::Transformed},
};

/// A plugin attached to a topic, ready to be called. Cheap to clone.
#[derive(Clone)]
pub struct Binding(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) engine: PluginEngine,
    plugin: Plugin,
    pub(super) config: BindingConfig,
    voice: Voice,
    /// Instances that no call uses; the last used comes first, as its memory is warm.
    idle: Mutex<Vec<Pooled>>,
    slots: Semaphore,
    breaker: Mutex<Breaker>,
    stats: Stats,
}

/// An instance with the buffers of its calls.
struct Pooled {
    instance: Instance,
    window: Window,
}

#[derive(Default)]
struct Stats {
    calls: AtomicU64,
    records: AtomicU64,
    failures: AtomicU64,
    failed_records: AtomicU64,
    time_ns: AtomicU64,
    last_failure: Mutex<Option<Arc<str>>>,
}

/// How a binding fares, since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BindingReport {
    /// Calls into the plugin.
    pub calls: u64,
    /// Records that it was shown, those of repeated calls included.
    pub records: u64,
    /// Calls that failed: traps, time-outs, limits, answers that do not fit.
    pub failures: u64,
    /// Records that it could not take: those it answered with an error, and those at which a
    /// call failed. They went where the error policy sends them.
    pub failed_records: u64,
    /// Time that calls took, in nanoseconds.
    pub time_ns: u64,
    /// The text of the last failure.
    pub last_failure: Option<String>,
    /// How long the plugin will still not be called because it kept failing.
    pub suspended_for: Option<Duration>,
    /// Instances that wait for a call.
    pub idle_instances: usize,
    /// Bytes of their memories.
    pub idle_memory_bytes: usize,
    /// Counters that the plugin keeps by itself.
    pub counters: BTreeMap<String, u64>,
}

/// What a plugin answered to one call, checked.
pub(super) enum Answer {
    Filter(Verdicts),
    Transform(Box<Transformed>, Vec<TopicName>),
}

/// What became of a part of a batch. The parts of a batch are in order and without gaps.
pub(super) enum Part {
    Answered(Range<usize>, Answer),
    Failed(Range<usize>, Arc<str>),
}

/// A batch is refused because of a failure.
pub(super) struct Refusal {
    pub(super) index: Option<usize>,
    pub(super) text: String,
    pub(super) suspended: bool,
}

impl PluginEngine {
    /// Attaches a plugin to a topic. Its first instance is made and `init` called with the
    /// configuration, so that a binding that could not work is refused here.
    pub async fn bind(
        &self,
        plugin: &Plugin,
        topic: &TopicName,
        config: BindingConfig,
    ) -> Result<Binding, BindError> {
        if !TIMEOUT_MS_RANGE.contains(&config.timeout_ms) {
            return Err(BindError::Timeout(config.timeout_ms));
        }
        if !MEMORY_BYTES_RANGE.contains(&config.memory_bytes_max) {
            return Err(BindError::Memory(config.memory_bytes_max));
        }
        let binding = Binding(Arc::new(Inner {
            engine: self.clone(),
            plugin: plugin.clone(),
            voice: Voice {
                plugin: config.plugin.as_str().into(),
                topic: topic.as_str().into(),
                counters: Arc::default(),
                has_dropped: Arc::default(),
            },
            config,
            idle: Mutex::default(),
            slots: Semaphore::new(INSTANCES_PER_BINDING_MAX),
            breaker: Mutex::default(),
            stats: Stats::default(),
        }));
        let first = {
            let binding = binding.clone();
            self.run(async move { binding.0.make().await }).await
        };
        let plugin = || binding.0.config.plugin.to_string();
        match first {
            Ok(pooled) => {
                binding.0.idle.lock().push(pooled);
                Ok(binding)
            }
            Err(InitError::Refused(text)) => Err(BindError::Config {
                plugin: plugin(),
                text,
            }),
            Err(InitError::Failed(error)) => Err(BindError::Start {
                plugin: plugin(),
                error,
            }),
        }
    }

    /// As [`PluginEngine::bind`], for callers outside of asynchronous code.
    ///
    /// # Panics
    /// On a thread of an asynchronous runtime.
    pub fn bind_blocking(
        &self,
        plugin: &Plugin,
        topic: &TopicName,
        config: BindingConfig,
    ) -> Result<Binding, BindError> {
        let (engine, plugin, topic) = (self.clone(), plugin.clone(), topic.clone());
        self.run_blocking(async move { engine.bind(&plugin, &topic, config).await })
    }
}

impl Binding {
    /// Its settings.
    pub fn config(&self) -> &BindingConfig {
        &self.0.config
    }

    /// The plugin that it runs.
    pub fn plugin(&self) -> &Plugin {
        &self.0.plugin
    }

    /// How it fares.
    pub fn report(&self) -> BindingReport {
        let stats = &self.0.stats;
        let idle = self.0.idle.lock();
        BindingReport {
            calls: stats.calls.load(Ordering::Relaxed),
            records: stats.records.load(Ordering::Relaxed),
            failures: stats.failures.load(Ordering::Relaxed),
            failed_records: stats.failed_records.load(Ordering::Relaxed),
            time_ns: stats.time_ns.load(Ordering::Relaxed),
            last_failure: stats.last_failure.lock().as_deref().map(str::to_owned),
            suspended_for: self.0.breaker.lock().suspended(Instant::now()),
            idle_instances: idle.len(),
            idle_memory_bytes: idle
                .iter()
                .map(|pooled| pooled.instance.memory_bytes())
                .sum(),
            counters: self.0.voice.counters.lock().clone(),
        }
    }
}

impl Part {
    /// How many of its records failed, and what the plugin said of the last.
    fn failed_records(&self) -> (u64, Option<&str>) {
        match self {
            Self::Failed(range, reason) => (range.len() as u64, Some(reason)),
            Self::Answered(_, Answer::Filter(verdicts)) => {
                let last = verdicts.failures.last();
                let text = last.map(|failure| failure.message.as_str());
                (verdicts.failures.len() as u64, text)
            }
            Self::Answered(_, Answer::Transform(transformed, _)) => {
                let last = transformed.failures.last();
                let text = last.map(|at| at.failure.message.as_str());
                (transformed.failures.len() as u64, text)
            }
        }
    }
}

impl Inner {
    /// Shows the records to the plugin. Where a call fails, smaller calls find the records at
    /// fault, so that the others get their answer; under the policy `reject` the batch is
    /// refused at once.
    pub(super) async fn evaluate(&self, columns: &Columns) -> Result<Vec<Part>, Refusal> {
        if let Some(reason) = self.suspension() {
            return if self.config.on_error == ErrorPolicy::Reject {
                Err(Refusal {
                    index: None,
                    text: reason,
                    suspended: true,
                })
            } else {
                Ok(vec![Part::Failed(0..columns.len(), reason.into())])
            };
        }
        let result = self.search(columns).await;
        let answered = match &result {
            Ok((_, answered)) => *answered,
            Err(_) => false,
        };
        self.note(answered);
        match &result {
            Ok((parts, _)) => self.count_failed_records(parts),
            Err(_) => drop(self.stats.failed_records.fetch_add(1, Ordering::Relaxed)),
        }
        result.map(|(parts, _)| parts)
    }

    fn count_failed_records(&self, parts: &[Part]) {
        let mut count = 0;
        let mut last = None;
        for part in parts {
            let (failed, text) = part.failed_records();
            count += failed;
            last = text.or(last);
        }
        if count == 0 {
            return;
        }
        let stats = &self.stats;
        stats.failed_records.fetch_add(count, Ordering::Relaxed);
        if let Some(text) = last {
            *stats.last_failure.lock() = Some(text.into());
        }
    }

    /// The parts, and whether any call came back.
    async fn search(&self, columns: &Columns) -> Result<(Vec<Part>, bool), Refusal> {
        enum Step {
            Call(Range<usize>),
            Fail(Range<usize>, Arc<str>),
        }
        let mut steps: Vec<_> = pieces(columns).into_iter().rev().map(Step::Call).collect();
        let mut parts = Vec::with_capacity(steps.len());
        let mut answered = false;
        let mut budget: Option<Budget> = None;
        while let Some(step) = steps.pop() {
            let range = match step {
                Step::Call(range) => range,
                Step::Fail(range, reason) => {
                    parts.push(Part::Failed(range, reason));
                    continue;
                }
            };
            if range.is_empty() {
                continue;
            }
            let error = match self.call(columns, &range).await {
                Ok(answer) => {
                    answered = true;
                    parts.push(Part::Answered(range, answer));
                    continue;
                }
                Err(error) => error,
            };
            answered |= error.is_answer();
            let blamed = error
                .blamed()
                .map(|index| range.start + index)
                .filter(|index| range.contains(index));
            if self.config.on_error == ErrorPolicy::Reject {
                return Err(Refusal {
                    index: blamed.or((range.len() == 1).then_some(range.start)),
                    text: error.to_string(),
                    suspended: false,
                });
            }
            let reason: Arc<str> = error.to_string().into();
            let budget = budget.get_or_insert_with(|| Budget::new(self.config.timeout_ms));
            // Calls for single records count, too.
            let goes_on = budget.spend();
            if error.is_answer() || range.len() == 1 || !goes_on {
                parts.push(Part::Failed(range, reason));
            } else if let Some(index) = blamed {
                steps.push(Step::Call(index + 1..range.end));
                steps.push(Step::Fail(index..index + 1, reason));
                steps.push(Step::Call(range.start..index));
            } else {
                let middle = range.start + range.len() / 2;
                steps.push(Step::Call(middle..range.end));
                steps.push(Step::Call(range.start..middle));
            }
        }
        Ok((parts, answered))
    }

    /// One call, with an instance of its own for as long as it takes.
    async fn call(&self, columns: &Columns, range: &Range<usize>) -> Result<Answer, CallError> {
        let Ok(_slot) = self.slots.acquire().await else {
            unreachable!("the semaphore is never closed");
        };
        let idle = self.idle.lock().pop();
        let mut pooled = match idle {
            Some(pooled) => pooled,
            None => match self.make().await {
                Ok(pooled) => pooled,
                Err(InitError::Refused(text)) => {
                    return self.failed(CallError::Plugin(text));
                }
                Err(InitError::Failed(error)) => return self.failed(error),
            },
        };
        let Pooled { instance, window } = &mut pooled;
        let (engine, timeout_ms) = (&self.engine, self.config.timeout_ms);
        let records = window.of(columns, range);
        let started = Instant::now();
        let result = match instance.world() {
            World::Filter => {
                instance
                    .filter(engine, records, timeout_ms)
                    .await
                    .and_then(|verdicts| {
                        check_verdicts(&verdicts, range.len())?;
                        Ok(Answer::Filter(verdicts))
                    })
            }
            World::Transform => instance
                .transform(engine, records, timeout_ms)
                .await
                .and_then(|transformed| {
                    let topics = check_transformed(&transformed, range.len())?;
                    Ok(Answer::Transform(Box::new(transformed), topics))
                }),
        };
        let time_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.stats.calls.fetch_add(1, Ordering::Relaxed);
        self.stats
            .records
            .fetch_add(range.len() as u64, Ordering::Relaxed);
        self.stats.time_ns.fetch_add(time_ns, Ordering::Relaxed);
        if result.as_ref().err().is_none_or(CallError::is_answer) {
            self.idle.lock().push(pooled);
        }
        result.or_else(|error| self.failed(error))
    }

    /// Makes an instance and calls `init`.
    async fn make(&self) -> Result<Pooled, InitError> {
        let mut instance = Instance::start(
            &self.engine,
            &self.plugin,
            self.config.memory_bytes_max,
            self.voice.clone(),
        )
        .await
        .map_err(InitError::Failed)?;
        instance.init(&self.engine, &self.config.config).await?;
        Ok(Pooled {
            instance,
            window: Window::default(),
        })
    }

    fn failed<T>(&self, error: CallError) -> Result<T, CallError> {
        let text = error.to_string();
        if error.is_answer() {
            tracing::debug!(plugin = %self.voice.plugin, topic = %self.voice.topic, "{text}");
        } else {
            tracing::warn!(
                plugin = %self.voice.plugin, topic = %self.voice.topic,
                "a plugin has failed: {text}"
            );
        }
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        *self.stats.last_failure.lock() = Some(text.into());
        Err(error)
    }

    /// Why the plugin is not called at the moment, if so.
    fn suspension(&self) -> Option<String> {
        let breaker = self.breaker.lock();
        let remaining = breaker.suspended(Instant::now())?;
        let failures = breaker.failures_in_a_row();
        drop(breaker);
        let last = self.stats.last_failure.lock().clone();
        Some(format!(
            "it is suspended for another {} ms, as {failures} batches in a row failed; the last \
             time: {}",
            remaining.as_millis(),
            last.as_deref().unwrap_or("unknown")
        ))
    }

    fn note(&self, answered: bool) {
        let mut breaker = self.breaker.lock();
        if answered {
            if breaker.failures_in_a_row() > 0 {
                breaker.succeeded();
            }
            return;
        }
        let suspended = breaker.failed(Instant::now());
        drop(breaker);
        if let Some(back_off) = suspended {
            tracing::error!(
                plugin = %self.voice.plugin, topic = %self.voice.topic,
                "a plugin keeps failing and is suspended for {} ms; the topic does as its \
                 policy says ({})",
                back_off.as_millis(), self.config.on_error,
            );
        }
    }
}

/// What the search for the records at fault may still cost.
struct Budget {
    calls: u32,
    until: Instant,
}

impl Budget {
    fn new(timeout_ms: u32) -> Self {
        let timeout = Duration::from_millis(timeout_ms.into());
        Self {
            calls: ISOLATION_CALLS_MAX,
            until: Instant::now() + timeout * ISOLATION_TIMEOUTS_MAX,
        }
    }

    fn spend(&mut self) -> bool {
        self.calls = self.calls.saturating_sub(1);
        self.calls > 0 && Instant::now() < self.until
    }
}

impl std::fmt::Debug for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binding")
            .field("config", &self.0.config)
            .field("plugin", &self.0.plugin)
            .finish_non_exhaustive()
    }
}
