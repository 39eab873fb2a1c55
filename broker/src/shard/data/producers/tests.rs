use proptest::prelude::*;

use super::*;

const PARTITION: PartitionId = PartitionId {
    topic: TopicId(1),
    index: 0,
};

fn table(producers_max: usize) -> ProducerTable {
    ProducerTable::restore(Vec::new(), producers_max)
}

fn sequence(producer: u64, epoch: u32, sequence: u64) -> ProducerSequence {
    ProducerSequence {
        producer_id: ProducerId(producer),
        epoch,
        sequence,
    }
}

fn appended(offset: u64) -> Appended {
    Appended {
        base_offset: Some(Offset(offset)),
        stored: Some(1),
        append_time_ms: 5,
        duplicate: false,
    }
}

/// What the state machine does with a batch.
fn offer(
    table: &mut ProducerTable,
    batch: ProducerSequence,
    offset: u64,
) -> Result<Appended, Refusal> {
    if let Verdict::Duplicate(known) = table.check(PARTITION, batch)? {
        return Ok(known);
    }
    table.record(PARTITION, batch, &appended(offset));
    Ok(appended(offset))
}

#[test]
fn a_duplicate_gets_the_receipt_of_the_first_time() {
    let mut table = table(10);
    for at in 0..100 {
        offer(&mut table, sequence(1, 0, at), 10 * at).unwrap();
    }
    for at in 0..100 {
        let known = offer(&mut table, sequence(1, 0, at), 9999).unwrap();
        assert!(known.duplicate);
        let remembered = at >= 100 - REMEMBERED_BATCHES as u64;
        assert_eq!(known.base_offset, remembered.then_some(Offset(10 * at)));
    }
}

#[test]
fn what_is_forgotten_is_called_stored_only_if_it_must_be() {
    let mut table = table(10);
    let empty = Appended {
        base_offset: None,
        stored: Some(0),
        ..appended(0)
    };
    for at in 0..100 {
        let appended = if at == 50 { empty } else { appended(at) };
        table.record(PARTITION, sequence(1, 0, at), &appended);
    }
    for at in 0..=50 {
        let known = table.check(PARTITION, sequence(1, 0, at));
        assert_eq!(known, Err(Refusal::Forgotten), "{at}");
    }
    for at in 51..100 {
        let known = table.check(PARTITION, sequence(1, 0, at));
        let remembered = at >= 100 - REMEMBERED_BATCHES as u64;
        let expected = Appended {
            base_offset: remembered.then_some(Offset(at)),
            stored: remembered.then_some(1),
            append_time_ms: if remembered { 5 } else { 0 },
            duplicate: true,
        };
        assert_eq!(known, Ok(Verdict::Duplicate(expected)), "{at}");
    }
}

#[test]
fn a_gap_is_refused_and_named() {
    let mut table = table(10);
    offer(&mut table, sequence(1, 0, 0), 0).unwrap();
    let gap = offer(&mut table, sequence(1, 0, 2), 1);
    assert_eq!(gap, Err(Refusal::OutOfSequence { expected: 1 }));
    let gap = offer(&mut table, sequence(1, 1, 1), 1);
    assert_eq!(gap, Err(Refusal::OutOfSequence { expected: 0 }));
}

#[test]
fn a_later_epoch_fences_the_ones_before() {
    let mut table = table(10);
    for at in 0..3 {
        offer(&mut table, sequence(1, 4, at), at).unwrap();
    }
    offer(&mut table, sequence(1, 5, 0), 3).unwrap();
    let fenced = offer(&mut table, sequence(1, 4, 3), 4);
    assert_eq!(fenced, Err(Refusal::ProducerFenced { epoch: 5 }));
    assert!(offer(&mut table, sequence(1, 5, 0), 4).unwrap().duplicate);
}

#[test]
fn a_fence_makes_final_what_is_stored_of_the_epoch_before() {
    let mut table = table(10);
    for at in 0..3 {
        offer(&mut table, sequence(1, 0, at), 10 * at).unwrap();
    }
    offer(&mut table, sequence(1, 1, 0), 30).unwrap();
    let bytes = postcard::to_allocvec(&table.save()).unwrap();
    let mut table = ProducerTable::restore(postcard::from_bytes(&bytes).unwrap(), 10);
    for at in 0..3 {
        let known = offer(&mut table, sequence(1, 0, at), 9999).unwrap();
        assert_eq!(known.base_offset, Some(Offset(10 * at)));
        assert!(known.duplicate);
    }
    let fenced = Err(Refusal::ProducerFenced { epoch: 1 });
    assert_eq!(offer(&mut table, sequence(1, 0, 3), 40), fenced);
    assert_eq!(offer(&mut table, sequence(1, 0, 4), 40), fenced);
    // With the next batch the producer has said that it knows enough.
    offer(&mut table, sequence(1, 1, 1), 40).unwrap();
    assert_eq!(offer(&mut table, sequence(1, 0, 2), 50), fenced);
}

#[test]
fn a_fence_of_a_producer_that_is_forgotten_proves_nothing() {
    let mut table = table(10);
    offer(&mut table, sequence(1, 1, 0), 0).unwrap();
    let unknown = offer(&mut table, sequence(1, 0, 3), 1);
    assert_eq!(unknown, Err(Refusal::UnknownProducer));
}

#[test]
fn the_producer_that_was_silent_longest_is_forgotten() {
    let mut table = table(3);
    for producer in 1..=3 {
        offer(&mut table, sequence(producer, 0, 0), 0).unwrap();
    }
    offer(&mut table, sequence(1, 0, 1), 0).unwrap();
    offer(&mut table, sequence(4, 0, 0), 0).unwrap();
    let forgotten = offer(&mut table, sequence(2, 0, 1), 0);
    assert_eq!(forgotten, Err(Refusal::UnknownProducer));
    offer(&mut table, sequence(1, 0, 2), 0).unwrap();
    offer(&mut table, sequence(3, 0, 1), 0).unwrap();
}

#[test]
fn the_queue_stays_small_however_much_is_sent() {
    let mut table = table(3);
    for at in 0..100_000 {
        offer(&mut table, sequence(1, 0, at), at).unwrap();
    }
    assert!(table.queue.len() <= 2 + QUEUE_SLACK);
}

/// The table as one would write it without a care for speed.
#[derive(Default)]
struct Model {
    /// By producer: epoch and all receipts of it; the one that sent last is last.
    producers: Vec<(u64, u32, Vec<Appended>)>,
    /// By producer: the epoch before the present one, and all receipts of it.
    before: FxHashMap<u64, (u32, Vec<Appended>)>,
}

/// What a batch gets that was there already.
fn sent_again(receipts: &[Appended], sequence: u64) -> Appended {
    let mut receipt = receipts[sequence as usize];
    if receipts.len() - sequence as usize > REMEMBERED_BATCHES {
        receipt.base_offset = None;
        receipt.stored = None;
        receipt.append_time_ms = 0;
    }
    receipt.duplicate = true;
    receipt
}

impl Model {
    fn offer(
        &mut self,
        batch: ProducerSequence,
        offset: u64,
        producers_max: usize,
    ) -> Result<Appended, Refusal> {
        let id = batch.producer_id.0;
        let at = self.producers.iter().position(|(known, ..)| *known == id);
        let Some(at) = at else {
            if batch.sequence > 0 {
                return Err(Refusal::UnknownProducer);
            }
            self.before.remove(&id);
            self.producers
                .push((id, batch.epoch, vec![appended(offset)]));
            if self.producers.len() > producers_max {
                self.producers.remove(0);
            }
            return Ok(appended(offset));
        };
        let (_, epoch, receipts) = &mut self.producers[at];
        if batch.epoch < *epoch {
            return match self.before.get(&id).filter(|_| receipts.len() == 1) {
                Some((before, receipts)) if *before == batch.epoch => {
                    if batch.sequence < receipts.len() as u64 {
                        Ok(sent_again(receipts, batch.sequence))
                    } else {
                        Err(Refusal::ProducerFenced { epoch: *epoch })
                    }
                }
                None if receipts.len() == 1 => Err(Refusal::UnknownProducer),
                _ => Err(Refusal::ProducerFenced { epoch: *epoch }),
            };
        }
        let same_epoch = batch.epoch == *epoch;
        let expected = if same_epoch { receipts.len() as u64 } else { 0 };
        if same_epoch && batch.sequence < expected {
            return Ok(sent_again(receipts, batch.sequence));
        }
        if batch.sequence != expected {
            return Err(Refusal::OutOfSequence { expected });
        }
        if !same_epoch {
            self.before.insert(id, (*epoch, std::mem::take(receipts)));
            *epoch = batch.epoch;
        }
        receipts.push(appended(offset));
        let producer = self.producers.remove(at);
        self.producers.push(producer);
        Ok(appended(offset))
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The next batch of a producer, so many before or after the one that is expected.
    Send { producer: u64, epoch: u32, skew: i8 },
    /// A checkpoint is taken and the broker starts again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let skew = prop_oneof![6 => Just(0i8), 2 => -40..0i8, 1 => 1..3i8];
    prop_oneof![
        30 => (1..6u64, 0..5u32, skew).prop_map(|(producer, epoch, skew)| Step::Send {
            producer,
            epoch: epoch / 2,
            skew
        }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn the_table_does_what_the_model_does(steps in prop::collection::vec(step(), 1..400)) {
        const PRODUCERS_MAX: usize = 4;
        let mut table = table(PRODUCERS_MAX);
        let mut model = Model::default();
        let mut next = FxHashMap::<(u64, u32), u64>::default();
        for (offset, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { producer, epoch, skew } => {
                    let next = next.entry((producer, epoch)).or_default();
                    let number = next.saturating_add_signed(skew.into());
                    let batch = sequence(producer, epoch, number);
                    let expected = model.offer(batch, offset as u64, PRODUCERS_MAX);
                    prop_assert_eq!(offer(&mut table, batch, offset as u64), expected);
                    match expected {
                        Ok(appended) if !appended.duplicate => *next = number + 1,
                        Err(Refusal::UnknownProducer) => *next = 0,
                        _ => {}
                    }
                }
                Step::Restart => {
                    let bytes = postcard::to_allocvec(&table.save()).unwrap();
                    let saved = postcard::from_bytes(&bytes).unwrap();
                    table = ProducerTable::restore(saved, PRODUCERS_MAX);
                }
            }
        }
    }
}
