//! What clients did and saw, and whether that may be.
//!
//! Every producer writes numbers that rise by one. A number may be acknowledged (then it
//! must be there, once, where the receipt says), unknown (then it may be there, once), or
//! never sent.

use std::collections::BTreeMap;

/// A record as a producer wrote and a consumer saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who wrote it.
    pub producer: u32,
    /// Its number among the producer's.
    pub number: u64,
    /// The partition it was seen in.
    pub partition: u32,
    /// The offset it was seen at.
    pub offset: u64,
}

impl Seen {
    /// Reads a value of the form `producer number`.
    ///
    /// # Panics
    /// When it is none: no producer of a test has written that.
    pub fn parse(value: &[u8], partition: u32, offset: u64) -> Self {
        let text = std::str::from_utf8(value).unwrap();
        let (producer, number) = text.split_once(' ').unwrap();
        Self {
            producer: producer.parse().unwrap(),
            number: number.parse().unwrap(),
            partition,
            offset,
        }
    }
}

/// A record that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Its number among the producer's.
    pub number: u64,
    /// The partition that the receipt names.
    pub partition: u32,
    /// The offset that the receipt names, if the broker still knew it.
    pub offset: Option<u64>,
}

/// What one producer was told.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was acknowledged, in order.
    pub acknowledged: Vec<Acknowledged>,
    /// How many numbers were sent, whatever became of them.
    pub sent: u64,
}

/// Compares what producers were told with what a consumer saw. Returns every contradiction.
pub fn check(histories: &BTreeMap<u32, History>, seen: &[Seen]) -> Vec<String> {
    let mut found = Vec::new();
    let mut by_producer: BTreeMap<u32, Vec<Seen>> = BTreeMap::new();
    let mut next_offset: BTreeMap<u32, u64> = BTreeMap::new();
    for record in seen {
        by_producer
            .entry(record.producer)
            .or_default()
            .push(*record);
        let next = next_offset.entry(record.partition).or_default();
        if record.offset < *next {
            found.push(format!("offset {record:?} went back; {next} was expected"));
        }
        *next = record.offset + 1;
    }
    for (producer, history) in histories {
        let records = by_producer.remove(producer).unwrap_or_default();
        check_producer(*producer, history, &records, &mut found);
    }
    for producer in by_producer.keys() {
        found.push(format!("records of producer {producer}, which never was"));
    }
    found
}

fn check_producer(producer: u32, history: &History, seen: &[Seen], found: &mut Vec<String>) {
    let mut at: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    for record in seen {
        if record.number >= history.sent {
            found.push(format!("{record:?} was never sent"));
        }
        if let Some(first) = at.insert(record.number, *record) {
            found.push(format!("twice: {first:?} and {record:?}"));
        }
        if let Some(before) = last.insert(record.partition, record.number)
            && before >= record.number
        {
            found.push(format!("out of order: {record:?} after number {before}"));
        }
    }
    for acknowledged in &history.acknowledged {
        let Some(record) = at.get(&acknowledged.number) else {
            found.push(format!("lost: producer {producer}, {acknowledged:?}"));
            continue;
        };
        let elsewhere = record.partition != acknowledged.partition
            || acknowledged
                .offset
                .is_some_and(|offset| offset != record.offset);
        if elsewhere {
            found.push(format!(
                "{acknowledged:?} of producer {producer} is at {record:?}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: u64, offset: u64) -> Seen {
        Seen {
            producer: 1,
            number,
            partition: 0,
            offset,
        }
    }

    fn contradictions(records: &[Seen]) -> Vec<String> {
        let acknowledged = |number| Acknowledged {
            number,
            partition: 0,
            offset: Some(number),
        };
        let history = History {
            acknowledged: vec![acknowledged(0), acknowledged(1)],
            sent: 3,
        };
        check(&BTreeMap::from([(1, history)]), records)
    }

    #[test]
    fn what_is_right_passes_with_and_without_the_unknown() {
        assert!(contradictions(&[seen(0, 0), seen(1, 1)]).is_empty());
        assert!(contradictions(&[seen(0, 0), seen(1, 1), seen(2, 2)]).is_empty());
    }

    #[test]
    fn every_kind_of_wrong_is_found() {
        let wrong: [(&str, &[Seen]); 5] = [
            ("lost", &[seen(0, 0)]),
            ("twice", &[seen(0, 0), seen(1, 1), seen(1, 2)]),
            ("out of order", &[seen(1, 0), seen(0, 1)]),
            ("never sent", &[seen(0, 0), seen(1, 1), seen(3, 2)]),
            ("is at", &[seen(0, 0), seen(1, 5)]),
        ];
        for (what, records) in wrong {
            let found = contradictions(records);
            assert!(
                found.iter().any(|text| text.contains(what)),
                "{what}: {found:?}"
            );
        }
    }
}
