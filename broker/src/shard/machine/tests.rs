use flumen_protocol::ids::ShardId;
use parking_lot::Mutex;

use super::*;
use crate::{
    disk::SimulatedDisk,
    shard::{
        command::{self, log_id},
        types::Payload,
    },
    wal::{LogPosition, Wal, WalEntry, WalOptions},
};

const SHARD: ShardId = ShardId(1);
const TERM: u64 = 3;

/// Up to where the log was purged, and where it ends.
const PURGED: u64 = 4;
const LAST: u64 = 9;

/// A machine that knows what was applied, and nothing else.
#[derive(Default)]
struct Noting {
    applied: Mutex<Applied>,
    indexes: Mutex<Vec<u64>>,
}

impl Machine for Noting {
    fn applied(&self) -> Applied {
        self.applied.lock().clone()
    }

    fn apply(&self, entry: &Entry) -> io::Result<Response> {
        self.applied.lock().note(entry);
        self.indexes.lock().push(entry.index());
        Ok(Response::None)
    }

    fn checkpoint(&self) -> io::Result<Checkpoint> {
        Err(io::Error::other("there is none"))
    }

    fn last_checkpoint(&self) -> Option<Checkpoint> {
        None
    }

    fn install(
        self: Arc<Self>,
        _: Checkpoint,
        _: Vec<BrokerId>,
    ) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A log with entries of one term, of which the first are purged, as after a start.
fn storage() -> LogStorage {
    let options = WalOptions {
        segment_bytes: 1 << 20,
        bytes_max: 8 << 20,
        ..WalOptions::new("/wal")
    };
    let wal = Wal::open(Arc::new(SimulatedDisk::new()), options, Arc::new(())).unwrap();
    let log = wal.shard(SHARD);
    let entries = (0..=LAST).map(|index| WalEntry {
        term: TERM,
        index,
        payload: command::encode(&Payload::Blank).unwrap(),
    });
    log.append(entries.collect(), |appended| appended.unwrap());
    let purged = LogPosition {
        term: TERM,
        index: PURGED,
    };
    log.purge(purged, Bytes::new());
    LogStorage::open(log, Failure::new()).unwrap()
}

/// What is applied anew by a machine that has applied all that is purged, where another replica
/// vouches for this.
async fn applied_of(vouched: LogId) -> Vec<u64> {
    let machine = Arc::new(Noting::default());
    machine.applied.lock().log_id = Some(log_id(TERM, PURGED));
    let mut under_openraft =
        RaftMachine::new(SHARD, Arc::clone(&machine) as _, storage(), Failure::new());
    under_openraft.apply_vouched(vouched).await.unwrap();
    std::mem::take(&mut *machine.indexes.lock())
}

#[tokio::test]
async fn the_log_is_applied_up_to_what_another_replica_vouches_for() {
    assert_eq!(applied_of(log_id(TERM, PURGED + 1)).await, [PURGED + 1]);
    assert_eq!(applied_of(log_id(TERM, 7)).await, [5, 6, 7]);
    assert_eq!(applied_of(log_id(TERM, LAST)).await, [5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn an_entry_that_the_log_does_not_have_says_nothing() {
    let elsewhere = [
        log_id(TERM - 1, 7),
        log_id(TERM + 1, 7),
        log_id(TERM, LAST + 1),
        log_id(TERM, u64::MAX),
        log_id(TERM, PURGED),
        log_id(TERM, 0),
    ];
    for vouched in elsewhere {
        assert!(applied_of(vouched).await.is_empty(), "{vouched}");
    }
}

#[tokio::test]
async fn a_log_has_the_entries_that_are_left_of_it() {
    let storage = storage();
    for index in 0..=LAST + 1 {
        let is_left = index > PURGED && index <= LAST;
        let has = storage.has(log_id(TERM, index)).await;
        assert_eq!(has.unwrap(), is_left, "{index}");
        assert!(!storage.has(log_id(TERM + 1, index)).await.unwrap());
    }
    let empty = Wal::open(
        Arc::new(SimulatedDisk::new()),
        WalOptions::new("/wal"),
        Arc::new(()),
    );
    let empty = LogStorage::open(empty.unwrap().shard(SHARD), Failure::new()).unwrap();
    assert!(!empty.has(log_id(0, 0)).await.unwrap());
}
