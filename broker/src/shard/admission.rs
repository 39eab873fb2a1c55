//! What lets work in: nothing is proposed, and nothing taken from a leader elsewhere, before there
//! is room for it in memory, in the write-ahead log and in the partition logs. Once let in, an
//! append cannot fail for lack of it.

use std::{sync::Arc, time::Duration};

use flumen_protocol::ids::PartitionId;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};

use super::data::AppendError;
use crate::{
    log::LogStore,
    wal::{Reservation, Wal, WalError},
};

/// How long an append waits for room in the logs before it is refused. Checkpoints make room
/// all the time; a longer wait means that the disk does not keep up or is full.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often a waiting append looks for room.
const ROOM_WAIT_STEP: Duration = Duration::from_millis(2);

/// How long the entries that a leader elsewhere sends wait for room before they are refused. It
/// sends them again, and must not take this broker for dead in between.
const ENTRIES_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often entries that wait look for room.
const ENTRIES_WAIT_STEP: Duration = Duration::from_millis(20);

/// Bytes that an entry's head takes in the log for each batch, at most.
pub(crate) const BATCH_HEAD_BYTES_MAX: usize = 64;

/// Lets in as much as there is room for. Shared by all shards of a broker.
#[derive(Clone)]
pub(crate) struct Admission {
    shared: Arc<Shared>,
}

struct Shared {
    in_flight: Arc<Semaphore>,
    in_flight_bytes_max: u32,
    wal: Wal,
    logs: LogStore,
    checkpoint_wanted: Arc<Notify>,
}

/// Room for one batch; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    _memory: OwnedSemaphorePermit,
    _wal: Reservation,
}

impl Admission {
    pub(crate) fn new(
        wal: Wal,
        logs: LogStore,
        in_flight_bytes_max: u32,
        checkpoint_wanted: Arc<Notify>,
    ) -> Self {
        let shared = Shared {
            in_flight: Arc::new(Semaphore::new(in_flight_bytes_max as usize)),
            in_flight_bytes_max,
            wal,
            logs,
            checkpoint_wanted,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Room for a batch of `bytes`, waiting for it if need be.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Room, AppendError> {
        let shared = &self.shared;
        let permits = (bytes as u64).min(shared.in_flight_bytes_max.into()) as u32;
        let semaphore = Arc::clone(&shared.in_flight);
        let memory = match semaphore.try_acquire_many_owned(permits) {
            Ok(memory) => memory,
            Err(_) => Arc::clone(&shared.in_flight)
                .acquire_many_owned(permits)
                .await
                .map_err(|_| AppendError::Stopped)?,
        };
        let wal = match self.try_reserve(bytes) {
            Ok(Some(reservation)) => reservation,
            Ok(None) => self.wait_for_room(bytes).await?,
            Err(error) => return Err(error),
        };
        Ok(Room {
            _memory: memory,
            _wal: wal,
        })
    }

    /// Refuses what is for a partition that cannot be written, though others can: it would wait in
    /// memory, and take the room of all.
    pub(crate) fn check_partition(&self, partition: PartitionId) -> Result<(), AppendError> {
        match self.shared.logs.degraded_partition(partition) {
            Some(reason) => Err(AppendError::Unwritable { partition, reason }),
            None => Ok(()),
        }
    }

    async fn wait_for_room(&self, bytes: usize) -> Result<Reservation, AppendError> {
        let started = Instant::now();
        loop {
            self.want_checkpoints();
            sleep(ROOM_WAIT_STEP).await;
            if let Some(reservation) = self.try_reserve(bytes)? {
                return Ok(reservation);
            }
            if started.elapsed() > ROOM_WAIT_MAX {
                return Err(AppendError::Overloaded {
                    waited: started.elapsed(),
                });
            }
        }
    }

    /// Room for entries with so many bytes each that a leader elsewhere sends, waiting for it if
    /// need be.
    /// Without it they could fill the write-ahead log up, and then not even a vote fits in.
    pub(crate) async fn room_for_entries(
        &self,
        payloads: &[u64],
    ) -> Result<Reservation, AppendError> {
        let started = Instant::now();
        loop {
            match self.try_reserve_for_entries(payloads) {
                Ok(Some(room)) => return Ok(room),
                Ok(None) if started.elapsed() > ENTRIES_WAIT_MAX => {
                    return Err(AppendError::Overloaded {
                        waited: started.elapsed(),
                    });
                }
                Err(error) if started.elapsed() > ENTRIES_WAIT_MAX => return Err(error),
                Ok(None) | Err(AppendError::NoSpace { .. }) => {}
                Err(error) => return Err(error),
            }
            self.want_checkpoints();
            sleep(ENTRIES_WAIT_STEP).await;
        }
    }

    /// `None` if there is no room yet, but will be.
    fn try_reserve_for_entries(
        &self,
        payloads: &[u64],
    ) -> Result<Option<Reservation>, AppendError> {
        let shared = &self.shared;
        if !shared.logs.has_room() {
            return match shared.logs.degraded() {
                Some(reason) => Err(AppendError::NoSpace { reason }),
                None => Ok(None),
            };
        }
        Ok(Some(shared.wal.reserve_decided(payloads)?))
    }

    /// `None` if there is no room yet, but will be.
    fn try_reserve(&self, bytes: usize) -> Result<Option<Reservation>, AppendError> {
        if let Some(reason) = self.shared.logs.degraded() {
            return Err(AppendError::NoSpace { reason });
        }
        if !self.shared.logs.has_room() {
            return Ok(None);
        }
        match self
            .shared
            .wal
            .reserve((bytes + BATCH_HEAD_BYTES_MAX) as u64)
        {
            Ok(reservation) => Ok(Some(reservation)),
            Err(WalError::Full { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the log made shorter, and what waits in memory written.
    pub(crate) fn want_checkpoints(&self) {
        self.shared.checkpoint_wanted.notify_one();
    }
}

impl From<WalError> for AppendError {
    fn from(error: WalError) -> Self {
        match error {
            WalError::TooLarge { bytes, bytes_max } => Self::TooLarge { bytes, bytes_max },
            WalError::NoSpace { .. } | WalError::Gone { .. } | WalError::Stuck { .. } => {
                Self::NoSpace {
                    reason: error.to_string(),
                }
            }
            error => Self::Failed {
                reason: error.to_string(),
            },
        }
    }
}
