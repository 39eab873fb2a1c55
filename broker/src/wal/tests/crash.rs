//! Random histories with crashes at random operations of the disk, against a model.
//!
//! The log is one sequence of records, so whatever a crash leaves must be what the shards were
//! after some record, the same for all of them, and no earlier than the last that was promised.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append { shard: u32, count: u64, size: usize },
    Truncate { shard: u32, back: u64 },
    TruncateAll { shard: u32 },
    Purge { shard: u32, ahead: i64 },
    Reset { shard: u32 },
    Vote { shard: u32 },
    Move { shard: u32 },
    Sync,
    WaitForAll,
    Read { shard: u32 },
}

/// A life of the process: what it does, and how it ends.
#[derive(Clone, Debug)]
struct Life {
    sync: SyncPolicy,
    steps: Vec<Step>,
    crash_in: Option<u64>,
    end: Ending,
}

#[derive(Clone, Debug)]
enum Ending {
    Shutdown,
    Crash(CrashKeep),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelShard {
    purged: Option<(LogPosition, Bytes)>,
    entries: BTreeMap<u64, (u64, Bytes)>,
    vote: Option<Bytes>,
}

type Model = BTreeMap<ShardId, ModelShard>;

impl ModelShard {
    fn last(&self) -> Option<LogPosition> {
        let last = self.entries.last_key_value();
        last.map(|(index, (term, _))| position(*term, *index))
            .or(self.purged.as_ref().map(|(purged, _)| *purged))
    }

    fn next(&self) -> u64 {
        self.last().map_or(1, |last| last.index + 1)
    }

    fn purge(&mut self, up_to: LogPosition, log_id: Bytes) {
        if self
            .purged
            .as_ref()
            .is_none_or(|(purged, _)| purged.index < up_to.index)
        {
            self.entries.retain(|index, _| *index > up_to.index);
            self.purged = Some((up_to, log_id));
        }
    }

    fn of(log: &ShardLog) -> Self {
        let state = log.state();
        let entries: BTreeMap<_, _> = read_all(log)
            .into_iter()
            .map(|mut entry| (entry.index, (entry.term, entry.payload.remove(0))))
            .collect();
        assert_eq!(entries.keys().next().copied(), state.first);
        let shard = Self {
            purged: state.purged.zip(state.purged_log_id),
            entries,
            vote: state.vote,
        };
        assert_eq!(shard.last(), state.last);
        shard
    }
}

fn model_of(wal: &Wal) -> Model {
    let shards = wal.shards().into_iter();
    let mut model: Model = shards
        .map(|id| (id, ModelShard::of(&wal.shard(id))))
        .collect();
    model.retain(|_, shard| *shard != ModelShard::default());
    model
}

/// All states since the start of a life, and which of them are promised to survive.
struct History {
    states: Vec<Model>,
    promises: Vec<(usize, Arc<AtomicBool>)>,
    term: u64,
    waiting: Vec<mpsc::Receiver<()>>,
}

impl History {
    fn now(&self) -> Model {
        self.states.last().unwrap().clone()
    }

    fn push(&mut self, mut model: Model) {
        model.retain(|_, shard| *shard != ModelShard::default());
        self.states.push(model);
    }

    /// A callback that promises, if it is called without an error, that the state as it is now
    /// survives (if `kept`).
    fn promise(&mut self, kept: bool) -> impl FnOnce(Result<(), WalError>) + Send + use<> {
        let promised = Arc::new(AtomicBool::new(false));
        let (tx, rx) = mpsc::channel();
        self.waiting.push(rx);
        if kept {
            self.promises
                .push((self.states.len() - 1, Arc::clone(&promised)));
        }
        move |result| {
            promised.store(result.is_ok(), Ordering::SeqCst);
            drop(tx);
        }
    }

    fn run(&mut self, disk: &SimulatedDisk, wal: &Wal, step: &Step, always: bool) {
        let mut model = self.now();
        match *step {
            Step::Append { shard, count, size } => {
                let log = wal.shard(ShardId(shard));
                let mut entries = Vec::new();
                for _ in 0..count {
                    let shard = model.entry(log.id()).or_default();
                    let index = shard.next();
                    let entry = entry(log.id(), self.term, index, size);
                    shard
                        .entries
                        .insert(index, (self.term, entry.payload[0].clone()));
                    entries.push(entry);
                    self.push(model.clone());
                }
                log.append(entries, self.promise(always));
            }
            Step::Truncate { shard, back } => {
                let log = wal.shard(ShardId(shard));
                self.term += 1;
                let shard = model.entry(log.id()).or_default();
                let after = shard.next().saturating_sub(back + 1);
                shard.entries.retain(|index, _| *index <= after);
                self.push(model);
                log.truncate_after(Some(after), self.promise(always));
            }
            Step::TruncateAll { shard } => {
                let log = wal.shard(ShardId(shard));
                self.term += 1;
                model.entry(log.id()).or_default().entries.clear();
                self.push(model);
                log.truncate_after(None, self.promise(always));
            }
            Step::Purge { shard, ahead } => {
                let log = wal.shard(ShardId(shard));
                let shard = model.entry(log.id()).or_default();
                let index = shard.next().saturating_add_signed(ahead).saturating_sub(1);
                let term = shard
                    .entries
                    .get(&index)
                    .map_or(self.term, |(term, _)| *term);
                let log_id = Bytes::from(format!("{term}-{index}"));
                shard.purge(position(term, index), log_id.clone());
                self.push(model);
                log.purge(position(term, index), log_id);
            }
            Step::Reset { shard } => {
                let log = wal.shard(ShardId(shard));
                self.term += 1;
                let shard = model.entry(log.id()).or_default();
                shard.entries.clear();
                shard.purged = None;
                self.push(model);
                log.reset(self.promise(always));
            }
            Step::Vote { shard } => {
                let log = wal.shard(ShardId(shard));
                let vote = Bytes::from(format!("vote {}", self.states.len()));
                model.entry(log.id()).or_default().vote = Some(vote.clone());
                self.push(model);
                log.save_vote(vote, self.promise(true));
            }
            Step::Move { shard } => {
                // Wherever they are, they are the same.
                let moved = wal.move_on(&[ShardId(shard)]);
                let is_down = disk.is_down() || wal.failed().borrow().is_some();
                assert!(moved.is_ok() || is_down, "{moved:?}");
            }
            Step::Sync => {
                let kept = self.states.len() - 1;
                if wal.sync().is_ok() {
                    self.promises.push((kept, Arc::new(AtomicBool::new(true))));
                }
            }
            Step::WaitForAll => {
                for done in self.waiting.drain(..) {
                    // The sender is dropped when the callback was called.
                    let result = done.recv_timeout(PATIENCE);
                    assert_eq!(result, Err(mpsc::RecvTimeoutError::Disconnected));
                }
            }
            Step::Read { shard } => {
                let log = wal.shard(ShardId(shard));
                let expected = model.remove(&log.id()).unwrap_or_default();
                let range = match (expected.entries.keys().next(), expected.last()) {
                    (Some(first), Some(last)) => *first..last.index + 1,
                    _ => return,
                };
                if let Ok(entries) = log.read(range, usize::MAX) {
                    let found = entries
                        .into_iter()
                        .map(|mut entry| (entry.index, (entry.term, entry.payload.remove(0))));
                    let found: BTreeMap<_, _> = found.collect();
                    // What is called for after a failure is refused.
                    let failed = wal.failed().borrow().is_some();
                    assert!(
                        found == expected.entries || failed,
                        "{} is read wrong",
                        log.id()
                    );
                } else {
                    assert!(disk.is_down() || wal.failed().borrow().is_some());
                }
            }
        }
    }

    fn promised(&self) -> usize {
        let kept = self
            .promises
            .iter()
            .filter(|(_, kept)| kept.load(Ordering::SeqCst));
        kept.map(|(state, _)| *state).max().unwrap_or(0)
    }
}

fn run(lives: Vec<Life>) {
    let mut disk = SimulatedDisk::new();
    let mut model = Model::new();
    for (number, life) in lives.into_iter().enumerate() {
        disk.set_faults(FaultPlan {
            crash_in: life.crash_in,
            ..FaultPlan::default()
        });
        let mut history = History {
            states: vec![model.clone()],
            promises: Vec::new(),
            term: 10 * number as u64 + 1,
            waiting: Vec::new(),
        };
        // A crash while it opens leaves all as it was.
        let opened = try_open(&disk, life.sync);
        let crashed = disk.is_down();
        let keep = match life.end {
            Ending::Crash(keep) => keep,
            Ending::Shutdown => CrashKeep::Random(number as u64),
        };
        match opened {
            Ok(wal) => {
                let found = model_of_unless_down(&wal, &disk, &model);
                assert!(found == model, "life {number} begins with something else");
                for step in &life.steps {
                    history.run(&disk, &wal, step, life.sync == ALWAYS);
                }
                if matches!(life.end, Ending::Shutdown) && wal.shutdown().is_ok() {
                    let last = history.states.len() - 1;
                    history
                        .promises
                        .push((last, Arc::new(AtomicBool::new(true))));
                }
                disk = disk.crash(keep);
                drop(wal);
            }
            Err(error) => {
                assert!(crashed, "life {number} does not open: {error}");
                disk = disk.crash(keep);
            }
        }
        let promised = history.promised();
        let found = {
            let wal = open(&disk, life.sync);
            let found = model_of(&wal);
            wal.shutdown().unwrap();
            found
        };
        let possible = &history.states[promised..];
        assert!(
            possible.contains(&found),
            "life {number}: what is left is none of the {} states since the one promised, {promised}",
            possible.len(),
        );
        model = found;
    }
}

/// Reads need the disk; when the crash has come already, the model is as good.
fn model_of_unless_down(wal: &Wal, disk: &SimulatedDisk, model: &Model) -> Model {
    if disk.is_down() {
        return model.clone();
    }
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model_of(wal)));
    match result {
        Ok(found) => found,
        Err(_) if disk.is_down() => model.clone(),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let shard = 0..4u32;
    prop_oneof![
        8 => (shard.clone(), 1..5u64, prop_oneof![0..300usize, 0..16_000usize])
            .prop_map(|(shard, count, size)| Step::Append { shard, count, size }),
        2 => (shard.clone(), 0..6u64).prop_map(|(shard, back)| Step::Truncate { shard, back }),
        1 => shard.clone().prop_map(|shard| Step::TruncateAll { shard }),
        3 => (shard.clone(), -4..3i64).prop_map(|(shard, ahead)| Step::Purge { shard, ahead }),
        1 => shard.clone().prop_map(|shard| Step::Reset { shard }),
        1 => shard.clone().prop_map(|shard| Step::Vote { shard }),
        3 => shard.clone().prop_map(|shard| Step::Move { shard }),
        1 => Just(Step::Sync),
        1 => Just(Step::WaitForAll),
        1 => shard.prop_map(|shard| Step::Read { shard }),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let sync = prop_oneof![
        3 => Just(ALWAYS),
        2 => Just(RARELY),
        1 => Just(SyncPolicy::Every(Duration::from_millis(1))),
    ];
    let end = prop_oneof![
        1 => Just(Ending::Shutdown),
        1 => Just(Ending::Crash(CrashKeep::Nothing)),
        1 => Just(Ending::Crash(CrashKeep::Everything)),
        4 => any::<u64>().prop_map(|seed| Ending::Crash(CrashKeep::Random(seed))),
    ];
    let crash_in = proptest::option::weighted(0.7, 0..150u64);
    (
        sync,
        proptest::collection::vec(step(), 0..60),
        crash_in,
        end,
    )
        .prop_map(|(sync, steps, crash_in, end)| Life {
            sync,
            steps,
            crash_in,
            end,
        })
}

/// Few cases by default, since each is many lives; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").is_ok();
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if asked { default.cases } else { 64 },
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_a_crash_leaves_is_a_state_no_earlier_than_what_was_promised(
        lives in proptest::collection::vec(life(), 1..5)
    ) {
        run(lives);
    }
}
