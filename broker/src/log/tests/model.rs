//! Random histories against a model that is a list of batches.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::disk::{CrashKeep, FaultPlan};

#[derive(Clone, Debug)]
enum Step {
    /// Records with these sizes and times.
    Append(Vec<(u8, i16)>),
    Flush,
    /// A checkpoint of the end so many batches ago, and whether it is saved.
    Checkpoint(u8, bool),
    Retention,
    /// The power fails, perhaps at so many operations from now, during a checkpoint.
    Crash(CrashKeep, Option<u8>),
    Time(i16),
    Read(u16, u16),
}

fn any_step() -> impl Strategy<Value = Step> {
    let keep = prop_oneof![
        Just(CrashKeep::Nothing),
        Just(CrashKeep::Everything),
        any::<u64>().prop_map(CrashKeep::Random),
    ];
    prop_oneof![
        8 => vec((any::<u8>(), any::<i16>()), 1..5).prop_map(Step::Append),
        2 => Just(Step::Flush),
        2 => (0_u8..6, any::<bool>()).prop_map(|(back, saved)| Step::Checkpoint(back, saved)),
        1 => Just(Step::Retention),
        1 => (keep, proptest::option::of(0_u8..30)).prop_map(|(keep, at)| Step::Crash(keep, at)),
        2 => any::<i16>().prop_map(Step::Time),
        2 => (any::<u16>(), 1_u16..3000).prop_map(|(at, bytes)| Step::Read(at, bytes)),
    ]
}

struct World {
    disk: SimulatedDisk,
    store: LogStore,
    log: PartitionLog,
    /// All batches ever: what the write-ahead log would replay.
    batches: Vec<Batch>,
    saved: LogCheckpoint,
    store_options: LogStoreOptions,
    options: LogOptions,
}

impl World {
    fn new(store_options: LogStoreOptions, options: LogOptions) -> Self {
        let disk = SimulatedDisk::new();
        let store = open_store(&disk, store_options);
        let log = open_new(&store, options);
        Self {
            disk,
            store,
            log,
            batches: Vec::new(),
            saved: LogCheckpoint::default(),
            store_options,
            options,
        }
    }

    fn end(&self) -> Offset {
        self.batches.last().map_or(Offset(0), Batch::end_offset)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Append(records) => self.append(&records),
            Step::Flush => self.log.flush().unwrap(),
            Step::Checkpoint(back, saved) => {
                let checkpoint = self.checkpoint(back).unwrap();
                if saved {
                    self.log.checkpoint_saved(&checkpoint);
                    self.saved = checkpoint;
                }
            }
            Step::Retention => drop(self.log.enforce_retention(0).unwrap()),
            Step::Crash(keep, during) => self.crash(keep, during),
            Step::Time(time) => self.check_time(time.into()),
            Step::Read(at, bytes) => self.check_read(at, bytes.into()),
        }
    }

    fn append(&mut self, records: &[(u8, i16)]) {
        let mut builder = BatchBuilder::new();
        for (len, time) in records {
            let value = vec![*len; usize::from(*len)];
            builder
                .push(&RecordRef::new((*time).into(), &value))
                .unwrap();
        }
        let batch = builder.build(Codec::None).unwrap();
        let batch = batch.placed(self.end(), self.batches.len() as u64);
        self.log.append(batch.clone());
        self.batches.push(batch);
    }

    fn checkpoint(&self, back: u8) -> Result<LogCheckpoint, CheckpointError> {
        let at = self.batches.len().saturating_sub(back.into());
        let end = at
            .checked_sub(1)
            .map_or(Offset(0), |at| self.batches[at].end_offset());
        // Never before the one that is saved: the write-ahead log has forgotten that.
        let end = end.max(self.saved.end_offset);
        Ok(self.store.checkpoint(&[(self.log.clone(), end)])?.remove(0))
    }

    fn crash(&mut self, keep: CrashKeep, during: Option<u8>) {
        if let Some(crash_in) = during {
            self.disk.set_faults(FaultPlan {
                crash_in: Some(crash_in.into()),
                ..FaultPlan::default()
            });
            drop(self.log.flush());
            drop(self.log.enforce_retention(0));
            if let Ok(checkpoint) = self.checkpoint(1) {
                self.log.checkpoint_saved(&checkpoint);
                self.saved = checkpoint;
            }
            drop(self.log.flush());
        }
        let start = self.log.reader().start_offset();
        self.disk = self.disk.crash(keep);
        self.store = open_store(&self.disk, self.store_options);
        let opened = self
            .store
            .open_partition(partition(0), self.options, &self.saved);
        self.log = opened.unwrap();
        assert_eq!(self.log.reader().end_offset(), self.saved.end_offset);
        if during.is_none() {
            // Otherwise retention may have left its mark before the crash stopped it.
            assert!(self.log.reader().start_offset() <= start.max(self.saved.start_offset));
        }
        assert!(self.log.reader().start_offset() >= self.saved.start_offset);
        for batch in &self.batches {
            if batch.base_offset() >= self.saved.end_offset {
                self.log.append(batch.clone());
            }
        }
    }

    fn check_read(&self, at: u16, bytes_max: usize) {
        let reader = self.log.reader();
        let (start, end) = (reader.start_offset(), reader.end_offset());
        assert_eq!(end, self.end());
        let offset = Offset(start.0 + u64::from(at) % (end.0 - start.0 + 1));
        let found = match reader.read(offset, bytes_max, end) {
            ReadOutcome::Memory(batches) => batches,
            ReadOutcome::Disk(read) => read.run().unwrap(),
            ReadOutcome::End => {
                assert_eq!(offset, end);
                return;
            }
            ReadOutcome::OutOfRange { .. } => panic!("{offset} is in range"),
        };
        let from = self
            .batches
            .partition_point(|batch| batch.end_offset() <= offset);
        assert!(!found.is_empty());
        assert_eq!(found, self.batches[from..from + found.len()]);
    }

    fn check_time(&self, time: i64) {
        let reader = self.log.reader();
        let start = reader.start_offset();
        let expected = self.batches.iter().find_map(|batch| {
            let columns = batch.columns().unwrap();
            let mut indexes = 0..columns.len();
            let found = indexes.find(|&index| {
                columns.offset(index) >= start && columns.timestamp_ms(index) >= time
            });
            found.map(|index| columns.offset(index))
        });
        assert_eq!(reader.offset_for_time(time).unwrap(), expected);
    }

    fn check_all(&self) {
        let reader = self.log.reader();
        let start = reader.start_offset();
        let found = read_all(&reader, start).unwrap();
        let from = self
            .batches
            .partition_point(|batch| batch.end_offset() <= start);
        assert_eq!(found, self.batches[from..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_log_is_what_was_appended_whatever_happens(
        steps in vec(any_step(), 1..80),
        tail_bytes_max in prop_oneof![Just(0_u64), Just(3000), Just(1_000_000)],
        segment_bytes in prop_oneof![Just(1_u64), Just(700), Just(3000), Just(1_000_000)],
        index_interval_bytes in prop_oneof![Just(0_u64), Just(300), Just(100_000)],
        retention_bytes in prop_oneof![Just(None), Just(Some(4000_u64))],
        open_files_max in 1_usize..4,
    ) {
        let store_options = LogStoreOptions { tail_bytes_max, open_files_max, ..manual() };
        let options = LogOptions {
            segment_bytes,
            index_interval_bytes,
            retention_bytes,
            retention_age_ms: None,
            ..LogOptions::default()
        };
        let mut world = World::new(store_options, options);
        for step in steps {
            world.take(step);
        }
        world.check_all();
        for time in [i64::MIN, -30_000, 0, 30_000, i64::MAX] {
            world.check_time(time);
        }
    }
}
