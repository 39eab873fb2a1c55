//! Random crashes of all that a broker stores with: proposer, Raft, write-ahead log, partition
//! logs and checkpoints, on a disk that tears and forgets what was not synced.
//!
//! A shard's log is one sequence. So what a crash leaves of a shard's partitions is what was in
//! them after some batch, in the order in which batches were handed over; and no acknowledged
//! batch is behind that point, unless the sync policy allows for it. Producers then go on where
//! they were, send again what they have no answer to, and nothing comes out twice.

use std::collections::BTreeMap;

use flumen_protocol::ids::ShardId;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    disk::{CrashKeep, FaultPlan},
    shard::{Appended, PendingAppend, REMEMBERED_BATCHES},
    wal::SyncPolicy,
};

const SHARDS: u32 = 2;
const PARTITIONS: u32 = 3;
const PRODUCERS: u32 = 3;

/// Acknowledged batches that a producer sends again, at most.
const AGAIN_MAX: usize = 4;

/// Batches without an answer, at most, so that the receipts of all that is sent again are
/// remembered.
const IN_FLIGHT_MAX: usize = REMEMBERED_BATCHES - AGAIN_MAX;

/// How often it is looked whether the disk is down while something is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long a waiting append may take to learn that its shard is gone.
const OUTCOME_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum Step {
    /// A producer hands over batches and does not wait: with a value of so many bytes, or without
    /// records.
    Send {
        producer: u32,
        partition: u32,
        sizes: Vec<Option<u16>>,
    },
    WaitForAll,
    Checkpoint,
    Flush,
}

/// A life of the process: what it does, and how it ends.
#[derive(Clone, Debug)]
struct Life {
    /// How many acknowledged batches each producer sends again at first.
    again: usize,
    steps: Vec<Step>,
    /// The disk fails with the operation that finds 0, if it comes to that.
    crash_in: Option<u64>,
    end: Ending,
}

#[derive(Clone, Debug)]
enum Ending {
    Shutdown,
    Crash(CrashKeep),
}

/// Which batch of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    stream: (u32, u32),
    epoch: u32,
    sequence: u64,
}

/// What a producer sends to a partition.
#[derive(Default)]
struct Stream {
    epoch: u32,
    /// The batches of the epoch, and whether they are acknowledged.
    sent: Vec<(Batch, bool)>,
    /// Acknowledged batches may be gone, by what the sync policy allows.
    may_have_gap: bool,
}

impl Stream {
    fn acknowledged(&self) -> usize {
        self.sent
            .iter()
            .rposition(|(_, done)| *done)
            .map_or(0, |at| at + 1)
    }
}

/// A batch with records as it must be found.
struct Handed {
    name: Name,
    partition: u32,
    batch: Batch,
    offset: Offset,
    acknowledged: bool,
}

struct Pending {
    name: Name,
    /// Where it must be stored, if it has records.
    offset: Option<Offset>,
    /// Whether it must be told to be a duplicate, if that is known.
    duplicate: Option<bool>,
    append: PendingAppend,
}

/// The disk went down.
struct Down;

struct World {
    disk: Arc<SimulatedDisk>,
    sync: SyncPolicy,
    wal_bytes: u64,
    streams: BTreeMap<(u32, u32), Stream>,
    /// By shard: what was handed over, in order.
    handed: BTreeMap<ShardId, Vec<Handed>>,
    ends: BTreeMap<u32, Offset>,
    pending: Vec<Pending>,
    /// Whether all that is acknowledged must be there.
    is_strict: bool,
}

impl World {
    fn new(sync: SyncPolicy, wal_bytes: u64) -> Self {
        let streams = (1..=PRODUCERS).flat_map(|id| (0..PARTITIONS).map(move |at| (id, at)));
        Self {
            disk: Arc::new(SimulatedDisk::new()),
            sync,
            wal_bytes,
            streams: streams.map(|name| (name, Stream::default())).collect(),
            handed: BTreeMap::new(),
            ends: BTreeMap::new(),
            pending: Vec::new(),
            is_strict: true,
        }
    }

    async fn live(&mut self, life: Life) {
        self.disk.set_faults(FaultPlan {
            crash_in: life.crash_in,
            ..FaultPlan::default()
        });
        let (sync, bytes) = (self.sync, self.wal_bytes);
        let started = Broker::try_start(&self.disk, SHARDS, |_, wal| {
            wal.sync = sync;
            wal.segment_bytes = bytes;
            wal.bytes_max = 4 * bytes;
        });
        let broker = match started.await {
            Ok(broker) => Some(broker),
            Err(error) => {
                assert!(self.disk.is_down(), "it does not start: {error}");
                None
            }
        };
        if let Some(broker) = &broker {
            // A disk that is down ends the life before its time.
            let _: Result<(), Down> = self.work(broker, &life).await;
        }
        self.disk.set_faults(FaultPlan::default());
        match life.end {
            Ending::Shutdown if !self.disk.is_down() => {
                self.wait_for_all(true).await;
                if let Some(broker) = broker {
                    broker.stop().await;
                }
            }
            Ending::Shutdown => self.crash(broker, CrashKeep::Everything).await,
            Ending::Crash(keep) => self.crash(broker, keep).await,
        }
    }

    async fn crash(&mut self, broker: Option<Broker>, keep: CrashKeep) {
        self.is_strict &= self.sync == SyncPolicy::Always || keep == CrashKeep::Everything;
        let disk = Arc::new(self.disk.crash(keep));
        if let Some(broker) = broker {
            broker.kill().await;
        }
        self.wait_for_all(false).await;
        self.disk = disk;
    }

    async fn work(&mut self, broker: &Broker, life: &Life) -> Result<(), Down> {
        for index in 0..PARTITIONS {
            let shard = broker.shards.data_of(partition(index)).unwrap();
            let config = TopicConfig {
                segment_bytes: 20_000,
                ..TopicConfig::default()
            };
            let create = shard.create_partitions(TOPIC, vec![index], &config);
            let created = self.unless_down(create).await?;
            self.check(&created)?;
        }
        self.compare(broker)?;
        let streams: Vec<_> = self.streams.keys().copied().collect();
        for stream in streams {
            self.go_on(broker, stream, life.again).await?;
        }
        for step in &life.steps {
            match step {
                Step::Send {
                    producer,
                    partition,
                    sizes,
                } => {
                    for size in sizes {
                        self.send_new(broker, (*producer, *partition), *size)
                            .await?;
                    }
                }
                Step::WaitForAll => self.wait_for_all(true).await,
                Step::Checkpoint => {
                    let taken = self.unless_down(broker.shards.checkpoint()).await?;
                    self.check(&taken)?;
                }
                Step::Flush => {
                    let flushed = broker.logs.flush_all();
                    self.check(&flushed)?;
                }
            }
        }
        Ok(())
    }

    /// Only a disk that is down excuses an error.
    fn check<T, E: std::fmt::Debug>(&self, outcome: &Result<T, E>) -> Result<(), Down> {
        if self.disk.is_down() {
            return Err(Down);
        }
        assert!(outcome.is_ok(), "{:?}", outcome.as_ref().err());
        Ok(())
    }

    async fn unless_down<T>(&self, work: impl Future<Output = T>) -> Result<T, Down> {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(LOOK_INTERVAL, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) if self.disk.is_down() => return Err(Down),
                Err(_) => {}
            }
        }
    }

    /// Compares what is there with what was handed over.
    fn compare(&mut self, broker: &Broker) -> Result<(), Down> {
        let mut found = BTreeMap::new();
        for index in 0..PARTITIONS {
            let shard = broker.shards.data_of(partition(index)).unwrap();
            let reader = shard.reader(partition(index)).unwrap();
            assert_eq!(reader.start_offset(), Offset(0));
            let read = try_read_all(&reader);
            self.check(&read)?;
            let batches = read.unwrap_or_default();
            let end = batches.last().map_or(Offset(0), Batch::end_offset);
            assert_eq!(reader.end_offset(), end, "partition {index}");
            self.ends.insert(index, end);
            found.insert(index, std::collections::VecDeque::from(batches));
        }
        for handed in self.handed.values_mut() {
            let there = handed.iter().position(|expected| {
                let Some(batch) = found.get_mut(&expected.partition).unwrap().pop_front() else {
                    return true;
                };
                let name = expected.name;
                assert_eq!(batch.base_offset(), expected.offset, "{name:?}");
                assert_eq!(batch.header().producer, expected.batch.header().producer);
                assert_eq!(batch.body(), expected.batch.body(), "{name:?}");
                false
            });
            let lost = handed.split_off(there.unwrap_or(handed.len()));
            for expected in lost {
                let name = expected.name;
                assert!(
                    !(self.is_strict && expected.acknowledged),
                    "{name:?} was acknowledged and is lost"
                );
            }
        }
        for (index, batches) in found {
            assert!(batches.is_empty(), "partition {index} has {batches:?}");
        }
        if !self.is_strict {
            let streams = self.streams.values_mut();
            streams.for_each(|stream| stream.may_have_gap = true);
        }
        self.is_strict = true;
        Ok(())
    }

    /// A producer sends again what it has no answer to, and some of what it has.
    async fn go_on(&mut self, broker: &Broker, id: (u32, u32), again: usize) -> Result<(), Down> {
        let stream = &self.streams[&id];
        let from = stream.acknowledged().saturating_sub(again);
        for at in from..stream.sent.len() {
            self.send(broker, id, at).await?;
            if at > from || !self.streams[&id].may_have_gap {
                continue;
            }
            // The first one tells whether there is a gap.
            let Some(pending) = self.pending.pop() else {
                continue;
            };
            let outcome = self.unless_down(pending.append).await?;
            if let Err(AppendError::OutOfSequence { .. } | AppendError::UnknownProducer(_)) =
                outcome
            {
                self.begin_epoch(id, pending.name);
                return Ok(());
            }
            self.check(&outcome)?;
            if let Ok(appended) = outcome {
                self.acknowledge(pending.name, pending.offset, pending.duplicate, appended);
            }
        }
        if from < self.streams[&id].sent.len() {
            self.streams.get_mut(&id).unwrap().may_have_gap = false;
        }
        Ok(())
    }

    /// The batch `refused` showed that there is a gap.
    fn begin_epoch(&mut self, id: (u32, u32), refused: Name) {
        for handed in self.handed.values_mut() {
            if let Some(last) = handed.pop_if(|last| last.name == refused) {
                self.ends.insert(last.partition, last.offset);
            }
        }
        let stream = self.streams.get_mut(&id).unwrap();
        stream.epoch += 1;
        stream.sent.clear();
        stream.may_have_gap = false;
    }

    async fn send_new(
        &mut self,
        broker: &Broker,
        id: (u32, u32),
        size: Option<u16>,
    ) -> Result<(), Down> {
        let stream = &self.streams[&id];
        if stream.sent.len() - stream.acknowledged() >= IN_FLIGHT_MAX {
            self.wait_for_all(true).await;
        }
        let stream = &self.streams[&id];
        let (epoch, sequence) = (stream.epoch, stream.sent.len() as u64);
        let producer = ProducerSequence {
            producer_id: ProducerId(id.0.into()),
            epoch,
            sequence,
        };
        let new = match size {
            None => Batch::empty(producer),
            Some(size) => {
                let mut value = format!("{id:?} {epoch} {sequence} ").into_bytes();
                value.resize(value.len() + usize::from(size), b'.');
                batch(&[&value, b"second"]).sequenced(producer)
            }
        };
        let stream = self.streams.get_mut(&id).unwrap();
        // It may be that nothing was sent since the gap came, so this one would show it.
        let shows_gap = std::mem::take(&mut stream.may_have_gap) && stream.acknowledged() > 0;
        if shows_gap {
            stream.epoch += 1;
            stream.sent.clear();
            return Ok(());
        }
        stream.sent.push((new, false));
        self.send(broker, id, sequence as usize).await
    }

    /// Hands over the batch of this sequence.
    async fn send(&mut self, broker: &Broker, id: (u32, u32), at: usize) -> Result<(), Down> {
        let stream = &self.streams[&id];
        let (batch, acknowledged) = stream.sent[at].clone();
        let name = Name {
            stream: id,
            epoch: stream.epoch,
            sequence: at as u64,
        };
        let may_have_gap = stream.may_have_gap;
        let index = id.1;
        let shard = broker.shards.data_of(partition(index)).unwrap();
        let room = self
            .unless_down(shard.make_room(batch.encoded_len()))
            .await?;
        self.check(&room)?;
        let Ok(room) = room else { return Err(Down) };
        let handed = self.handed.entry(shard.id()).or_default();
        let known = handed.iter().find(|handed| handed.name == name);
        let (offset, duplicate) = match known {
            Some(known) => (Some(known.offset), Some(true)),
            None if batch.record_count() == 0 => {
                (None, (acknowledged && !may_have_gap).then_some(true))
            }
            None => {
                let end = self.ends.entry(index).or_default();
                let offset = *end;
                *end = offset.plus(batch.record_count().into());
                handed.push(Handed {
                    name,
                    partition: index,
                    batch: batch.clone(),
                    offset,
                    acknowledged: false,
                });
                (Some(offset), Some(false))
            }
        };
        self.pending.push(Pending {
            name,
            offset,
            duplicate,
            append: room.append(partition(index), batch),
        });
        Ok(())
    }

    /// Waits for all outcomes. While the broker lives, only a disk that is down excuses errors.
    async fn wait_for_all(&mut self, is_alive: bool) {
        for pending in std::mem::take(&mut self.pending) {
            let outcome = tokio::time::timeout(OUTCOME_DEADLINE, pending.append).await;
            let outcome = outcome.expect("every append has an outcome");
            match outcome {
                Ok(appended) => {
                    self.acknowledge(pending.name, pending.offset, pending.duplicate, appended);
                }
                Err(error) => assert!(
                    !is_alive || self.disk.is_down(),
                    "{:?}: {error}",
                    pending.name
                ),
            }
        }
    }

    fn acknowledge(
        &mut self,
        name: Name,
        offset: Option<Offset>,
        duplicate: Option<bool>,
        appended: Appended,
    ) {
        assert_eq!(appended.base_offset, offset, "{name:?}");
        if let Some(duplicate) = duplicate {
            assert_eq!(appended.duplicate, duplicate, "{name:?}");
        }
        let stream = self.streams.get_mut(&name.stream).unwrap();
        if stream.epoch == name.epoch {
            stream.sent[name.sequence as usize].1 = true;
        }
        let mut handed = self.handed.values_mut().flatten();
        if let Some(handed) = handed.find(|handed| handed.name == name) {
            handed.acknowledged = true;
        }
    }
}

fn try_read_all(reader: &PartitionReader) -> Result<Vec<Batch>, crate::log::ReadError> {
    let mut batches = Vec::new();
    let mut offset = reader.start_offset();
    loop {
        let more = match reader.read(offset, 1 << 20) {
            ReadOutcome::Memory(more) => more,
            ReadOutcome::Disk(read) => read.run()?,
            ReadOutcome::End => return Ok(batches),
            other => panic!("{other:?}"),
        };
        offset = more.last().unwrap().end_offset();
        batches.extend(more);
    }
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        1 => Just(None),
        6 => (0..300u16).prop_map(Some),
        2 => (0..8_000u16).prop_map(Some),
    ];
    prop_oneof![
        12 => (1..=PRODUCERS, 0..PARTITIONS, vec(size, 1..12)).prop_map(
            |(producer, partition, sizes)| Step::Send { producer, partition, sizes }
        ),
        2 => Just(Step::WaitForAll),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Flush),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let end = prop_oneof![
        1 => Just(Ending::Shutdown),
        2 => Just(Ending::Crash(CrashKeep::Nothing)),
        2 => Just(Ending::Crash(CrashKeep::Everything)),
        4 => any::<u64>().prop_map(|seed| Ending::Crash(CrashKeep::Random(seed))),
    ];
    let crash_in = proptest::option::weighted(0.7, 0..300u64);
    (0..=AGAIN_MAX, vec(step(), 0..40), crash_in, end).prop_map(|(again, steps, crash_in, end)| {
        Life {
            again,
            steps,
            crash_in,
            end,
        }
    })
}

/// Few cases by default, since each is many lives; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").is_ok();
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if asked { default.cases } else { 32 },
        failure_persistence: None,
        // A life takes its time, and which threads come first is another matter each time.
        max_shrink_iters: 100,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_a_crash_leaves_is_what_was_acknowledged_once_and_in_order(
        sync in prop_oneof![
            3 => Just(SyncPolicy::Always),
            1 => Just(SyncPolicy::Every(Duration::from_mins(1))),
            1 => Just(SyncPolicy::Every(Duration::from_millis(1))),
        ],
        wal_bytes in prop_oneof![Just(64 << 10), Just(1 << 20)],
        lives in vec(life(), 1..5),
    ) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(sync, wal_bytes);
            for life in lives {
                world.live(life).await;
            }
            let last = Life { again: AGAIN_MAX, steps: Vec::new(), crash_in: None, end: Ending::Shutdown };
            world.live(last).await;
        });
    }
}
