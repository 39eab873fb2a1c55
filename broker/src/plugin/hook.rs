//! All plugins bound to a topic, applied to a batch in their order.
use std::sync::Arc;

use flumen_protocol::{
    batch::{Batch, BatchBuilder, BatchError, Codec, Columns},
    error::{ErrorCode, WireError},
    topic::TopicName,
};

use super::{
    apply::{Applied, ApplyError, Outlets, apply},
    binding::{Binding, Refusal},
};

/// The plugins of a topic. It never changes: after a bind, unbind or upgrade the topic gets
/// another hook, and batches on their way end with the one that they began with. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Hook(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    topic: TopicName,
    bindings: Vec<Binding>,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookOutcome {
    /// What goes into the topic.
    pub batch: HookBatch,
    /// Records that were dropped, by a filter's verdict, by a transform that returned nothing
    /// for them, or by the policy `drop`.
    pub dropped: u64,
    /// Records that go to dead-letter topics, with the reason in their headers.
    pub dead_letters: Vec<(TopicName, Batch)>,
    /// Records that a transform sent to other topics. The plugins there do not see them.
    pub routed: Vec<(TopicName, Batch)>,
}

/// What goes into the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookBatch {
    /// The batch as it came.
    Unchanged,
    /// Another batch in its place, with the same producer and sequence.
    Changed(Batch),
    /// Nothing. The producer's sequence still goes on: see [`Batch::empty`].
    Empty,
}

/// A batch is refused as a whole, and nothing of it goes anywhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
#[non_exhaustive]
pub struct Rejection {
    /// What to tell the producer, for programs.
    pub code: ErrorCode,
    /// The plugin that refused it.
    pub plugin: Option<String>,
    /// The record at fault, counted from 0 in the producer's batch, if that is known.
    pub record: Option<u32>,
    /// What to tell the producer: the plugin's own words.
    pub text: String,
}

impl From<Rejection> for WireError {
    fn from(rejection: Rejection) -> Self {
        Self::new(rejection.code, rejection.text).at_record(rejection.record)
    }
}

impl Hook {
    /// The bindings of `topic`, in the order in which they run.
    pub fn new(topic: TopicName, bindings: Vec<Binding>) -> Self {
        Self(Arc::new(Shared { topic, bindings }))
    }

    /// The bindings, in order.
    pub fn bindings(&self) -> &[Binding] {
        &self.0.bindings
    }

    /// Runs a batch through all plugins. Most calls end on the thread at hand within
    /// microseconds; one that takes longer than a millisecond goes on on the plugin threads
    /// while this waits. When the future is dropped, a call that has moved there still ends.
    ///
    /// # Errors
    /// When the batch is refused: by the policy of a binding, or because it is not whole, or
    /// because what plugins made of it does not fit into a batch.
    pub async fn run(&self, batch: Batch) -> Result<HookOutcome, Rejection> {
        let Some(first) = self.0.bindings.first() else {
            batch.columns().map_err(|error| corrupt(&error))?;
            return Ok(HookOutcome::unchanged());
        };
        let hook = self.clone();
        first
            .0
            .engine
            .run(async move { hook.0.process(&batch).await })
            .await
    }

    /// As [`Hook::run`], for callers outside of asynchronous code.
    ///
    /// # Panics
    /// On a thread of an asynchronous runtime.
    pub fn run_blocking(&self, batch: Batch) -> Result<HookOutcome, Rejection> {
        let Some(first) = self.0.bindings.first() else {
            return Ok(HookOutcome::unchanged());
        };
        let hook = self.clone();
        first
            .0
            .engine
            .run_blocking(async move { hook.0.process(&batch).await })
    }
}

impl Shared {
    async fn process(&self, batch: &Batch) -> Result<HookOutcome, Rejection> {
        let mut columns = batch.columns().map_err(|error| corrupt(&error))?;
        if columns.is_empty() {
            return Ok(HookOutcome::unchanged());
        }
        let mut outlets = Outlets::new(&self.topic, columns.content_type());
        let mut origins = Origins::Same;
        let mut dropped = 0;
        let mut changed = None;
        for (index, binding) in self.bindings.iter().enumerate() {
            let inner = &binding.0;
            let plugin = inner.config.plugin.as_str();
            let parts = inner
                .evaluate(&columns)
                .await
                .map_err(|refusal| rejection(plugin, refusal, &origins))?;
            let applied = apply(&columns, parts, &inner.config, &mut outlets)
                .map_err(|error| apply_rejection(plugin, error, &origins))?;
            let Applied::Changed {
                builder,
                kept,
                dropped: by_this,
            } = applied
            else {
                continue;
            };
            dropped += by_this;
            if builder.is_empty() {
                return outlets.finish(HookBatch::Empty, dropped, batch.header().codec);
            }
            origins = origins.then(kept);
            let is_last = index + 1 == self.bindings.len();
            let codec = if is_last {
                batch.header().codec
            } else {
                Codec::None
            };
            let next = seal(*builder, codec, batch)?;
            if !is_last {
                columns = next.columns().map_err(|error| corrupt(&error))?;
            }
            changed = Some((next, is_last));
        }
        let result = match changed {
            None => HookBatch::Unchanged,
            Some((next, true)) => HookBatch::Changed(next),
            // Changed by a binding that was not the last: it is not compressed yet.
            Some((next, false)) if batch.header().codec == Codec::None => HookBatch::Changed(next),
            Some((_, false)) => HookBatch::Changed(recompress(&columns, batch)?),
        };
        outlets.finish(result, dropped, batch.header().codec)
    }
}

impl HookOutcome {
    fn unchanged() -> Self {
        Self {
            batch: HookBatch::Unchanged,
            dropped: 0,
            dead_letters: Vec::new(),
            routed: Vec::new(),
        }
    }
}

/// Which records of the producer's batch the records at hand are.
enum Origins {
    Same,
    Indices(Vec<u32>),
    /// A transform came before, which may make several records of one.
    Unknown,
}

impl Origins {
    fn of(&self, index: usize) -> Option<u32> {
        match self {
            Self::Same => Some(index as u32),
            Self::Indices(indices) => indices.get(index).copied(),
            Self::Unknown => None,
        }
    }

    fn then(self, kept: Option<Vec<u32>>) -> Self {
        match (self, kept) {
            (_, None) | (Self::Unknown, _) => Self::Unknown,
            (Self::Same, Some(kept)) => Self::Indices(kept),
            (Self::Indices(before), Some(kept)) => Self::Indices(
                kept.into_iter()
                    .filter_map(|index| before.get(index as usize).copied())
                    .collect(),
            ),
        }
    }
}

fn seal(builder: BatchBuilder, codec: Codec, original: &Batch) -> Result<Batch, Rejection> {
    builder
        .build_sequenced(codec, original.header().producer)
        .map_err(|error| too_large(&error.to_string()))
}

fn recompress(columns: &Columns, original: &Batch) -> Result<Batch, Rejection> {
    let mut builder = BatchBuilder::with_capacity(columns.values().len());
    let pushed = builder
        .set_content_type(columns.content_type())
        .and_then(|()| {
            columns
                .records()
                .try_for_each(|record| builder.push(&record))
        });
    pushed.map_err(|error| too_large(&error.to_string()))?;
    seal(builder, original.header().codec, original)
}

fn corrupt(error: &BatchError) -> Rejection {
    Rejection {
        code: ErrorCode::CorruptBatch,
        plugin: None,
        record: None,
        text: error.to_string(),
    }
}

pub(super) fn too_large(error: &str) -> Rejection {
    Rejection {
        code: ErrorCode::TooLarge,
        plugin: None,
        record: None,
        text: format!(
            "what the topic's plugins made of the batch does not fit into one: {error}; send \
             smaller batches"
        ),
    }
}

fn rejection(plugin: &str, refusal: Refusal, origins: &Origins) -> Rejection {
    let record = refusal.index.and_then(|index| origins.of(index));
    let what = record.map_or_else(|| "the batch".to_owned(), |index| format!("record {index}"));
    Rejection {
        code: if refusal.suspended {
            ErrorCode::Unavailable
        } else {
            ErrorCode::Rejected
        },
        plugin: Some(plugin.to_owned()),
        record,
        text: format!("plugin {plugin} cannot take {what}: {}", refusal.text),
    }
}

fn apply_rejection(plugin: &str, error: ApplyError, origins: &Origins) -> Rejection {
    match error {
        ApplyError::Refused { index, text } => rejection(
            plugin,
            Refusal {
                index: Some(index),
                text,
                suspended: false,
            },
            origins,
        ),
        ApplyError::DoesNotFit(error) => too_large(&error.to_string()),
    }
}
