//! Where a consumer is in each partition: what it asks for after a reconnect, and which
//! records of a batch it has seen already. Pure: offsets in, decisions out.

use std::collections::{BTreeMap, btree_map::Entry};

use flumen_protocol::{
    ids::Offset,
    message::{PartitionStart, StartAt},
};

/// Where a partition is read from next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// What to ask for: what the user said until the broker has answered, and then the offset
    /// after the last record that came.
    pub(super) at: StartAt,
    /// Whether a broker has said so.
    pub(super) confirmed: bool,
}

impl Start {
    fn reached(offset: Offset) -> Self {
        let at = StartAt::Offset(offset);
        let confirmed = true;
        Self { at, confirmed }
    }
}

impl From<StartAt> for Start {
    fn from(at: StartAt) -> Self {
        let confirmed = false;
        Self { at, confirmed }
    }
}

/// The places where one stream of a consumer is.
#[derive(Clone, Debug, Default)]
pub(super) struct Positions {
    next: BTreeMap<u32, Start>,
}

/// What a batch is to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Records before this offset were seen already or not asked for.
    From(Offset),
    /// All of it was, or the partition is none of this stream.
    Nothing,
}

impl Positions {
    pub(super) fn new(next: impl IntoIterator<Item = (u32, Start)>) -> Self {
        Self {
            next: next.into_iter().collect(),
        }
    }

    /// What to ask a broker for.
    pub(super) fn to_request(&self) -> Vec<(u32, Start)> {
        self.next.iter().map(|(p, start)| (*p, *start)).collect()
    }

    /// The partitions.
    pub(super) fn partitions(&self) -> impl Iterator<Item = u32> {
        self.next.keys().copied()
    }

    /// Whether a broker has said of every partition where it starts.
    pub(super) fn all_confirmed(&self) -> bool {
        self.next.values().all(|start| start.confirmed)
    }

    /// The broker said where it starts. What was received from another broker stays received,
    /// even if this one is behind.
    pub(super) fn started(&mut self, starts: &[PartitionStart]) {
        for start in starts {
            if let Some(next) = self.next.get_mut(&start.partition) {
                let at = match next.at {
                    StartAt::Offset(reached) if next.confirmed => reached.max(start.start_offset),
                    _ => start.start_offset,
                };
                *next = Start::reached(at);
            }
        }
    }

    /// The offset expected next, once the broker has said where it starts.
    pub(super) fn expected(&self, partition: u32) -> Option<Offset> {
        match self.next.get(&partition)?.at {
            StartAt::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// A batch came that takes the offsets from `base` to before `end`.
    pub(super) fn arrived(&mut self, partition: u32, end: Offset) -> Arrival {
        let Some(expected) = self.expected(partition) else {
            return Arrival::Nothing;
        };
        if end <= expected {
            return Arrival::Nothing;
        }
        self.next.insert(partition, Start::reached(end));
        Arrival::From(expected)
    }
}

/// How far a consumer that stops at the end has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    partitions: BTreeMap<u32, Place>,
    /// Partitions that have not reached their end, or whose end is not known.
    open: usize,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    next: Offset,
    /// Where the partition ended when that was known first.
    end: Option<Offset>,
    /// Whether its end is waited for no more, since it cannot be read. It stays where it is: who goes
    /// on there later, once it can be read, misses nothing.
    is_given_up: bool,
}

impl Place {
    /// Whether its end is waited for: it is not reached, or not known.
    fn is_open(&self) -> bool {
        !self.is_given_up && self.end.is_none_or(|end| self.next < end)
    }
}

impl Progress {
    /// A partition starts, for the first time or after a reconnect. The end is where it was
    /// when somebody knew it first.
    pub(super) fn started(&mut self, start: &PartitionStart) {
        if let Entry::Vacant(new) = self.partitions.entry(start.partition) {
            let place = new.insert(Place {
                next: start.start_offset,
                end: start.end_offset,
                is_given_up: false,
            });
            self.open += usize::from(place.is_open());
        } else {
            self.described(start);
        }
    }

    /// A partition begins and ends here by now. Nothing to those that have not started.
    pub(super) fn described(&mut self, start: &PartitionStart) {
        self.change(start.partition, |place| {
            // Retention may have removed what was to come.
            place.next = place.next.max(start.start_offset);
            place.end = place.end.or(start.end_offset);
        });
    }

    /// All before `next` was handed out.
    pub(super) fn reached(&mut self, partition: u32, next: Offset) {
        self.change(partition, |place| place.next = place.next.max(next));
    }

    /// A partition cannot be read any further.
    pub(super) fn given_up(&mut self, partition: u32) {
        self.change(partition, |place| place.is_given_up = true);
    }

    fn change(&mut self, partition: u32, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.partitions.get_mut(&partition) {
            let was_open = place.is_open();
            change(place);
            self.open -= usize::from(was_open && !place.is_open());
        }
    }

    /// Where the partition ended when the consumer started, if that is known.
    pub(super) fn end(&self, partition: u32) -> Option<Offset> {
        self.partitions.get(&partition)?.end
    }

    /// Whether every partition has reached the end that it had at the start.
    pub(super) fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// The next offset of each partition.
    pub(super) fn positions(&self) -> impl Iterator<Item = (u32, Offset)> {
        self.partitions.iter().map(|(p, place)| (*p, place.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(partition: u32, start_offset: u64, end_offset: u64) -> PartitionStart {
        PartitionStart {
            partition,
            start_offset: Offset(start_offset),
            end_offset: Some(Offset(end_offset)),
        }
    }

    fn positions(starts: &[(u32, StartAt)]) -> Positions {
        Positions::new(
            starts
                .iter()
                .map(|(partition, at)| (*partition, (*at).into())),
        )
    }

    fn asked(positions: &Positions) -> Vec<(u32, StartAt)> {
        let asked = positions.to_request().into_iter();
        asked
            .map(|(partition, start)| (partition, start.at))
            .collect()
    }

    #[test]
    fn a_reconnect_asks_for_what_follows_the_last_batch() {
        let starts = [(0, StartAt::Beginning), (1, StartAt::End)];
        let mut positions = positions(&starts);
        assert_eq!(asked(&positions), starts);
        assert!(!positions.all_confirmed());
        positions.started(&[start(0, 5, 9), start(1, 7, 7)]);
        assert!(positions.all_confirmed());
        assert_eq!(positions.arrived(0, Offset(9)), Arrival::From(Offset(5)));
        assert_eq!(
            asked(&positions),
            [
                (0, StartAt::Offset(Offset(9))),
                (1, StartAt::Offset(Offset(7)))
            ]
        );
    }

    #[test]
    fn a_batch_that_came_before_is_nothing_and_one_that_overlaps_is_cut() {
        let mut positions = positions(&[(0, StartAt::Offset(Offset(3)))]);
        positions.started(&[start(0, 3, 20)]);
        assert_eq!(positions.arrived(0, Offset(10)), Arrival::From(Offset(3)));
        assert_eq!(positions.arrived(0, Offset(10)), Arrival::Nothing);
        assert_eq!(positions.arrived(0, Offset(12)), Arrival::From(Offset(10)));
        assert_eq!(positions.arrived(7, Offset(12)), Arrival::Nothing);
    }

    #[test]
    fn a_broker_that_is_behind_does_not_take_a_consumer_back() {
        let mut positions = positions(&[(0, StartAt::Beginning)]);
        positions.started(&[start(0, 0, 20)]);
        positions.arrived(0, Offset(15));
        positions.started(&[start(0, 10, 10)]);
        assert_eq!(positions.arrived(0, Offset(14)), Arrival::Nothing);
        assert_eq!(positions.arrived(0, Offset(18)), Arrival::From(Offset(15)));
        positions.started(&[start(0, 30, 40)]);
        assert_eq!(positions.expected(0), Some(Offset(30)), "retention");
    }

    #[test]
    fn the_end_is_reached_when_every_partition_has_reached_its_own() {
        let mut progress = Progress::default();
        progress.started(&start(0, 0, 10));
        progress.started(&start(1, 4, 4));
        assert!(!progress.is_complete());
        progress.reached(0, Offset(9));
        assert!(!progress.is_complete());
        progress.reached(0, Offset(12));
        progress.reached(0, Offset(13));
        assert!(progress.is_complete());
    }

    #[test]
    fn an_end_that_is_not_known_is_not_reached_and_stays_once_it_is_known() {
        let mut progress = Progress::default();
        let mut unknown = start(0, 0, 0);
        unknown.end_offset = None;
        progress.started(&unknown);
        assert!(!progress.is_complete(), "a copy may be empty");
        progress.reached(0, Offset(5));
        progress.described(&start(7, 0, 9));
        progress.described(&unknown);
        assert!(!progress.is_complete());
        assert_eq!((progress.end(0), progress.end(7)), (None, None));
        progress.described(&start(0, 0, 8));
        progress.described(&start(0, 0, 9));
        assert_eq!(progress.end(0), Some(Offset(8)));
        assert!(!progress.is_complete());
        progress.reached(0, Offset(8));
        assert!(progress.is_complete());
    }

    #[test]
    fn a_partition_that_is_given_up_is_waited_for_no_more() {
        let mut progress = Progress::default();
        let mut unknown = start(0, 3, 0);
        unknown.end_offset = None;
        progress.started(&unknown);
        progress.started(&start(1, 0, 10));
        progress.given_up(0);
        assert!(!progress.is_complete());
        progress.given_up(1);
        progress.given_up(1);
        assert!(progress.is_complete());
    }

    #[test]
    fn a_partition_that_is_given_up_stays_where_it_was_for_who_goes_on_there_later() {
        let mut progress = Progress::default();
        progress.started(&start(0, 0, 10));
        progress.reached(0, Offset(4));
        progress.given_up(0);
        let positions: Vec<_> = progress.positions().collect();
        assert_eq!(positions, [(0, Offset(4))]);
        // It can be read again.
        progress.reached(0, Offset(6));
        let positions: Vec<_> = progress.positions().collect();
        assert_eq!(positions, [(0, Offset(6))]);
        assert!(progress.is_complete());
    }

    #[test]
    fn records_that_retention_removed_are_not_waited_for() {
        let mut progress = Progress::default();
        progress.started(&start(0, 0, 10));
        progress.started(&start(0, 10, 15));
        assert!(progress.is_complete());
        assert_eq!(progress.end(0), Some(Offset(10)));
    }
}
