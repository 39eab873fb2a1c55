//! What the WAL keeps in memory for each shard: how far its log reaches, and where each entry is.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use flumen_protocol::ids::ShardId;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::{LogPosition, ShardLogState, record::record_bytes, segment::Position};

/// A shard. Two views of the same log: `planned` has all that was called for, `written` what has
/// reached the file.
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) planned: Mutex<Planned>,
    pub(super) written: RwLock<ShardIndex>,
    /// The number of the last operation that was queued.
    pub(super) queued: AtomicU64,
}

/// The log as its owner sees it.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) extent: Extent,
    pub(super) purged_log_id: Option<Bytes>,
    pub(super) vote: Option<Bytes>,
}

impl Shard {
    pub(super) fn new(id: ShardId, index: ShardIndex) -> Arc<Self> {
        let planned = Planned {
            extent: index.extent.clone(),
            purged_log_id: index.purged_log_id.clone(),
            vote: index.vote.clone(),
        };
        Arc::new(Self {
            id,
            planned: Mutex::new(planned),
            written: RwLock::new(index),
            queued: AtomicU64::new(0),
        })
    }

    pub(super) fn state(&self) -> ShardLogState {
        let planned = self.planned.lock();
        ShardLogState {
            purged: planned.extent.purged,
            purged_log_id: planned.purged_log_id.clone(),
            first: planned.extent.first(),
            last: planned.extent.last(),
            vote: planned.vote.clone(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state() == ShardLogState::default()
    }

    pub(super) fn queued(&self) -> u64 {
        self.queued.load(Ordering::Acquire)
    }
}

/// Which entries a log has, and their terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    pub(super) purged: Option<LogPosition>,
    /// The first entry, and the one after the last; equal if there is none.
    start: u64,
    end: u64,
    /// Each term with the first index that has it; in order.
    terms: VecDeque<(u64, u64)>,
}

impl Extent {
    pub(super) fn first(&self) -> Option<u64> {
        (self.start < self.end).then_some(self.start)
    }

    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The last entry, or the last purged one.
    pub(super) fn last(&self) -> Option<LogPosition> {
        if self.start == self.end {
            return self.purged;
        }
        let index = self.end - 1;
        self.term(index).map(|term| LogPosition { term, index })
    }

    /// The term of an entry that is there.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        let after = self.terms.partition_point(|(first, _)| *first <= index);
        (index >= self.start && index < self.end)
            .then(|| self.terms.get(after.checked_sub(1)?).map(|(_, term)| *term))?
    }

    /// The index that the next entry must have; any, if `None`.
    pub(super) fn next(&self) -> Option<u64> {
        (self.start < self.end || self.purged.is_some()).then_some(self.end)
    }

    /// Appends an entry; its index must be [`Extent::next`].
    pub(super) fn append(&mut self, term: u64, index: u64) {
        if self.next().is_none() {
            (self.start, self.end) = (index, index);
        }
        debug_assert_eq!(index, self.end);
        if self.terms.back().is_none_or(|(_, last)| *last != term) {
            self.terms.push_back((index, term));
        }
        self.end += 1;
    }

    /// Removes the entries after `index`.
    pub(super) fn truncate(&mut self, index: Option<u64>) {
        let end = index.map_or(0, |index| index.saturating_add(1));
        self.end = self.end.min(end.max(self.start));
        while self
            .terms
            .back()
            .is_some_and(|(first, _)| *first >= self.end)
        {
            self.terms.pop_back();
        }
    }

    /// Removes the entries up to `up_to`; one that is purged already changes nothing.
    pub(super) fn purge(&mut self, up_to: LogPosition) -> bool {
        if self
            .purged
            .is_some_and(|purged| purged.index >= up_to.index)
        {
            return false;
        }
        self.purged = Some(up_to);
        self.start = up_to.index + 1;
        if self.end <= self.start {
            self.end = self.start;
            self.terms.clear();
        }
        while self
            .terms
            .get(1)
            .is_some_and(|(first, _)| *first <= self.start)
        {
            self.terms.pop_front();
        }
        true
    }
}

/// Where an entry is: 16 bytes for each entry of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Where its record begins; 0 for an entry in a segment that recovery did not find.
    pub(super) position: Position,
    pub(super) payload_bytes: u32,
}

/// The log as the files have it.
#[derive(Debug, Default)]
pub(super) struct ShardIndex {
    pub(super) extent: Extent,
    pub(super) purged_log_id: Option<Bytes>,
    pub(super) vote: Option<Bytes>,
    slots: VecDeque<Slot>,
    /// From this index on, the entries lie in the file in their order, behind all others: those
    /// before it were there when some were moved last.
    ordered_from: u64,
}

/// What a record changes in the index of its shard.
#[derive(Debug)]
pub(super) enum Change {
    Entry { term: u64, index: u64, slot: Slot },
    Moved { index: u64, slot: Slot },
    Vote(Bytes),
    Truncate(Option<u64>),
    Purge(LogPosition, Bytes),
    Reset,
}

/// The state of a shard at the beginning of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardImage {
    extent: Extent,
    purged_log_id: Option<Bytes>,
    vote: Option<Bytes>,
    /// Of the format alone: nobody needs a commit point.
    committed: Option<Bytes>,
}

impl ShardIndex {
    /// Applies a change, and calls `freed` for each entry that is no longer needed.
    pub(super) fn apply(&mut self, change: Change, mut freed: impl FnMut(Slot)) {
        match change {
            Change::Entry { term, index, slot } => {
                self.extent.append(term, index);
                self.slots.push_back(slot);
            }
            Change::Moved { index, slot } => {
                self.ordered_from = self.extent.end();
                if let Some(place) = self.slot_mut(index) {
                    freed(std::mem::replace(place, slot));
                }
            }
            Change::Vote(vote) => self.vote = Some(vote),
            Change::Truncate(index) => {
                self.extent.truncate(index);
                self.slots
                    .drain(self.extent.len() as usize..)
                    .for_each(freed);
            }
            Change::Purge(up_to, log_id) => {
                if self.extent.purge(up_to) {
                    self.purged_log_id = Some(log_id);
                }
                let gone = self.slots.len() - (self.extent.len() as usize).min(self.slots.len());
                self.slots.drain(..gone).for_each(&mut freed);
            }
            Change::Reset => {
                self.extent = Extent::default();
                self.purged_log_id = None;
                self.ordered_from = 0;
                self.slots.drain(..).for_each(freed);
            }
        }
    }

    /// Where an entry is.
    pub(super) fn slot(&self, index: u64) -> Option<Slot> {
        let at = index.checked_sub(self.extent.first()?)?;
        self.slots.get(at as usize).copied()
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        let at = index.checked_sub(self.extent.first()?)?;
        self.slots.get_mut(at as usize)
    }

    /// Where the oldest record of an entry is.
    pub(super) fn oldest(&self) -> Option<Position> {
        let first = self.extent.first()?;
        // With the first of those that are in order.
        let candidates = self.ordered_from.saturating_sub(first) as usize + 1;
        let positions = self.slots.iter().map(|slot| slot.position);
        positions.take(candidates).min()
    }

    /// The first entries that follow each other, and whose records are before a position.
    pub(super) fn first_run_before(&self, position: Position) -> Option<Range<u64>> {
        let is_before = |slot: &Slot| slot.position < position;
        let start = self.slots.iter().position(is_before)?;
        let count = self
            .slots
            .iter()
            .skip(start)
            .take_while(|slot| is_before(slot));
        let first = self.extent.first()? + start as u64;
        Some(first..first + count.count() as u64)
    }

    /// What the records of all entries take.
    pub(super) fn record_bytes(&self) -> u64 {
        let sizes = self
            .slots
            .iter()
            .map(|slot| record_bytes(slot.payload_bytes.into()));
        sizes.sum()
    }

    /// The entries that must be in segments which recovery did not find.
    pub(super) fn missing(&self) -> usize {
        let missing = |slot: &&Slot| slot.position == Position::default();
        self.slots.iter().filter(missing).count()
    }

    pub(super) fn image(&self) -> ShardImage {
        ShardImage {
            extent: self.extent.clone(),
            purged_log_id: self.purged_log_id.clone(),
            vote: self.vote.clone(),
            committed: None,
        }
    }

    /// The index as of an image. Its entries are in segments before the one with the image, which
    /// are not there: that is fine if a later record frees them.
    pub(super) fn from_image(image: ShardImage) -> Self {
        let slot = Slot {
            position: Position::default(),
            payload_bytes: 0,
        };
        Self {
            slots: (0..image.extent.len()).map(|_| slot).collect(),
            extent: image.extent,
            purged_log_id: image.purged_log_id,
            vote: image.vote,
            ordered_from: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_is_the_oldest_again_once_all_are_gone_that_were_there_at_a_move() {
        let slot = |offset| Slot {
            position: Position::new(1, offset),
            payload_bytes: 0,
        };
        let mut index = ShardIndex::default();
        let apply = |index: &mut ShardIndex, change| index.apply(change, |_| {});
        for n in 0..4 {
            let slot = slot(100 * n);
            apply(
                &mut index,
                Change::Entry {
                    term: 1,
                    index: n,
                    slot,
                },
            );
        }
        apply(
            &mut index,
            Change::Moved {
                index: 0,
                slot: slot(400),
            },
        );
        for n in 4..6 {
            let slot = slot(100 * n + 100);
            apply(
                &mut index,
                Change::Entry {
                    term: 1,
                    index: n,
                    slot,
                },
            );
        }
        let oldest = |index: &ShardIndex| index.oldest().map(Position::offset);
        assert_eq!(oldest(&index), Some(100));
        let purge = |index| Change::Purge(LogPosition { term: 1, index }, Bytes::new());
        for (up_to, left) in [(1, 200), (3, 500), (4, 600)] {
            apply(&mut index, purge(up_to));
            assert_eq!(oldest(&index), Some(left), "{up_to}");
        }
        apply(&mut index, purge(5));
        assert_eq!(oldest(&index), None);
    }

    #[test]
    fn entries_that_replace_others_behind_a_move_are_looked_at_too() {
        let slot = |offset| Slot {
            position: Position::new(1, offset),
            payload_bytes: 0,
        };
        let mut index = ShardIndex::default();
        for change in [
            Change::Entry {
                term: 1,
                index: 0,
                slot: slot(0),
            },
            Change::Entry {
                term: 1,
                index: 1,
                slot: slot(100),
            },
            Change::Moved {
                index: 0,
                slot: slot(200),
            },
            Change::Truncate(Some(0)),
            Change::Entry {
                term: 2,
                index: 1,
                slot: slot(300),
            },
            Change::Entry {
                term: 2,
                index: 2,
                slot: slot(400),
            },
        ] {
            index.apply(change, |_| {});
        }
        assert_eq!(index.oldest(), Some(Position::new(1, 200)));
    }
}
