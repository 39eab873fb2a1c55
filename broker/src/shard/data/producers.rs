//! What a shard remembers of idempotent producers: enough to tell a batch that was sent again
//! from a new one, and to answer it as the first time.
//!
//! A producer that has lost track of what is stored opens a new epoch with an empty batch: a
//! fence. From then on nothing of the epoch before it is taken any more, so what the table says
//! of those batches is final: a batch that is sent again is either a duplicate, or not stored and
//! never will be.
//!
//! A batch that plugins refused takes its number, too, as an empty one. So the table knows of a
//! number whether records were stored under it, and what plugins say of the batch when it is sent
//! again, which may be something else, changes nothing of that.
//!
//! The table is part of the replicated state. Nothing in it depends on a clock: when it is full,
//! the producer goes whose last batch lies furthest back in the log.

use std::collections::VecDeque;

use flumen_protocol::{
    batch::ProducerSequence,
    ids::{Offset, PartitionId, ProducerId, TopicId},
};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{Appended, Refusal};
use crate::mutation::{Mutation, is_planted};

/// Producers that a shard remembers, counted once for each partition that they write to.
pub const PRODUCERS_MAX: usize = 16_384;

/// Batches of one producer in one partition whose offsets are remembered. A duplicate of an older
/// one is still recognised, but its receipt names no offset; and if a batch without records was
/// among those that are forgotten, what was before it is not known to be stored.
pub const REMEMBERED_BATCHES: usize = 32;

/// Stale entries of the eviction queue that are tolerated before it is rebuilt.
const QUEUE_SLACK: usize = 1024;

#[cfg(test)]
mod tests;

type Key = (PartitionId, ProducerId);

/// The producers of a shard.
#[derive(Debug)]
pub(super) struct ProducerTable {
    producers: FxHashMap<Key, Producer>,
    /// Keys by rising stamp; entries whose stamp is no longer that of the producer are stale.
    queue: VecDeque<(u64, Key)>,
    next_stamp: u64,
    producers_max: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Producer {
    epoch: u32,
    sent: Sent,
    /// Counts the batches of the shard's producers: the order of the last batches.
    stamp: u64,
    /// The epoch before, for as long as the present one has its first batch only: a producer
    /// sends another one when it knows all about the epoch before.
    fenced: Option<Box<Fenced>>,
}

/// An epoch that takes no more batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Fenced {
    epoch: u32,
    sent: Sent,
}

/// The batches of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sent {
    last_sequence: u64,
    /// What was answered to the last ones, the newest last.
    receipts: VecDeque<Receipt>,
    /// The last one without records among those whose receipts are forgotten.
    forgotten_empty: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    base_offset: Option<Offset>,
    stored: u32,
    append_time_ms: u64,
}

/// A producer as a checkpoint keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedProducer {
    key: Key,
    producer: Producer,
}

/// What a batch is to the table.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    New,
    Duplicate(Appended),
}

impl ProducerTable {
    /// Whether a batch with this sequence is next, was there already, or cannot be taken.
    pub(super) fn check(
        &self,
        partition: PartitionId,
        sequence: ProducerSequence,
    ) -> Result<Verdict, Refusal> {
        if is_planted(Mutation::NoDuplicateCheck) {
            return Ok(Verdict::New);
        }
        let key = (partition, sequence.producer_id);
        let expected = match self.producers.get(&key) {
            None if sequence.sequence == 0 => return Ok(Verdict::New),
            None => return Err(Refusal::UnknownProducer),
            Some(known) if sequence.epoch < known.epoch => {
                return known.check_fenced(sequence).map(Verdict::Duplicate);
            }
            Some(known) if sequence.epoch > known.epoch => 0,
            Some(known) if sequence.sequence <= known.sent.last_sequence => {
                return known.sent.find(sequence.sequence).map(Verdict::Duplicate);
            }
            Some(known) => known.sent.last_sequence + 1,
        };
        if sequence.sequence == expected {
            Ok(Verdict::New)
        } else {
            Err(Refusal::OutOfSequence { expected })
        }
    }

    /// Notes a new batch and what is answered to it.
    pub(super) fn record(
        &mut self,
        partition: PartitionId,
        sequence: ProducerSequence,
        appended: &Appended,
    ) {
        let key = (partition, sequence.producer_id);
        let stamp = self.next_stamp;
        self.next_stamp += 1;
        let producer = self.producers.entry(key).or_insert_with(|| Producer {
            epoch: sequence.epoch,
            sent: Sent::default(),
            stamp,
            fenced: None,
        });
        if producer.epoch != sequence.epoch {
            producer.fenced = Some(Box::new(Fenced {
                epoch: producer.epoch,
                sent: std::mem::take(&mut producer.sent),
            }));
            producer.epoch = sequence.epoch;
        } else if producer.fenced.is_some() {
            producer.fenced = None;
        }
        producer.stamp = stamp;
        let receipt = Receipt {
            base_offset: appended.base_offset,
            stored: appended.stored.unwrap_or(0),
            append_time_ms: appended.append_time_ms,
        };
        producer.sent.push(sequence.sequence, receipt);
        self.queue.push_back((stamp, key));
        self.evict();
    }

    /// Forgets all producers of a topic.
    pub(super) fn remove_topic(&mut self, topic: TopicId) {
        self.producers
            .retain(|(partition, _), _| partition.topic != topic);
    }

    /// The table as a checkpoint keeps it.
    pub(super) fn save(&self) -> Vec<SavedProducer> {
        self.producers
            .iter()
            .map(|(key, producer)| SavedProducer {
                key: *key,
                producer: producer.clone(),
            })
            .collect()
    }

    /// The table as a checkpoint kept it; a new shard's has nothing in it.
    pub(super) fn restore(saved: Vec<SavedProducer>, producers_max: usize) -> Self {
        let mut table = Self {
            producers: saved
                .into_iter()
                .map(|saved| (saved.key, saved.producer))
                .collect(),
            queue: VecDeque::new(),
            next_stamp: 0,
            producers_max,
        };
        table.rebuild_queue();
        table.next_stamp = table.queue.back().map_or(0, |(stamp, _)| stamp + 1);
        table
    }

    fn evict(&mut self) {
        while self.producers.len() > self.producers_max
            && let Some((stamp, key)) = self.queue.pop_front()
        {
            if self.producers.get(&key).is_some_and(|p| p.stamp == stamp) {
                self.producers.remove(&key);
            }
        }
        if self.queue.len() > 2 * self.producers.len() + QUEUE_SLACK {
            self.rebuild_queue();
        }
    }

    fn rebuild_queue(&mut self) {
        let mut queue: Vec<_> = self
            .producers
            .iter()
            .map(|(key, producer)| (producer.stamp, *key))
            .collect();
        queue.sort_unstable_by_key(|(stamp, _)| *stamp);
        self.queue = queue.into();
    }
}

impl Producer {
    /// What became of a batch of an earlier epoch.
    fn check_fenced(&self, sequence: ProducerSequence) -> Result<Appended, Refusal> {
        match &self.fenced {
            Some(fenced)
                if fenced.epoch == sequence.epoch
                    && sequence.sequence <= fenced.sent.last_sequence =>
            {
                fenced.sent.find(sequence.sequence)
            }
            // Without the epoch before, a duplicate cannot be told.
            None if self.sent.last_sequence == 0 => Err(Refusal::UnknownProducer),
            _ => Err(Refusal::ProducerFenced { epoch: self.epoch }),
        }
    }
}

impl Sent {
    fn push(&mut self, sequence: u64, receipt: Receipt) {
        if self.receipts.len() == REMEMBERED_BATCHES
            && let Some(forgotten) = self.receipts.pop_front()
            && forgotten.stored == 0
        {
            self.forgotten_empty = Some(sequence - REMEMBERED_BATCHES as u64);
        }
        self.receipts.push_back(receipt);
        self.last_sequence = sequence;
    }

    /// What is answered to a batch that is there already.
    fn find(&self, sequence: u64) -> Result<Appended, Refusal> {
        let back = self.last_sequence - sequence;
        let known = (self.receipts.len() as u64)
            .checked_sub(1 + back)
            .and_then(|at| self.receipts.get(at as usize));
        if known.is_none() && self.forgotten_empty >= Some(sequence) {
            return Err(Refusal::Forgotten);
        }
        Ok(Appended {
            base_offset: known.and_then(|receipt| receipt.base_offset),
            stored: known.map(|receipt| receipt.stored),
            append_time_ms: known.map_or(0, |receipt| receipt.append_time_ms),
            duplicate: true,
        })
    }
}
