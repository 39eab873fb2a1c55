//! Which plugins run on which topic, in step with the catalog.
//!
//! A topic without bindings costs a look into a map. A topic whose plugins cannot be made
//! ready lets nothing pass: its producers are told why.

use std::collections::BTreeMap;

use flumen_protocol::{
    batch::Batch,
    error::{ErrorCode, WireError},
    ids::TopicId,
    topic::{Name, TopicName},
};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use crate::{
    metrics::{BindingLabel, CounterLabel, PluginMetrics},
    plugin::{Binding, BindingReport, Hook, HookBatch},
};

/// The hooks of all topics.
#[derive(Debug)]
pub struct Hooks {
    by_topic: RwLock<FxHashMap<TopicId, Installed>>,
    metrics: PluginMetrics,
}

/// The plugins of a topic.
#[derive(Debug)]
enum Installed {
    Ready {
        topic: TopicName,
        hook: Hook,
        /// What the metrics have of each binding already.
        counted: BTreeMap<Name, BindingReport>,
    },
    /// Why they cannot run.
    Broken(String),
}

/// A batch after the plugins.
#[derive(Debug)]
pub struct Processed {
    /// What goes into the topic; empty when nothing is left.
    pub batch: Batch,
    /// Whether it is what came, with each record in its place.
    pub is_unchanged: bool,
    /// Batches for other topics.
    pub side: Vec<SideBatch>,
}

/// A batch that plugins sent to another topic.
#[derive(Debug)]
pub struct SideBatch {
    /// The topic.
    pub topic: TopicName,
    /// The batch.
    pub batch: Batch,
}

impl Hooks {
    /// No topic has plugins yet.
    pub fn new(metrics: PluginMetrics) -> Self {
        Self {
            by_topic: RwLock::default(),
            metrics,
        }
    }

    /// From now on these plugins run on the topic, in this order. Batches that are under way
    /// end with those that they began with.
    pub fn install(&self, id: TopicId, topic: TopicName, bindings: Vec<Binding>) {
        self.count();
        let installed = Installed::Ready {
            hook: Hook::new(topic.clone(), bindings),
            topic,
            counted: BTreeMap::new(),
        };
        self.by_topic.write().insert(id, installed);
    }

    /// From now on the topic refuses what is produced to it, for this reason.
    pub fn block(&self, id: TopicId, reason: String) {
        self.by_topic.write().insert(id, Installed::Broken(reason));
    }

    /// From now on no plugins run on the topic.
    pub fn remove(&self, id: TopicId) {
        self.count();
        self.by_topic.write().remove(&id);
    }

    /// The bindings that run on a topic, in order.
    pub fn bindings(&self, id: TopicId) -> Vec<Binding> {
        match self.by_topic.read().get(&id) {
            Some(Installed::Ready { hook, .. }) => hook.bindings().to_vec(),
            _ => Vec::new(),
        }
    }

    /// The topics that plugins run on, or should.
    pub fn topics(&self) -> Vec<TopicId> {
        self.by_topic.read().keys().copied().collect()
    }

    /// Why the topic's plugins cannot run, if so.
    pub fn blocked(&self, id: TopicId) -> Option<String> {
        match self.by_topic.read().get(&id) {
            Some(Installed::Broken(reason)) => Some(reason.clone()),
            _ => None,
        }
    }

    /// Checks the columns of a batch and runs the plugins of its topic over them. One does both,
    /// so that a compressed batch is decompressed once.
    ///
    /// # Errors
    /// When the columns are wrong, or a plugin or its policy refuses the batch, with what to tell
    /// the producer.
    pub async fn process(&self, id: TopicId, batch: Batch) -> Result<Processed, WireError> {
        let hook = match self.by_topic.read().get(&id) {
            None => None,
            Some(Installed::Ready { hook, .. }) => Some(hook.clone()),
            Some(Installed::Broken(reason)) => {
                let text = format!("the topic's plugins cannot run: {reason}");
                return Err(WireError::new(ErrorCode::Unavailable, text));
            }
        };
        let Some(hook) = hook else {
            return match batch.columns() {
                Ok(_) => Ok(Processed::unchanged(batch)),
                Err(error) => Err(WireError::new(ErrorCode::CorruptBatch, error.to_string())),
            };
        };
        let producer = batch.header().producer;
        let outcome = hook.run(batch.clone()).await?;
        let side = outcome.dead_letters.into_iter().chain(outcome.routed);
        Ok(Processed {
            is_unchanged: matches!(outcome.batch, HookBatch::Unchanged),
            batch: match outcome.batch {
                HookBatch::Unchanged => batch,
                HookBatch::Changed(changed) => changed,
                HookBatch::Empty => Batch::empty(producer),
            },
            side: side
                .map(|(topic, batch)| SideBatch { topic, batch })
                .collect(),
        })
    }

    /// Brings the metrics up to what the bindings have counted.
    pub fn count(&self) {
        for installed in self.by_topic.write().values_mut() {
            let Installed::Ready {
                topic,
                hook,
                counted,
            } = installed
            else {
                continue;
            };
            for binding in hook.bindings() {
                let report = binding.report();
                let name = binding.config().plugin.clone();
                let before = counted.get(&name).cloned().unwrap_or_default();
                self.add(topic, &name, &before, &report);
                counted.insert(name, report);
            }
        }
    }

    fn add(&self, topic: &TopicName, plugin: &Name, before: &BindingReport, now: &BindingReport) {
        let label = BindingLabel {
            topic: topic.to_string(),
            plugin: plugin.to_string(),
        };
        let metrics = &self.metrics;
        metrics.bindings.note(&label);
        let calls = now.calls.saturating_sub(before.calls);
        metrics.calls.get_or_create(&label).inc_by(calls);
        let records = now.records.saturating_sub(before.records);
        metrics.records.get_or_create(&label).inc_by(records);
        let failures = now.failures.saturating_sub(before.failures);
        metrics.failures.get_or_create(&label).inc_by(failures);
        let failed = now.failed_records.saturating_sub(before.failed_records);
        metrics.failed_records.get_or_create(&label).inc_by(failed);
        let nanoseconds = now.time_ns.saturating_sub(before.time_ns);
        let time = metrics.call_time.get_or_create(&label);
        time.inc_by(nanoseconds as f64 / 1e9);
        for (name, value) in &now.counters {
            let before = before.counters.get(name).copied().unwrap_or(0);
            let label = CounterLabel {
                topic: topic.to_string(),
                plugin: plugin.to_string(),
                name: name.clone(),
            };
            metrics.own_counters.note(&label);
            let counter = metrics.counters.get_or_create(&label);
            counter.inc_by(value.saturating_sub(before));
        }
    }
}

impl Processed {
    fn unchanged(batch: Batch) -> Self {
        Self {
            batch,
            is_unchanged: true,
            side: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use flumen_protocol::batch::{BatchBuilder, Codec, RecordRef};

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_batch_with_wrong_columns_is_refused_where_no_plugin_looks_at_it() {
        let mut builder = BatchBuilder::new();
        builder.push(&RecordRef::new(1, b"value")).unwrap();
        let good = builder.build(Codec::None).unwrap();
        let mut bytes = good.to_bytes().to_vec();
        // The end of its only value is its last column.
        *bytes.last_mut().unwrap() = 0xff;
        let wrong = Batch::decode_unchecked_crc(bytes.into()).unwrap();
        let hooks = Hooks::new(Metrics::default().plugin);
        let without_bindings = TopicId(2);
        let topic = TopicName::new("t").unwrap();
        hooks.install(without_bindings, topic, Vec::new());
        for id in [TopicId(1), without_bindings] {
            assert_eq!(hooks.process(id, good.clone()).await.unwrap().batch, good);
            let error = hooks.process(id, wrong.clone()).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::CorruptBatch);
        }
    }
}
