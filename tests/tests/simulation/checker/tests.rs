//! Small histories, and what is wrong with them.

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
        ledger.keep("numbers", Keeps::LastBytes(100));
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

#[test]
fn of_a_topic_with_retention_no_more_may_be_gone_than_it_has_to_keep() {
    let trimmed = |value_bytes| {
        let mut ledger = ledger();
        ledger.keep("numbers", Keeps::LastBytes(1_000));
        ledger.weigh(record(2), value_bytes);
        ledger
    };
    let enough = 1_000;
    assert_eq!(contradictions(trimmed(enough), &[(1, record(2))]), [""; 0]);
    let found = contradictions(trimmed(10), &[(1, record(2))]);
    assert!(found[1].contains("vanished"), "{found:?}");

    let passed_over = |value_bytes| {
        let mut ledger = trimmed(value_bytes);
        ledger.see("early", &place(), 1, record(2));
        contradictions(ledger, &[(0, record(0)), (1, record(2))])
    };
    assert_eq!(passed_over(enough), [""; 0]);
    assert!(passed_over(10)[0].contains("passed over"));
}

/// Thirteen records of a topic that is compacted, all of them stored: numbers 0, 6 and 12 have the
/// same key, as 4 and 10, which deletes it.
fn compacted(forgets_deleted: bool) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.keep("numbers", Keeps::LastOfEachKey { forgets_deleted });
    let producer = ledger.add_producer(place());
    for number in 0..13 {
        ledger.send(producer);
        ledger.settle(record(number), Outcome::Stored(Some(number)));
    }
    ledger
}

fn without(missing: &[u64]) -> Vec<(u64, Record)> {
    let numbers = (0..13).filter(|number| !missing.contains(number));
    numbers.map(|number| (number, record(number))).collect()
}

#[test]
fn of_a_topic_that_is_compacted_what_a_later_record_supersedes_may_be_gone() {
    for missing in [&[][..], &[0], &[0, 6], &[0, 1, 2, 3, 4, 5, 6]] {
        let found = contradictions(compacted(false), &without(missing));
        assert_eq!(found, [""; 0], "{missing:?}");
    }
    for missing in [&[12][..], &[0, 6, 12], &[7], &[10]] {
        let found = contradictions(compacted(false), &without(missing));
        let is_lost = found.iter().any(|text| text.contains("lost"));
        assert!(is_lost, "{missing:?}: {found:?}");
    }
    let mut passed_over = compacted(false);
    passed_over.begin_anywhere("early");
    for number in [5, 6, 8] {
        passed_over.see("early", &place(), number, record(number));
    }
    let found = contradictions(passed_over, &without(&[]));
    assert!(found[0].contains("passed over"), "{found:?}");
}

#[test]
fn a_key_that_was_deleted_goes_altogether_or_not_at_all() {
    assert_eq!(contradictions(compacted(true), &without(&[4, 10])), [""; 0]);
    assert_eq!(contradictions(compacted(true), &without(&[4])), [""; 0]);
    let found = contradictions(compacted(true), &without(&[10]));
    assert!(found[0].contains("deleted, and back"), "{found:?}");
}
