//! What a shard remembers of idempotent producers: enough to tell a batch that was sent again
//! from a new one, and to answer it as the first time.
//!
//! A producer that has lost track of what is stored opens a new epoch with an empty batch: a
//! fence. From then on nothing of the epoch before it is taken any more, so what the table says
//! of those batches is final: a batch that is sent again is either a duplicate, or not stored and
//! never will be.
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

/// Producers that a shard remembers, counted once for each partition that they write to.
pub const PRODUCERS_MAX: usize = 16_384;

/// Batches of one producer in one partition whose offsets are remembered. A duplicate of an older
/// one is still recognised, but its receipt names no offset.
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
    last_sequence: u64,
    /// What was answered to the last batches, the newest last.
    receipts: VecDeque<Receipt>,
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
    last_sequence: u64,
    receipts: VecDeque<Receipt>,
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
        let key = (partition, sequence.producer_id);
        let expected = match self.producers.get(&key) {
            None if sequence.sequence == 0 => return Ok(Verdict::New),
            None => return Err(Refusal::UnknownProducer),
            Some(known) if sequence.epoch < known.epoch => {
                return known.check_fenced(sequence).map(Verdict::Duplicate);
            }
            Some(known) if sequence.epoch > known.epoch => 0,
            Some(known) if sequence.sequence <= known.last_sequence => {
                let appended = duplicate(&known.receipts, known.last_sequence - sequence.sequence);
                return Ok(Verdict::Duplicate(appended));
            }
            Some(known) => known.last_sequence + 1,
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
            last_sequence: 0,
            receipts: VecDeque::new(),
            stamp,
            fenced: None,
        });
        if producer.epoch != sequence.epoch {
            producer.fenced = Some(Box::new(Fenced {
                epoch: producer.epoch,
                last_sequence: producer.last_sequence,
                receipts: std::mem::take(&mut producer.receipts),
            }));
            producer.epoch = sequence.epoch;
        } else if producer.fenced.is_some() {
            producer.fenced = None;
        }
        producer.last_sequence = sequence.sequence;
        producer.stamp = stamp;
        if producer.receipts.len() == REMEMBERED_BATCHES {
            producer.receipts.pop_front();
        }
        producer.receipts.push_back(Receipt {
            base_offset: appended.base_offset,
            stored: appended.stored,
            append_time_ms: appended.append_time_ms,
        });
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
            Some(fenced) if fenced.epoch == sequence.epoch => fenced
                .last_sequence
                .checked_sub(sequence.sequence)
                .map(|back| duplicate(&fenced.receipts, back))
                .ok_or(Refusal::ProducerFenced { epoch: self.epoch }),
            // Without the epoch before, a duplicate cannot be told.
            None if self.last_sequence == 0 => Err(Refusal::UnknownProducer),
            _ => Err(Refusal::ProducerFenced { epoch: self.epoch }),
        }
    }
}

/// What is answered to a batch that lies so many before the last.
fn duplicate(receipts: &VecDeque<Receipt>, back: u64) -> Appended {
    let known = (receipts.len() as u64)
        .checked_sub(1 + back)
        .and_then(|at| receipts.get(at as usize));
    Appended {
        base_offset: known.and_then(|receipt| receipt.base_offset),
        stored: known.map_or(0, |receipt| receipt.stored),
        append_time_ms: known.map_or(0, |receipt| receipt.append_time_ms),
        duplicate: true,
    }
}
