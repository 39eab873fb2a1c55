//! What a topic keeps, and so what may be missing in a copy of a partition.

use std::collections::{BTreeMap, BTreeSet};

use super::Record;

/// Keys of a topic that is compacted.
const KEYS: u64 = 6;

/// So many records of a producer to such a topic, and one of them deletes its key. Has no divisor
/// in common with [`KEYS`], so that each key is deleted at some time.
const DELETES_ONE_OF: u64 = 11;

/// What a record takes in a log at most, besides its value: a batch of its own.
const OVERHEAD_BYTES: u64 = 200;

/// What a topic keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keeps {
    #[default]
    All,
    /// Of each partition what came last, so many bytes at least.
    LastBytes(u64),
    /// The last record of each key. One that deletes its key may go after a while, if they are
    /// forgotten.
    LastOfEachKey { forgets_deleted: bool },
}

impl Record {
    /// The key that it has in a topic that is compacted.
    pub(crate) fn key(self) -> u64 {
        self.number % KEYS
    }

    /// Whether it deletes its key in such a topic.
    pub(crate) fn deletes(self) -> bool {
        self.number % DELETES_ONE_OF == DELETES_ONE_OF - 1
    }
}

/// What a topic keeps of a partition in which certain records are known to have been.
#[derive(Debug)]
pub(super) struct Kept {
    keeps: Keeps,
    /// The last record of each key.
    latest: BTreeMap<u64, (u64, Record)>,
    /// Keys that may have been deleted by records that nobody has seen, and that are forgotten.
    perhaps_forgotten: BTreeSet<u64>,
}

impl Kept {
    /// By the records that are known to have been somewhere, and those that may have been.
    pub(super) fn new(
        keeps: Keeps,
        known: impl IntoIterator<Item = (u64, Record)>,
        unknown: impl IntoIterator<Item = Record>,
    ) -> Self {
        let mut kept = Self {
            keeps,
            latest: BTreeMap::new(),
            perhaps_forgotten: BTreeSet::new(),
        };
        if let Keeps::LastOfEachKey { forgets_deleted } = keeps {
            for (offset, record) in known {
                let of_key = kept.latest.entry(record.key()).or_insert((offset, record));
                *of_key = (*of_key).max((offset, record));
            }
            let unknown = unknown.into_iter().filter(|record| record.deletes());
            let unknown = unknown.filter(|_| forgets_deleted);
            kept.perhaps_forgotten = unknown.map(Record::key).collect();
        }
        kept
    }

    /// Whether a record at an offset may be missing wherever it stands.
    pub(super) fn may_lack(&self, offset: u64, record: Record) -> bool {
        let latest = self.latest.get(&record.key());
        let is_superseded = latest.is_some_and(|(last, _)| *last > offset);
        is_superseded || self.may_forget(record)
    }

    /// The same for a record that is stored nobody knows where.
    pub(super) fn may_lack_somewhere(&self, record: Record) -> bool {
        let latest = self.latest.get(&record.key());
        // The records of a producer are in order.
        let is_superseded = latest.is_some_and(|(_, latest)| {
            latest.producer != record.producer || latest.number > record.number
        });
        is_superseded || self.may_forget(record)
    }

    /// Whether a key may be gone altogether, of which this was the last record that is known.
    fn may_forget(&self, record: Record) -> bool {
        match self.keeps {
            Keeps::LastOfEachKey { forgets_deleted } => {
                let is_deleted = forgets_deleted && record.deletes();
                is_deleted || self.perhaps_forgotten.contains(&record.key())
            }
            Keeps::All | Keeps::LastBytes(_) => false,
        }
    }

    /// Records of a copy whose key the last one deleted, which the copy does not have.
    pub(super) fn deleted_in(&self, copy: &BTreeMap<u64, Record>) -> Vec<(u64, Record)> {
        let is_back = |(offset, record): &(&u64, &Record)| {
            let latest = self.latest.get(&record.key());
            latest.is_some_and(|(last, latest)| {
                latest.deletes() && *offset < last && !copy.contains_key(last)
            })
        };
        let back = copy.iter().filter(is_back);
        back.map(|(offset, record)| (*offset, *record)).collect()
    }

    /// Whether what lies before `from` may have gone, by the bytes of what follows.
    pub(super) fn may_begin_at(
        &self,
        from: u64,
        value_bytes_from: impl Iterator<Item = u64>,
    ) -> bool {
        match self.keeps {
            Keeps::LastBytes(bytes_min) => {
                let bytes: u64 = value_bytes_from.map(|bytes| bytes + OVERHEAD_BYTES).sum();
                from == 0 || bytes >= bytes_min
            }
            Keeps::All | Keeps::LastOfEachKey { .. } => from == 0,
        }
    }
}
