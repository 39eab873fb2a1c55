//! What clients did and saw, and whether that may be. Pure: no clock, no network.
//!
//! A producer writes numbers that rise by one to one partition. A number is acknowledged (then
//! it is stored, once, where the receipt says), refused (then it is not stored) or unknown (then
//! either). Whoever reads an offset reads the same record there, never goes back, passes nothing
//! over, and what anybody has read once is there to the end. Of a topic with retention, what came
//! first may be gone, and what lies before a gap in a copy.

use std::collections::{BTreeMap, BTreeSet};

/// Contradictions that are kept; one alone says that something is wrong.
const CONTRADICTIONS_MAX: usize = 20;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) partition: u32,
}

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    pub(crate) producer: u32,
    pub(crate) number: u64,
}

/// What a producer was told of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is stored, at this offset if the broker still knew.
    Stored(Option<u64>),
    /// It is not stored.
    Refused,
}

/// What became of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopicState {
    There,
    Gone,
    Unknown,
}

#[derive(Debug)]
struct Producer {
    place: Place,
    sent: u64,
    outcomes: BTreeMap<u64, Outcome>,
}

/// What the last readers saw, by reader and place, each from the first record to the last; a place
/// in which a reader saw nothing is there, too.
pub(crate) type Read = BTreeMap<(String, Place), Vec<(u64, Record)>>;

/// All that was done and seen.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    producers: Vec<Producer>,
    topics: BTreeMap<String, TopicState>,
    contents: BTreeMap<Place, BTreeMap<u64, Record>>,
    /// The offset that each reader expects next.
    readers: BTreeMap<(String, Place), u64>,
    /// Readers that begin anywhere; the others begin with the first record.
    anywhere: BTreeSet<String>,
    /// Topics of which what was first goes.
    trimmed: BTreeSet<String>,
    contradictions: Vec<String>,
}

impl Ledger {
    /// A new producer to a partition; its id.
    pub(crate) fn add_producer(&mut self, place: Place) -> u32 {
        self.producers.push(Producer {
            place,
            sent: 0,
            outcomes: BTreeMap::new(),
        });
        self.producers.len() as u32 - 1
    }

    /// The next record of a producer, which is about to be sent.
    pub(crate) fn send(&mut self, producer: u32) -> Record {
        let history = &mut self.producers[producer as usize];
        history.sent += 1;
        Record {
            producer,
            number: history.sent - 1,
        }
    }

    /// What became of a record. Nothing is noted of one whose outcome is not known.
    pub(crate) fn settle(&mut self, record: Record, outcome: Outcome) {
        let history = &mut self.producers[record.producer as usize];
        history.outcomes.insert(record.number, outcome);
    }

    /// A reader begins anywhere, and not with the first record.
    pub(crate) fn begin_anywhere(&mut self, reader: &str) {
        self.anywhere.insert(reader.to_owned());
    }

    /// What is first in a topic goes.
    pub(crate) fn trim(&mut self, topic: &str) {
        self.trimmed.insert(topic.to_owned());
    }

    fn is_trimmed(&self, place: &Place) -> bool {
        self.trimmed.contains(&place.topic)
    }

    /// A reader saw a record.
    pub(crate) fn see(&mut self, reader: &str, place: &Place, offset: u64, record: Record) {
        let key = (reader.to_owned(), place.clone());
        let before = self.readers.insert(key, offset + 1);
        let begins_anywhere = self.anywhere.contains(reader);
        let expected = before.or((!begins_anywhere).then_some(0));
        match expected {
            Some(expected) if offset < expected => self.object(format!(
                "{reader} went back: {record:?} at {offset} of {place:?}, expected {expected}"
            )),
            // Retention may have passed it by.
            Some(expected) if offset > expected && !self.is_trimmed(place) => {
                self.object(format!(
                    "passed over by {reader}: {expected} of {place:?}, which saw {record:?} at \
                     {offset} next"
                ));
            }
            _ => {}
        }
        let contents = self.contents.entry(place.clone()).or_default();
        let known = *contents.entry(offset).or_insert(record);
        if known != record {
            self.object(format!(
                "two contents: {reader} saw {record:?} at {offset} of {place:?}, others {known:?}"
            ));
        }
    }

    /// The partitions of a topic that somebody produces to.
    pub(crate) fn places(&self, topic: &str) -> BTreeSet<Place> {
        let places = self.producers.iter().map(|producer| &producer.place);
        places
            .filter(|place| place.topic == topic)
            .cloned()
            .collect()
    }

    /// A topic is about to be made or removed.
    pub(crate) fn change_topic(&mut self, topic: &str) {
        self.topics.insert(topic.to_owned(), TopicState::Unknown);
    }

    /// A topic was made for sure.
    pub(crate) fn topic_made(&mut self, topic: &str) {
        self.topics.insert(topic.to_owned(), TopicState::There);
    }

    /// A topic was removed for sure.
    pub(crate) fn topic_removed(&mut self, topic: &str) {
        self.topics.insert(topic.to_owned(), TopicState::Gone);
    }

    /// The topics there are in the end.
    pub(crate) fn see_topics(&mut self, present: &[String]) {
        let present: BTreeSet<&str> = present.iter().map(String::as_str).collect();
        let mut wrong = Vec::new();
        for (topic, state) in &self.topics {
            match (state, present.contains(topic.as_str())) {
                (TopicState::There, false) => wrong.push(format!("topic {topic} is lost")),
                (TopicState::Gone, true) => wrong.push(format!("topic {topic} is back")),
                _ => {}
            }
        }
        for topic in present {
            if !self.topics.contains_key(topic) {
                wrong.push(format!("topic {topic} was never made"));
            }
        }
        self.object_to_all(wrong);
    }

    /// Notes what must not be.
    pub(crate) fn object(&mut self, contradiction: String) {
        if self.contradictions.len() < CONTRADICTIONS_MAX {
            self.contradictions.push(contradiction);
        }
    }

    fn object_to_all(&mut self, contradictions: Vec<String>) {
        for contradiction in contradictions {
            self.object(contradiction);
        }
    }

    /// Records that were acknowledged, and those that were seen.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let acknowledged = self.producers.iter().flat_map(|producer| {
            let outcomes = producer.outcomes.values();
            outcomes.filter(|outcome| matches!(outcome, Outcome::Stored(_)))
        });
        let seen = self.contents.values().map(BTreeMap::len).sum();
        (acknowledged.count(), seen)
    }

    /// Everything that must not be, by what the last readers saw, too.
    pub(crate) fn contradictions(mut self, last: &Read) -> Vec<String> {
        for ((reader, place), records) in last {
            for (offset, record) in records {
                self.see(reader, place, *offset, *record);
            }
            let offsets: BTreeSet<u64> = records.iter().map(|(offset, _)| *offset).collect();
            let kept_from = self.kept_from(place, records);
            let seen = self.contents.get(place).into_iter().flatten();
            let vanished: Vec<_> = seen
                .filter(|(offset, _)| **offset >= kept_from && !offsets.contains(offset))
                .map(|(offset, record)| {
                    format!("vanished for {reader}: {record:?} at {offset} of {place:?}")
                })
                .collect();
            self.object_to_all(vanished);
            self.check_producers(reader, place, records);
        }
        self.contradictions
    }

    /// From where on a copy with these records has to have all. What it got from another copy begins
    /// where retention had come to there, so that there may be a gap before it.
    fn kept_from(&self, place: &Place, records: &[(u64, Record)]) -> u64 {
        if !self.is_trimmed(place) {
            return 0;
        }
        let first = records.first().map_or(0, |(offset, _)| *offset);
        let gaps = records.windows(2).filter(|pair| pair[1].0 > pair[0].0 + 1);
        gaps.map(|pair| pair[1].0).next_back().unwrap_or(first)
    }

    fn check_producers(&mut self, reader: &str, place: &Place, records: &[(u64, Record)]) {
        let kept_from = self.kept_from(place, records);
        let mut stored: BTreeMap<Record, u64> = BTreeMap::new();
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (offset, record) in records {
            if let Some(first) = stored.insert(*record, *offset) {
                wrong.push(format!(
                    "twice: {record:?} at {first} and {offset} of {place:?}"
                ));
            }
            if let Some(before) = last.insert(record.producer, record.number)
                && before > record.number
            {
                wrong.push(format!(
                    "out of order: {record:?} at {offset} of {place:?}, after number {before}"
                ));
            }
        }
        for record in stored.keys() {
            let known = self.producers.get(record.producer as usize);
            if known
                .is_none_or(|producer| producer.place != *place || producer.sent <= record.number)
            {
                wrong.push(format!("never sent: {record:?}, seen in {place:?}"));
            }
        }
        for (producer, history) in (0..).zip(&self.producers) {
            if history.place != *place {
                continue;
            }
            for (number, outcome) in &history.outcomes {
                let record = Record {
                    producer,
                    number: *number,
                };
                match (outcome, stored.get(&record)) {
                    (Outcome::Stored(Some(told)), None) if *told < kept_from => {}
                    (Outcome::Stored(None), None) if kept_from > 0 => {}
                    (Outcome::Stored(_), None) => {
                        wrong.push(format!(
                            "lost for {reader}: {record:?} of {place:?}, {outcome:?}"
                        ));
                    }
                    (Outcome::Stored(Some(told)), Some(offset)) if told != offset => {
                        wrong.push(format!(
                            "elsewhere: {record:?} at {offset} of {place:?}, receipt says {told}"
                        ));
                    }
                    (Outcome::Refused, Some(offset)) => wrong.push(format!(
                        "refused, and yet there: {record:?} at {offset} of {place:?}"
                    )),
                    _ => {}
                }
            }
        }
        self.object_to_all(wrong);
    }
}

mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            topic: "numbers".to_owned(),
            partition: 0,
        }
    }

    fn record(number: u64) -> Record {
        Record {
            producer: 0,
            number,
        }
    }

    /// Three records: one stored at 0, one refused, one unknown.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        let producer = ledger.add_producer(place());
        for _ in 0..3 {
            ledger.send(producer);
        }
        ledger.settle(record(0), Outcome::Stored(Some(0)));
        ledger.settle(record(1), Outcome::Refused);
        ledger
    }

    fn contradictions(ledger: Ledger, records: &[(u64, Record)]) -> Vec<String> {
        let last = BTreeMap::from([(("last".to_owned(), place()), records.to_vec())]);
        ledger.contradictions(&last)
    }

    #[test]
    fn what_is_unknown_may_be_there_or_not() {
        assert_eq!(contradictions(ledger(), &[(0, record(0))]), [""; 0]);
        let both = [(0, record(0)), (1, record(2))];
        assert_eq!(contradictions(ledger(), &both), [""; 0]);
    }

    #[test]
    fn every_kind_of_wrong_is_found() {
        let wrong: [(&str, &[(u64, Record)]); 8] = [
            ("lost", &[]),
            ("twice", &[(0, record(0)), (1, record(0))]),
            ("out of order", &[(0, record(2)), (1, record(0))]),
            ("never sent", &[(0, record(0)), (1, record(3))]),
            ("elsewhere", &[(4, record(0))]),
            ("refused, and yet", &[(0, record(0)), (1, record(1))]),
            ("went back", &[(1, record(2)), (0, record(0))]),
            ("passed over", &[(0, record(0)), (2, record(2))]),
        ];
        for (what, records) in wrong {
            let found = contradictions(ledger(), records);
            assert!(
                found.iter().any(|text| text.contains(what)),
                "{what}: {found:?}"
            );
        }
    }

    #[test]
    fn readers_must_agree_and_nothing_that_was_read_may_vanish() {
        let mut seen = ledger();
        seen.begin_anywhere("early");
        seen.see("early", &place(), 1, record(2));
        let found = contradictions(seen, &[(0, record(0))]);
        assert!(found[0].contains("vanished"), "{found:?}");
        let mut seen = ledger();
        seen.see("early", &place(), 0, record(2));
        let found = contradictions(seen, &[(0, record(0))]);
        assert!(found[0].contains("two contents"), "{found:?}");
    }

    #[test]
    fn a_reader_that_begins_anywhere_passes_nothing_over_from_there_on() {
        let mut seen = Ledger::default();
        seen.begin_anywhere("late");
        seen.see("late", &place(), 5, record(5));
        seen.see("late", &place(), 6, record(6));
        assert_eq!(seen.contradictions, [""; 0]);
        seen.see("late", &place(), 8, record(8));
        assert!(seen.contradictions[0].contains("passed over"));
    }

    #[test]
    fn of_a_topic_with_retention_only_what_was_first_may_be_gone() {
        let trimmed = || {
            let mut ledger = ledger();
            ledger.trim("numbers");
            let record = ledger.send(0);
            ledger.settle(record, Outcome::Stored(Some(2)));
            ledger
        };
        assert_eq!(contradictions(trimmed(), &[(2, record(3))]), [""; 0]);
        let found = contradictions(trimmed(), &[(0, record(0)), (1, record(2))]);
        assert!(found[0].contains("lost"), "{found:?}");
        let found = contradictions(trimmed(), &[]);
        assert!(found[0].contains("lost"), "{found:?}");
    }

    #[test]
    fn topics_are_there_as_far_as_that_is_known() {
        let mut ledger = Ledger::default();
        for topic in ["made", "gone", "unknown"] {
            ledger.change_topic(topic);
        }
        ledger.topic_made("made");
        ledger.topic_removed("gone");
        ledger.see_topics(&["made".to_owned()]);
        ledger.see_topics(&["made".to_owned(), "unknown".to_owned()]);
        assert_eq!(ledger.contradictions, [""; 0]);
        ledger.see_topics(&["gone".to_owned(), "other".to_owned()]);
        assert_eq!(ledger.contradictions.len(), 3);
    }
}
