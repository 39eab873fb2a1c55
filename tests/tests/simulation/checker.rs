//! What clients did and saw, and whether that may be. Pure: no clock, no network.
//!
//! A producer writes numbers that rise by one to one partition. A number is acknowledged (then
//! it is stored, once, where the receipt says), refused (then it is not stored) or unknown (then
//! either). Whoever reads an offset reads the same record there, never goes back, passes nothing
//! over, and what anybody has read once is there to the end. Of a topic with retention, what came
//! first may be gone, and what lies before a gap in a copy, if what follows is as much as the topic
//! keeps. Of one that is compacted, records may be gone that a later one of their key supersedes.

use std::collections::{BTreeMap, BTreeSet};

mod keeps;
mod tests;

pub(crate) use self::keeps::Keeps;
use self::keeps::Kept;

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
    /// The bytes of the value of each record that was sent.
    sent: Vec<u64>,
    outcomes: BTreeMap<u64, Outcome>,
}

impl Producer {
    /// The records of which is known where they are stored.
    fn stored(&self, producer: u32) -> impl Iterator<Item = (u64, Record)> {
        let outcomes = self.outcomes.iter();
        outcomes.filter_map(move |(number, outcome)| match outcome {
            Outcome::Stored(Some(offset)) => {
                let number = *number;
                Some((*offset, Record { producer, number }))
            }
            Outcome::Stored(None) | Outcome::Refused => None,
        })
    }

    /// The records of which is not known where they are stored, or whether.
    fn unknown(&self, producer: u32) -> impl Iterator<Item = Record> {
        let numbers = 0..self.sent.len() as u64;
        let is_unknown = |number: &u64| {
            let outcome = self.outcomes.get(number);
            outcome.is_none_or(|outcome| *outcome == Outcome::Stored(None))
        };
        let unknown = numbers.filter(is_unknown);
        unknown.map(move |number| Record { producer, number })
    }
}

/// Offsets that a reader passed over.
#[derive(Debug)]
struct Gap {
    reader: String,
    place: Place,
    from: u64,
    to: u64,
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
    /// What topics keep that do not keep all.
    keeps: BTreeMap<String, Keeps>,
    /// What was passed over in such topics.
    gaps: Vec<Gap>,
    contradictions: Vec<String>,
}

impl Ledger {
    /// A new producer to a partition; its id.
    pub(crate) fn add_producer(&mut self, place: Place) -> u32 {
        self.producers.push(Producer {
            place,
            sent: Vec::new(),
            outcomes: BTreeMap::new(),
        });
        self.producers.len() as u32 - 1
    }

    /// The next record of a producer, which is about to be sent.
    pub(crate) fn send(&mut self, producer: u32) -> Record {
        let history = &mut self.producers[producer as usize];
        history.sent.push(0);
        Record {
            producer,
            number: history.sent.len() as u64 - 1,
        }
    }

    /// Notes how large the value of a record is.
    pub(crate) fn weigh(&mut self, record: Record, value_bytes: usize) {
        let history = &mut self.producers[record.producer as usize];
        history.sent[record.number as usize] = value_bytes as u64;
    }

    fn value_bytes(&self, record: Record) -> u64 {
        let history = self.producers.get(record.producer as usize);
        let bytes = history.and_then(|history| history.sent.get(record.number as usize));
        bytes.copied().unwrap_or(0)
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

    /// Says what a topic keeps.
    pub(crate) fn keep(&mut self, topic: &str, keeps: Keeps) {
        self.keeps.insert(topic.to_owned(), keeps);
    }

    /// What a topic keeps.
    pub(crate) fn keeps(&self, topic: &str) -> Keeps {
        self.keeps.get(topic).copied().unwrap_or_default()
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
            Some(expected) if offset > expected && self.keeps(&place.topic) == Keeps::All => {
                self.object(format!(
                    "passed over by {reader}: {expected} of {place:?}, which saw {record:?} at \
                     {offset} next"
                ));
            }
            // Whether that may be turns out in the end.
            Some(expected) if offset > expected => self.gaps.push(Gap {
                reader: reader.to_owned(),
                place: place.clone(),
                from: expected,
                to: offset,
            }),
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
        }
        let places = self
            .contents
            .keys()
            .chain(last.keys().map(|(_, place)| place));
        let kept: BTreeMap<Place, Kept> = places
            .map(|place| (place.clone(), self.kept(place)))
            .collect();
        for gap in std::mem::take(&mut self.gaps) {
            let wrong = self.wrong_in_gap(&gap, &kept[&gap.place]);
            self.object_to_all(wrong);
        }
        for ((reader, place), records) in last {
            let kept = &kept[place];
            let copy: BTreeMap<u64, Record> = records.iter().copied().collect();
            let kept_from = self.kept_from(place, records);
            let mut wrong = Vec::new();
            wrong.extend(self.wrong_beginning(reader, place, kept_from, &copy, kept));
            let seen = self.contents.get(place).into_iter().flatten();
            let missing = seen.filter(|(offset, record)| {
                let is_missing = **offset >= kept_from && !copy.contains_key(offset);
                is_missing && !kept.may_lack(**offset, **record)
            });
            wrong.extend(missing.map(|(offset, record)| {
                format!("vanished for {reader}: {record:?} at {offset} of {place:?}")
            }));
            let back = kept.deleted_in(&copy).into_iter();
            wrong.extend(back.map(|(offset, record)| {
                format!("deleted, and back for {reader}: {record:?} at {offset} of {place:?}")
            }));
            self.object_to_all(wrong);
            self.check_producers(reader, place, records, kept);
        }
        self.contradictions
    }

    /// What is kept of a partition, by all that is known to have been in it.
    fn kept(&self, place: &Place) -> Kept {
        let seen = self.contents.get(place).into_iter().flatten();
        let seen = seen.map(|(offset, record)| (*offset, *record));
        let producers = (0..).zip(&self.producers);
        let producers = producers.filter(|(_, producer)| producer.place == *place);
        let stored = producers
            .clone()
            .flat_map(|(id, producer)| producer.stored(id));
        let unknown = producers.flat_map(|(id, producer)| producer.unknown(id));
        Kept::new(self.keeps(&place.topic), seen.chain(stored), unknown)
    }

    /// What a reader passed over though it is kept.
    fn wrong_in_gap(&self, gap: &Gap, kept: &Kept) -> Vec<String> {
        let Gap { reader, place, .. } = gap;
        let seen = self.contents.get(place);
        if let Keeps::LastBytes(_) = self.keeps(&place.topic) {
            let rest = seen.into_iter().flat_map(|seen| seen.range(gap.to..));
            let bytes = rest.map(|(_, record)| self.value_bytes(*record));
            let is_wrong = !kept.may_begin_at(gap.to, bytes);
            let text = || format!("passed over by {reader}: {gap:?}, and too little follows");
            return is_wrong.then(text).into_iter().collect();
        }
        let passed = seen
            .into_iter()
            .flat_map(|seen| seen.range(gap.from..gap.to));
        let wrong = passed.filter(|(offset, record)| !kept.may_lack(**offset, **record));
        wrong
            .map(|(offset, record)| {
                format!("passed over by {reader}: {record:?} at {offset} of {place:?}")
            })
            .collect()
    }

    /// Whether a copy begins later than it may.
    fn wrong_beginning(
        &self,
        reader: &str,
        place: &Place,
        kept_from: u64,
        copy: &BTreeMap<u64, Record>,
        kept: &Kept,
    ) -> Option<String> {
        let rest = copy.range(kept_from..);
        let bytes = rest.map(|(_, record)| self.value_bytes(*record));
        let is_wrong = !kept.may_begin_at(kept_from, bytes);
        is_wrong.then(|| {
            format!("vanished for {reader}: all before {kept_from} of {place:?}, which is too much")
        })
    }

    /// From where on a copy with these records has to have all. What it got from another copy begins
    /// where retention had come to there, so that there may be a gap before it.
    fn kept_from(&self, place: &Place, records: &[(u64, Record)]) -> u64 {
        if !matches!(self.keeps(&place.topic), Keeps::LastBytes(_)) {
            return 0;
        }
        let first = records.first().map_or(0, |(offset, _)| *offset);
        let gaps = records.windows(2).filter(|pair| pair[1].0 > pair[0].0 + 1);
        gaps.map(|pair| pair[1].0).next_back().unwrap_or(first)
    }

    fn check_producers(
        &mut self,
        reader: &str,
        place: &Place,
        records: &[(u64, Record)],
        kept: &Kept,
    ) {
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
            if known.is_none_or(|producer| {
                producer.place != *place || producer.sent.len() as u64 <= record.number
            }) {
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
                    (Outcome::Stored(Some(told)), None) if kept.may_lack(*told, record) => {}
                    (Outcome::Stored(None), None) if kept.may_lack_somewhere(record) => {}
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
