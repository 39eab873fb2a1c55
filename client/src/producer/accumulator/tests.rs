//! What gathers when, and who is told of failures.

use std::time::Duration;

use super::{record::RECORD_OVERHEAD_BYTES, *};

const OPTIONS: AccumulatorOptions = AccumulatorOptions {
    batch_bytes: 1_000,
    batch_records_max: 10,
    memory_bytes_max: 4_000,
};

const COMPLETE: Take = Take {
    bytes_min: usize::MAX,
    age_min: Duration::ZERO,
};

fn at_age(age_min: Duration) -> Take {
    Take {
        bytes_min: 1,
        age_min,
    }
}

fn record(value: &[u8]) -> NewRecord<'_> {
    NewRecord {
        value: Some(value),
        key: None,
        headers: &[],
        timestamp_ms: Some(1),
        partition: None,
        awaited: false,
        has_turn: false,
    }
}

/// An accumulator with one producer.
fn accumulator(partitions: u32) -> (Accumulator, AccountId) {
    let mut accumulator = Accumulator::new(OPTIONS, String::new(), partitions);
    let id = accumulator.open_account();
    (accumulator, id)
}

fn take_all(accumulator: &mut Accumulator, partition: u32) -> Vec<usize> {
    let take = at_age(Duration::ZERO);
    let mut lens = Vec::new();
    while let Took::Batch(batch) = accumulator.take(partition, take, Instant::now()) {
        lens.push(batch.builder.len());
    }
    lens
}

#[test]
fn a_batch_is_complete_by_records_or_by_bytes() {
    let (mut by_records, id) = accumulator(1);
    (0..25).for_each(|_| _ = by_records.push(id, &record(b"x")).unwrap());
    assert_eq!(take_all(&mut by_records, 0), [10, 10, 5]);
    let (mut by_bytes, id) = accumulator(1);
    (0..5).for_each(|_| _ = by_bytes.push(id, &record(&[0; 400])).unwrap());
    assert_eq!(take_all(&mut by_bytes, 0), [2, 2, 1]);
}

#[test]
fn a_record_larger_than_a_batch_goes_alone() {
    let (mut accumulator, id) = accumulator(1);
    accumulator.push(id, &record(b"small")).unwrap();
    accumulator.push(id, &record(&[0; 2_000])).unwrap();
    accumulator.push(id, &record(b"small")).unwrap();
    assert_eq!(take_all(&mut accumulator, 0), [1, 1, 1]);
}

#[test]
fn records_without_a_key_stay_with_a_partition_until_its_batch_is_complete() {
    let (mut accumulator, id) = accumulator(3);
    let partitions: Vec<_> = (0..25)
        .map(|_| accumulator.push(id, &record(b"x")).unwrap().partition())
        .collect();
    assert_eq!(partitions[..10], [0; 10]);
    assert_eq!(partitions[10..20], [1; 10]);
    assert_eq!(partitions[20..], [2; 5]);
}

#[test]
fn one_key_stays_with_one_partition() {
    let (mut accumulator, id) = accumulator(7);
    let mut keyed = record(b"x");
    keyed.key = Some(b"customer-7");
    let partitions: Vec<_> = (0..20)
        .map(|_| accumulator.push(id, &keyed).unwrap().partition())
        .collect();
    assert!(
        partitions
            .iter()
            .all(|partition| *partition == partitions[0])
    );
}

#[test]
fn memory_is_bounded_and_comes_back() {
    let (mut accumulator, id) = accumulator(1);
    let mut taken = 0;
    while accumulator.push(id, &record(&[0; 500])).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, 4_000 / (500 + RECORD_OVERHEAD_BYTES));
    let Took::Batch(batch) = accumulator.take(0, COMPLETE, Instant::now()) else {
        panic!("a batch is complete");
    };
    accumulator.release(batch.bytes);
    assert!(accumulator.push(id, &record(&[0; 500])).is_ok());
}

#[test]
fn one_record_always_fits_into_empty_memory() {
    let (mut accumulator, id) = accumulator(1);
    assert!(accumulator.push(id, &record(&[0; 10_000])).is_ok());
    assert!(matches!(
        accumulator.push(id, &record(b"x")),
        Err(refused) if matches!(*refused, NotTaken::Full)
    ));
}

#[test]
fn a_record_over_a_limit_leaves_nothing_behind() {
    let mut huge_key = record(b"x");
    let key = vec![0; 100_000];
    huge_key.key = Some(&key);
    let mut roomy = Accumulator::new(
        AccumulatorOptions {
            memory_bytes_max: 1 << 20,
            ..OPTIONS
        },
        String::new(),
        1,
    );
    let id = roomy.open_account();
    let refused = roomy.push(id, &huge_key).unwrap_err();
    assert!(matches!(*refused, NotTaken::Invalid(_)));
    assert!(roomy.hurry(id).is_empty());
    assert!(take_all(&mut roomy, 0).is_empty());
}

#[test]
fn a_batch_that_gathers_is_taken_when_it_is_old_enough_or_somebody_flushes() {
    let (mut accumulator, id) = accumulator(1);
    accumulator.push(id, &record(b"x")).unwrap();
    let linger = at_age(Duration::from_secs(5));
    let now = Instant::now();
    assert!(matches!(
        accumulator.take(0, linger, now),
        Took::Later(Some(at)) if at > now
    ));
    assert_eq!(accumulator.hurry(id).len(), 1);
    assert!(matches!(accumulator.take(0, linger, now), Took::Batch(_)));
    assert!(matches!(accumulator.take(0, linger, now), Took::Nothing));
}

#[test]
fn failures_are_reported_once_to_the_next_who_enqueues() {
    let (mut accumulator, id) = accumulator(1);
    let closed = SendError::Closed {
        topic: flumen_protocol::topic::Name::new("t").unwrap(),
    };
    for unawaited in [3, 2] {
        let account = id;
        accumulator.note_failure(Share { account, unawaited }, &closed);
    }
    let taken = accumulator.push(id, &record(b"x")).unwrap();
    assert!(taken.has_failures());
    assert_eq!((taken.partition(), taken.index()), (0, 0));
    let failures = accumulator.take_failures(id).unwrap();
    assert_eq!((failures.failed, failures.unknown), (5, 0));
    let taken = accumulator.push(id, &record(b"x")).unwrap();
    assert!(!taken.has_failures());
    assert_eq!(taken.index(), 1);
}

#[test]
fn a_producer_waits_for_its_own_batches_and_closes_alone() {
    let (mut accumulator, id) = accumulator(2);
    let other = accumulator.open_account();
    let mut elsewhere = record(b"x");
    elsewhere.partition = Some(1);
    accumulator.push(id, &record(b"x")).unwrap();
    accumulator.push(other, &elsewhere).unwrap();
    assert_eq!(accumulator.hurry(id).len(), 1);
    accumulator.close(id);
    let refused = accumulator.push(id, &record(b"x")).unwrap_err();
    assert!(matches!(*refused, NotTaken::Closed));
    accumulator.push(other, &record(b"x")).unwrap();
    assert!(!accumulator.is_closed());
    let linger = at_age(Duration::from_secs(5));
    let now = Instant::now();
    assert!(matches!(accumulator.take(0, linger, now), Took::Batch(b) if b.shares.len() == 2));
    assert!(matches!(
        accumulator.take(1, linger, now),
        Took::Later(Some(_))
    ));
    accumulator.leave_account(other);
    assert!(accumulator.is_closed());
    assert!(matches!(accumulator.take(1, linger, now), Took::Batch(_)));
}

#[test]
fn a_topic_made_anew_with_fewer_partitions_gets_nothing_in_the_others() {
    let (mut accumulator, id) = accumulator(3);
    accumulator.begin_at(2);
    accumulator.push(id, &record(b"x")).unwrap();
    accumulator.set_partitions(2);
    accumulator.grow(1);
    assert_eq!(accumulator.partitions(), 2);
    for _ in 0..30 {
        let taken = accumulator.push(id, &record(b"x")).unwrap();
        assert!(taken.partition() < 2);
    }
    let to_the_third = NewRecord {
        partition: Some(2),
        ..record(b"x")
    };
    let refused = accumulator.push(id, &to_the_third).unwrap_err();
    assert!(matches!(*refused, NotTaken::UnknownPartition { .. }));
    assert_eq!(take_all(&mut accumulator, 2), [1]);
}

#[test]
fn producers_pass_by_a_record_that_waits_while_they_leave_what_it_needs() {
    let (mut accumulator, waiting) = accumulator(1);
    let passing = accumulator.open_account();
    let small = [0; 100 - RECORD_OVERHEAD_BYTES];
    let large = [0; 1_000 - RECORD_OVERHEAD_BYTES];
    let first = NewRecord {
        has_turn: true,
        ..record(&large)
    };
    let fill = |accumulator: &mut Accumulator, id| {
        let push = |_: &usize| accumulator.push(id, &record(&small)).is_ok();
        (0..100).take_while(push).count()
    };
    assert_eq!(fill(&mut accumulator, passing), 40);
    accumulator.enter_queue(waiting);
    let full = *accumulator.push(waiting, &first).unwrap_err();
    assert!(matches!(full, NotTaken::Full), "{full:?}");
    accumulator.release(1_500);
    // Those of its own producer hold their order, and others leave what it needs.
    assert_eq!(fill(&mut accumulator, waiting), 0);
    assert_eq!(fill(&mut accumulator, passing), 5);
    accumulator.push(waiting, &first).unwrap();
    accumulator.leave_queue(waiting, true);
    accumulator.release(1_500);
    assert_eq!(fill(&mut accumulator, waiting), 15);
}
