//! Makes the next batch of what a plugin answered, by the binding's error policy.
use std::{ops::Range, sync::Arc};

use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, Columns, Headers, PushError, RecordRef, encode_headers},
    plugin::{BindingConfig, ErrorPolicy},
    topic::TopicName,
};

use super::{
    binding::{Answer, Part},
    hook::{HookBatch, HookOutcome, Rejection, too_large},
    limits::cut,
    returned,
    wit::{filtering::Verdicts, transforming::Transformed},
};

/// The header of a dead letter that says why it is one.
pub const HEADER_ERROR: &str = "flumen-error";
/// The header of a dead letter that names the plugin.
pub const HEADER_PLUGIN: &str = "flumen-plugin";
/// The header of a dead letter that names the topic it was meant for.
pub const HEADER_TOPIC: &str = "flumen-topic";

/// What a binding made of a batch.
pub(super) enum Applied {
    Unchanged,
    Changed {
        builder: Box<BatchBuilder>,
        /// Which records it holds, if they are some of those before, unchanged.
        kept: Option<Vec<u32>>,
        /// Records that were dropped; of a transform, as far as the numbers tell.
        dropped: u64,
    },
}

pub(super) enum ApplyError {
    /// A record failed, and the policy is to reject.
    Refused { index: usize, text: String },
    /// The result is larger than a batch.
    DoesNotFit(PushError),
}

impl From<PushError> for ApplyError {
    fn from(error: PushError) -> Self {
        Self::DoesNotFit(error)
    }
}

/// Applies the parts, which cover `columns` in order.
pub(super) fn apply(
    columns: &Columns,
    parts: Vec<Part>,
    config: &BindingConfig,
    outlets: &mut Outlets,
) -> Result<Applied, ApplyError> {
    if parts.iter().all(|part| is_all_kept(part, &config.on_error)) {
        return Ok(Applied::Unchanged);
    }
    let mut builder = BatchBuilder::with_capacity(columns.values().len());
    builder.set_content_type(columns.content_type())?;
    let is_filter = parts
        .iter()
        .all(|part| !matches!(part, Part::Answered(_, Answer::Transform(..))));
    let mut next = Next {
        columns,
        config,
        outlets,
        builder,
        kept: Vec::with_capacity(columns.len()),
        returned: 0,
        dead: 0,
    };
    for part in parts {
        match part {
            Part::Answered(range, Answer::Filter(verdicts)) => next.filtered(&range, verdicts)?,
            Part::Answered(range, Answer::Transform(transformed, topics)) => {
                next.transformed(&range, &transformed, &topics)?;
            }
            Part::Failed(range, reason) => {
                for index in range {
                    next.failed(index, &reason)?;
                }
            }
        }
    }
    let remaining = next.returned + next.kept.len() as u64 + next.dead;
    Ok(Applied::Changed {
        builder: Box::new(next.builder),
        kept: is_filter.then_some(next.kept),
        dropped: (columns.len() as u64).saturating_sub(remaining),
    })
}

fn is_all_kept(part: &Part, policy: &ErrorPolicy) -> bool {
    match part {
        Part::Answered(range, Answer::Filter(verdicts)) => {
            let full = range.len() / 8;
            let rest = (1_u8 << (range.len() % 8)) - 1;
            verdicts.failures.is_empty()
                && verdicts.keep[..full].iter().all(|bits| *bits == 0xff)
                && (rest == 0 || verdicts.keep[full] & rest == rest)
        }
        Part::Answered(_, Answer::Transform(..)) => false,
        Part::Failed(..) => *policy == ErrorPolicy::Skip,
    }
}

/// The batch that is being made.
struct Next<'a> {
    columns: &'a Columns,
    config: &'a BindingConfig,
    outlets: &'a mut Outlets,
    builder: BatchBuilder,
    /// Records that go on as they were.
    kept: Vec<u32>,
    /// Records that a transform returned.
    returned: u64,
    /// Records that went to the dead letters.
    dead: u64,
}

impl Next<'_> {
    fn filtered(&mut self, range: &Range<usize>, verdicts: Verdicts) -> Result<(), ApplyError> {
        let mut failures = verdicts.failures.into_iter().peekable();
        for (index, record) in range.clone().enumerate() {
            if let Some(failure) = failures.next_if(|failure| failure.index as usize == index) {
                self.failed(record, &cut(failure.message).into())?;
            } else if verdicts.keep[index / 8] & (1 << (index % 8)) != 0 {
                self.keep(record)?;
            }
        }
        Ok(())
    }

    fn transformed(
        &mut self,
        range: &Range<usize>,
        transformed: &Transformed,
        topics: &[TopicName],
    ) -> Result<(), ApplyError> {
        let mut failures = transformed.failures.iter().peekable();
        let count = transformed.records.count;
        for position in 0..=count {
            while let Some(at) = failures.next_if(|at| at.position == position) {
                let record = range.start + at.failure.index as usize;
                self.failed(record, &cut(at.failure.message.clone()).into())?;
            }
            if position == count {
                break;
            }
            let record = returned::record(&transformed.records, position as usize);
            let target = transformed
                .routes
                .as_ref()
                .map_or(0, |routes| routes.targets[position as usize] as usize);
            match target.checked_sub(1).and_then(|topic| topics.get(topic)) {
                Some(topic) => self.outlets.route(topic, &record)?,
                None => self.builder.push(&record)?,
            }
            self.returned += 1;
        }
        Ok(())
    }

    fn keep(&mut self, index: usize) -> Result<(), ApplyError> {
        self.builder.push(&self.columns.record(index))?;
        self.kept.push(index as u32);
        Ok(())
    }

    fn failed(&mut self, index: usize, reason: &Arc<str>) -> Result<(), ApplyError> {
        match &self.config.on_error {
            ErrorPolicy::Reject => Err(ApplyError::Refused {
                index,
                text: reason.to_string(),
            }),
            ErrorPolicy::Skip => self.keep(index),
            ErrorPolicy::Drop => Ok(()),
            ErrorPolicy::DeadLetter(topic) => {
                let record = self.columns.record(index);
                self.outlets
                    .bury(topic, self.config.plugin.as_str(), reason, &record)?;
                self.dead += 1;
                Ok(())
            }
        }
    }
}

/// What leaves the topic on the way: dead letters, and records for other topics.
pub(super) struct Outlets {
    topic: TopicName,
    content_type: String,
    dead_letters: Vec<(TopicName, BatchBuilder)>,
    routed: Vec<(TopicName, BatchBuilder)>,
}

impl Outlets {
    pub(super) fn new(topic: &TopicName, content_type: &str) -> Self {
        Self {
            topic: topic.clone(),
            content_type: content_type.to_owned(),
            dead_letters: Vec::new(),
            routed: Vec::new(),
        }
    }

    fn route(&mut self, topic: &TopicName, record: &RecordRef<'_>) -> Result<(), PushError> {
        push(&mut self.routed, topic, &self.content_type, record)
    }

    /// Sends a record to a dead-letter topic with the reason in its headers. If they do not
    /// fit beside its own, its own go; if even that is too much, it goes without any.
    fn bury(
        &mut self,
        topic: &TopicName,
        plugin: &str,
        reason: &str,
        record: &RecordRef<'_>,
    ) -> Result<(), PushError> {
        let why = encode_headers([
            (HEADER_ERROR, reason.as_bytes()),
            (HEADER_PLUGIN, plugin.as_bytes()),
            (HEADER_TOPIC, self.topic.as_str().as_bytes()),
        ]);
        let all = [record.headers.as_encoded(), &why].concat();
        let result = [&all, &why, &Vec::new()].into_iter().find_map(|headers| {
            let record = RecordRef {
                headers: Headers::from_encoded(headers),
                ..*record
            };
            let result = push(&mut self.dead_letters, topic, &self.content_type, &record);
            match result {
                Err(PushError::TooManyHeaders { .. } | PushError::RecordTooLarge { .. }) => None,
                result => Some(result),
            }
        });
        result.unwrap_or(Ok(()))
    }

    pub(super) fn finish(
        self,
        batch: HookBatch,
        dropped: u64,
        codec: Codec,
    ) -> Result<HookOutcome, Rejection> {
        let build = |outlets: Vec<(TopicName, BatchBuilder)>| {
            outlets
                .into_iter()
                .map(|(topic, builder)| Ok((topic, builder.build(codec)?)))
                .collect::<Result<Vec<(TopicName, Batch)>, flumen_protocol::batch::BatchError>>()
                .map_err(|error| too_large(&error.to_string()))
        };
        Ok(HookOutcome {
            batch,
            dropped,
            dead_letters: build(self.dead_letters)?,
            routed: build(self.routed)?,
        })
    }
}

/// Pushes to the last batch for `topic`, and begins another when that is full.
fn push(
    outlets: &mut Vec<(TopicName, BatchBuilder)>,
    topic: &TopicName,
    content_type: &str,
    record: &RecordRef<'_>,
) -> Result<(), PushError> {
    let last = outlets.iter_mut().rev().find(|(known, _)| known == topic);
    match last.map(|(_, builder)| builder.push(record)) {
        Some(Err(PushError::BatchFull)) | None => {}
        Some(result) => return result,
    }
    let mut builder = BatchBuilder::new();
    builder.set_content_type(content_type)?;
    builder.push(record)?;
    outlets.push((topic.clone(), builder));
    Ok(())
}
