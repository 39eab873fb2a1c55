//! The streams of a connection, shared so that nobody waits for one for ever. Producers take turns
//! and requests end, but a consumer keeps its stream: some are kept from consumers. And where few
//! are left, the client hears of each that has become free.

use std::{convert::Infallible, time::Duration};

use flumen_protocol::error::{ErrorCode, WireError};
use flumen_transport::{credit::announce_freed_streams, quinn::Connection};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::sleep,
};
use tokio_util::task::TaskTracker;

/// A stream whose task has ended is free when the client has acknowledged that. It is looked for
/// after this long, and then after twice as long each time ...
const ANNOUNCE_AFTER: Duration = Duration::from_millis(2);

/// ... until this. What is not free by then is announced with the next one, or by QUIC itself.
const ANNOUNCE_AFTER_MAX: Duration = Duration::from_secs(1);

/// This part of all streams is kept from consumers.
const KEPT_PART: u32 = 8;

/// The streams of a connection.
#[derive(Debug)]
pub(super) struct Credit {
    streams_max: u32,
    /// What consumers may have.
    places: Semaphore,
    /// Told when the task of a stream has ended.
    ended: Notify,
}

impl Credit {
    pub(super) fn new(streams_max: u32) -> Self {
        Self {
            streams_max,
            places: Semaphore::new(consumers_max(streams_max) as usize),
            ended: Notify::new(),
        }
    }

    /// Lets a consumer have a stream until the place is dropped, or says why not.
    pub(super) fn take_place(&self) -> Result<SemaphorePermit<'_>, WireError> {
        self.places.try_acquire().map_err(|_| {
            let text = format!(
                "a connection carries {} consumers at most, so that some of its {} streams are left \
                 to producers and requests; connect another client for more, or raise \
                 limits.streams_per_connection_max",
                consumers_max(self.streams_max),
                self.streams_max
            );
            WireError::new(ErrorCode::Overloaded, text)
        })
    }

    /// The task of a stream has ended.
    pub(super) fn stream_ended(&self) {
        self.ended.notify_one();
    }

    /// Announces streams that have become free while few are left; `streams` are all tasks.
    pub(super) async fn announce(
        &self,
        connection: &Connection,
        streams: &TaskTracker,
    ) -> Infallible {
        let few_left_from = (self.streams_max - self.streams_max / 4) as usize;
        loop {
            self.ended.notified().await;
            let mut pause = ANNOUNCE_AFTER;
            while streams.len() >= few_left_from && pause <= ANNOUNCE_AFTER_MAX {
                announce_freed_streams(connection, self.streams_max);
                sleep(ANNOUNCE_AFTER).await;
                tokio::select! {
                    () = self.ended.notified() => pause = ANNOUNCE_AFTER,
                    () = sleep(pause) => pause *= 2,
                }
            }
        }
    }
}

/// Streams that consumers may have of so many: one at least.
fn consumers_max(streams_max: u32) -> u32 {
    (streams_max - streams_max.div_ceil(KEPT_PART)).max(1)
}
