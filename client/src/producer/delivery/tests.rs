//! The delivery against a model of the broker that loses answers, refuses, and restarts.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use flumen_protocol::ids::Offset;
use proptest::{collection::vec, prelude::*};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);
const OPTIONS: DeliveryOptions = DeliveryOptions {
    in_flight_max: 4,
    backoff: BackoffOptions {
        first: Duration::from_millis(10),
        max: Duration::from_millis(100),
    },
};

/// A batch is a number; some numbers the broker never takes.
type Number = u64;

fn is_rejected(number: Number) -> bool {
    number % 11 == 5
}

fn is_refused(number: Number) -> bool {
    number % 13 == 7
}

#[derive(Default)]
struct ModelBroker {
    log: Vec<Number>,
    epoch: u32,
    next_sequence: u64,
    offsets: BTreeMap<u64, Offset>,
    /// The epoch before, which takes no more, until the present one has a second batch.
    fenced: Option<(u32, u64, BTreeMap<u64, Offset>)>,
    overloaded: u32,
    forgets_outcome: u32,
}

impl ModelBroker {
    #[expect(clippy::unnecessary_wraps, reason = "it is an outcome")]
    fn receipt(base_offset: Option<Offset>, duplicate: bool) -> ProduceOutcome {
        Ok(ProduceReceipt {
            base_offset,
            stored: u32::from(base_offset.is_some()),
            append_time_ms: 0,
            duplicate,
        })
    }

    /// Takes a batch, or a fence, which has no number.
    fn append(&mut self, identity: Identity, number: Option<Number>) -> ProduceOutcome {
        let refuse = |code| Err(WireError::new(code, format!("{code:?}")));
        if self.overloaded > 0 {
            self.overloaded -= 1;
            return refuse(ErrorCode::Overloaded);
        }
        if number.is_some_and(is_refused) {
            return refuse(ErrorCode::TooLarge);
        }
        let rejected = number.is_some_and(is_rejected);
        if identity.epoch < self.epoch {
            return match &self.fenced {
                Some((epoch, next, offsets))
                    if *epoch == identity.epoch && identity.sequence < *next =>
                {
                    if rejected {
                        refuse(ErrorCode::Rejected)
                    } else {
                        Self::receipt(offsets.get(&identity.sequence).copied(), true)
                    }
                }
                None if self.next_sequence == 1 => refuse(ErrorCode::UnknownProducer),
                _ => refuse(ErrorCode::ProducerFenced),
            };
        }
        if self.next_sequence == 0 && identity.sequence > 0 {
            return refuse(ErrorCode::UnknownProducer);
        }
        let next = if identity.epoch > self.epoch {
            0
        } else {
            self.next_sequence
        };
        if identity.sequence > next {
            return refuse(ErrorCode::OutOfSequence);
        }
        if identity.sequence < next {
            return if rejected {
                refuse(ErrorCode::Rejected)
            } else {
                Self::receipt(self.offsets.get(&identity.sequence).copied(), true)
            };
        }
        if identity.epoch > self.epoch {
            let offsets = std::mem::take(&mut self.offsets);
            self.fenced =
                (self.next_sequence > 0).then_some((self.epoch, self.next_sequence, offsets));
            self.epoch = identity.epoch;
        } else {
            self.fenced = None;
        }
        self.next_sequence = next + 1;
        if rejected {
            return refuse(ErrorCode::Rejected);
        }
        let Some(number) = number else {
            return Self::receipt(None, false);
        };
        let offset = Offset(self.log.len() as u64);
        self.log.push(number);
        self.offsets.insert(identity.sequence, offset);
        if self.forgets_outcome > 0 {
            self.forgets_outcome -= 1;
            return refuse(ErrorCode::Timeout);
        }
        Self::receipt(Some(offset), false)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Send(u8),
    Process(u8),
    Answer(u8),
    /// The stream breaks; the broker still processes this many of what it had received, and
    /// may come to the rest later.
    Break(u8),
    /// The broker comes to so many batches of a stream that is lost.
    Late(u8, u8),
    Open,
    Overload(u8),
    ForgetOutcome(u8),
    Sleep(u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u8..4).prop_map(Step::Push),
        4 => (1_u8..6).prop_map(Step::Send),
        4 => (1_u8..6).prop_map(Step::Process),
        4 => (1_u8..6).prop_map(Step::Answer),
        1 => (0_u8..6).prop_map(Step::Break),
        2 => (0_u8..4, 1_u8..6).prop_map(|(stream, count)| Step::Late(stream, count)),
        2 => Just(Step::Open),
        1 => (1_u8..3).prop_map(Step::Overload),
        1 => (1_u8..3).prop_map(Step::ForgetOutcome),
        2 => (1_u16..200).prop_map(Step::Sleep),
        1 => (5_000_u16..20_000).prop_map(Step::Sleep),
    ]
}

/// Does something up to so many times, as long as there is something to do.
fn while_some(count: u8, mut act: impl FnMut() -> bool) {
    for _ in 0..count {
        if !act() {
            return;
        }
    }
}

struct World {
    now: Instant,
    delivery: Delivery<Number, Number>,
    broker: ModelBroker,
    to_broker: VecDeque<(Identity, Option<Number>)>,
    /// What the broker has received on streams that are lost.
    lost: Vec<VecDeque<(Identity, Option<Number>)>>,
    to_client: VecDeque<ProduceOutcome>,
    open: bool,
    pushed: Number,
    results: BTreeMap<Number, Result<ProduceReceipt, DeliveryError>>,
}

impl World {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            delivery: Delivery::new(OPTIONS, 7),
            broker: ModelBroker::default(),
            to_broker: VecDeque::new(),
            lost: Vec::new(),
            to_client: VecDeque::new(),
            open: false,
            pushed: 0,
            results: BTreeMap::new(),
        }
    }

    fn note(&mut self, resolved: impl IntoIterator<Item = Resolved<Number>>) {
        for Resolved { waiter, result } in resolved {
            let earlier = self.results.insert(waiter, result);
            assert!(earlier.is_none(), "batch {waiter} was reported twice");
        }
    }

    fn push(&mut self) {
        let deadline = self.now + TIMEOUT;
        self.delivery.push(self.pushed, self.pushed, deadline);
        self.pushed += 1;
    }

    fn send(&mut self) -> bool {
        match self.delivery.poll_send(self.now) {
            Some(Next::Batch(identity, number)) => {
                self.to_broker.push_back((identity, Some(*number)));
                true
            }
            Some(Next::Fence(identity)) => {
                self.to_broker.push_back((identity, None));
                true
            }
            None => false,
        }
    }

    fn process(&mut self) -> bool {
        let Some((identity, number)) = self.to_broker.pop_front() else {
            return false;
        };
        let outcome = self.broker.append(identity, number);
        self.to_client.push_back(outcome);
        true
    }

    fn answer(&mut self) -> bool {
        let Some(outcome) = self.to_client.pop_front() else {
            return false;
        };
        let resolved = self.delivery.on_outcome(self.now, outcome).unwrap();
        self.note(resolved);
        true
    }

    fn break_stream(&mut self, processed: usize) {
        for _ in 0..processed {
            self.process();
        }
        self.lost.push(std::mem::take(&mut self.to_broker));
        self.to_client.clear();
        if self.open {
            self.delivery.stream_lost();
        }
        self.open = false;
    }

    /// The broker takes the next batch of a stream that is lost; nobody hears the answer.
    fn process_late(&mut self, stream: usize) -> bool {
        let count = self.lost.len().max(1);
        let Some(late) = self
            .lost
            .get_mut(stream % count)
            .and_then(VecDeque::pop_front)
        else {
            return false;
        };
        let _ = self.broker.append(late.0, late.1);
        true
    }

    fn open(&mut self) {
        if !self.open {
            self.delivery.stream_opened();
            self.open = true;
        }
    }

    fn sleep(&mut self, time: Duration) {
        self.now += time;
        let resolved = self.delivery.expire(self.now);
        self.note(resolved);
        if self.delivery.wants_new_stream().is_some() {
            self.break_stream(0);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Push(count) => (0..count).for_each(|_| self.push()),
            Step::Send(count) => while_some(count, || self.send()),
            Step::Process(count) => while_some(count, || self.process()),
            Step::Answer(count) => while_some(count, || self.answer()),
            Step::Break(processed) => self.break_stream(processed.into()),
            Step::Late(stream, count) => {
                while_some(count, || self.process_late(stream.into()));
            }
            Step::Open => self.open(),
            Step::Overload(count) => self.broker.overloaded = count.into(),
            Step::ForgetOutcome(count) => self.broker.forgets_outcome = count.into(),
            Step::Sleep(ms) => self.sleep(Duration::from_millis(ms.into())),
        }
    }

    /// A broker and a network without faults settle everything that is pending.
    fn heal(&mut self) {
        self.broker.overloaded = 0;
        self.broker.forgets_outcome = 0;
        for _ in 0..10_000 {
            self.open();
            while self.send() || self.process() || self.answer() {}
            if self.delivery.is_empty() {
                return;
            }
            self.sleep(Duration::from_millis(1));
        }
        panic!("not settled: {:?}", self.delivery);
    }

    fn check(&self) {
        let log = &self.broker.log;
        assert!(
            log.is_sorted_by(|a, b| a < b),
            "doubled or reordered: {log:?}"
        );
        assert_eq!(
            self.results.len() as u64,
            self.pushed,
            "every batch is reported"
        );
        for (number, result) in &self.results {
            let place = log.iter().position(|logged| logged == number);
            match result {
                Ok(receipt) => {
                    let offset = place.map(|place| Offset(place as u64));
                    assert_eq!(receipt.base_offset, offset, "batch {number}");
                    assert!(offset.is_some(), "batch {number} is acknowledged and lost");
                }
                Err(DeliveryError::TimedOut | DeliveryError::Unknown(_)) => {}
                Err(error) => assert_eq!(place, None, "batch {number} failed: {error:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn whatever_happens_nothing_acknowledged_is_lost_and_nothing_is_doubled_or_reordered(
        steps in vec(any_step(), 1..120),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.heal();
        for stream in 0..world.lost.len() {
            while world.process_late(stream) {}
        }
        world.check();
    }
}

#[test]
fn without_faults_everything_is_acknowledged_in_order() {
    let mut world = World::new();
    for _ in 0..5 {
        world.push();
    }
    world.heal();
    world.check();
    assert_eq!(world.broker.log, [0, 1, 2, 3, 4]);
}

#[test]
fn a_lost_answer_is_asked_for_again_and_gives_one_record() {
    let mut world = World::new();
    world.push();
    world.open();
    world.send();
    world.process();
    world.break_stream(0);
    world.heal();
    assert_eq!(world.broker.log, [0]);
    assert!(world.results[&0].as_ref().unwrap().duplicate);
}

/// Batch 0 is stored. Batches 1 and 2 are with the broker, which is slow to come to them, when
/// their stream is lost; on the next one it refuses the first of them for good.
fn refused_while_a_copy_is_late() -> World {
    let mut world = World::new();
    world.push();
    world.heal();
    world.push();
    world.push();
    while world.send() {}
    world.break_stream(0);
    world.open();
    while world.send() {}
    world.to_broker.pop_front();
    let refusal = WireError::new(ErrorCode::TooLarge, "the topic takes less now");
    world.to_client.push_back(Err(refusal));
    world
}

#[test]
fn what_a_lost_stream_brings_late_is_not_stored_twice() {
    let mut world = refused_while_a_copy_is_late();
    // The second one follows no more.
    while world.process() || world.answer() {}
    assert!(matches!(world.results[&1], Err(DeliveryError::Unknown(_))));
    // Only now it comes to what it had before.
    while world.process_late(0) {}
    world.heal();
    world.check();
    assert_eq!(world.broker.log, [0, 1, 2]);
    assert!(world.results[&2].as_ref().unwrap().duplicate);
}

#[test]
fn what_was_refused_and_comes_too_late_is_stored_once() {
    let mut world = refused_while_a_copy_is_late();
    world.heal();
    while world.process_late(0) {}
    world.check();
    assert_eq!(world.broker.log, [0, 2]);
}

#[test]
fn a_refused_batch_fails_alone_and_the_rest_is_numbered_anew() {
    let mut world = World::new();
    for _ in 0..10 {
        world.push();
    }
    world.heal();
    world.check();
    assert!(matches!(world.results[&7], Err(DeliveryError::Refused(_))));
    assert!(matches!(world.results[&5], Err(DeliveryError::Rejected(_))));
    assert_eq!(world.broker.log, [0, 1, 2, 3, 4, 6, 8, 9]);
    assert_eq!(world.broker.epoch, 1);
}

#[test]
fn a_rejection_is_final_even_if_the_first_answer_was_lost() {
    let mut world = World::new();
    for _ in 0..6 {
        world.push();
    }
    world.open();
    while world.send() || world.process() {}
    world.break_stream(0);
    world.heal();
    world.check();
    assert!(matches!(world.results[&5], Err(DeliveryError::Rejected(_))));
}

#[test]
fn time_up_before_sending_is_known_and_time_up_on_the_way_is_unknown() {
    let mut world = World::new();
    world.push();
    world.open();
    world.send();
    world.break_stream(1);
    world.push();
    world.sleep(TIMEOUT);
    assert_eq!(world.results[&0], Err(DeliveryError::TimedOut));
    assert_eq!(world.results[&1], Err(DeliveryError::NotSent(None)));
    assert!(world.delivery.is_empty());
}

#[test]
fn a_batch_that_a_stopping_broker_knows_nothing_of_may_be_stored() {
    let mut world = World::new();
    world.push();
    world.open();
    world.send();
    world.to_broker.clear();
    let cut_off = WireError::new(ErrorCode::Timeout, "the broker is stopping");
    world.to_client.push_back(Err(cut_off));
    world.answer();
    world.break_stream(0);
    world.sleep(TIMEOUT);
    assert_eq!(world.results[&0], Err(DeliveryError::TimedOut));
}

#[test]
fn a_partition_that_is_not_there_is_looked_for_once_all_that_was_sent_is_answered() {
    let mut world = World::new();
    for _ in 0..2 {
        world.push();
    }
    world.open();
    while world.send() {}
    world.to_broker.clear();
    for code in [ErrorCode::UnknownPartition, ErrorCode::OutOfSequence] {
        assert_eq!(world.delivery.wants_new_stream(), None);
        world
            .to_client
            .push_back(Err(WireError::new(code, "not here")));
        world.answer();
    }
    world.now += OPTIONS.backoff.max;
    assert!(world.delivery.wants_new_stream().is_some());
    assert!(!world.send());
    world.break_stream(0);
    let gone = WireError::new(ErrorCode::UnknownTopic, "it was deleted");
    let error = DeliveryError::Refused(gone);
    let failed = world.delivery.fail_all(&error);
    world.note(failed);
    for number in 0..2 {
        assert_eq!(world.results[&number], Err(error.clone()));
    }
}

#[test]
fn a_stream_that_is_left_is_of_no_use_any_more_or_ends_once_all_is_answered() {
    let mut world = World::new();
    world.push();
    world.open();
    assert_eq!(world.delivery.ending(), Ending::Answered);
    world.send();
    assert_eq!(world.delivery.ending(), Ending::Awaits);
    world.process();
    world.answer();
    assert_eq!(world.delivery.ending(), Ending::Answered);
    world.push();
    world.send();
    let unknown = WireError::new(ErrorCode::UnknownPartition, "not here");
    world.to_client.push_back(Err(unknown));
    world.answer();
    assert!(matches!(world.delivery.ending(), Ending::Lost(_)));
}

#[test]
fn the_pause_after_a_refusal_outlives_a_stream_that_is_left_and_not_one_that_is_lost() {
    for is_left in [true, false] {
        let mut world = World::new();
        world.push();
        world.open();
        world.send();
        world.broker.overloaded = 1;
        world.process();
        world.answer();
        let retry_at = world.delivery.retry_at();
        assert!(retry_at.is_some_and(|at| at > world.now));
        if is_left {
            world.delivery.stream_left();
        } else {
            world.delivery.stream_lost();
        }
        assert_eq!(world.delivery.retry_at(), retry_at.filter(|_| is_left));
        world.delivery.stream_opened();
        assert_eq!(world.send(), !is_left);
        world.now += OPTIONS.backoff.max;
        assert_eq!(world.send(), is_left);
    }
}

#[test]
fn a_broker_that_lost_what_it_acknowledged_gets_the_rest_under_a_new_epoch() {
    let mut world = World::new();
    world.push();
    world.heal();
    world.broker = ModelBroker::default();
    world.push();
    world.push();
    world.heal();
    assert_eq!(world.broker.log, [1, 2]);
    assert!(world.results.values().all(Result::is_ok));
}

#[test]
fn an_answer_to_nothing_is_an_error() {
    let mut world = World::new();
    let answer = ModelBroker::receipt(None, false);
    let error = world.delivery.on_outcome(world.now, answer).unwrap_err();
    assert_eq!(error, UnexpectedAnswer);
}
