//! What lets work in: nothing is proposed before there is room for it in memory, in the
//! write-ahead log and in the partition logs. Once proposed, an append cannot fail for lack of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

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

    async fn wait_for_room(&self, bytes: usize) -> Result<Reservation, AppendError> {
        let started = Instant::now();
        loop {
            self.shared.checkpoint_wanted.notify_one();
            tokio::time::sleep(ROOM_WAIT_STEP).await;
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
            Err(error @ WalError::NoSpace { .. }) => Err(AppendError::NoSpace {
                reason: error.to_string(),
            }),
            Err(WalError::TooLarge { bytes, bytes_max }) => {
                Err(AppendError::TooLarge { bytes, bytes_max })
            }
            Err(error) => Err(AppendError::Failed {
                reason: error.to_string(),
            }),
        }
    }
}
