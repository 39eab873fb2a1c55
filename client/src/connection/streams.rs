//! Streams to a broker, which allows only so many at once.
//!
//! Producers keep a stream to each partition for a while after they last needed it. Whoever finds
//! no room for another one wishes for one, and as many of those that have one to spare leave theirs
//! as there are wishes.

mod wishes;

use std::time::Duration;

use flumen_transport::quinn::{Connection, ConnectionError, RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

pub(crate) use self::wishes::Spare;
use self::wishes::{LEAVES_WITHIN, Wishes};

/// How long a stream may take to open before another one is wished for.
const WISH_AFTER: Duration = Duration::from_millis(20);

/// Who wants a stream of a broker, and who has one to spare.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    wishes: Mutex<Wishes>,
    /// Told when one that carries nothing is wished for.
    idle: Notify,
    /// Told when one that is in use is, since all others carry something.
    used: Notify,
}

impl Streams {
    /// Opens a stream, as soon as the broker allows another one.
    pub(crate) async fn open(
        &self,
        connection: &Connection,
    ) -> Result<(SendStream, RecvStream), ConnectionError> {
        let opening = connection.open_bi();
        tokio::pin!(opening);
        let (mut pause, mut wish) = (WISH_AFTER, Wish::of(self));
        let opened = loop {
            tokio::select! {
                biased;
                opened = &mut opening => break opened,
                () = sleep(pause) => {}
            }
            wish.make_or_remind();
            pause = LEAVES_WITHIN;
        };
        wish.end_with_a_stream();
        opened
    }

    /// Waits until a stream, which is to spare for this reason, is to be left for somebody who has
    /// no room for one; then it must be. Without a reason it waits for ever.
    pub(crate) async fn wanted(&self, spare: Option<Spare>) {
        let Some(spare) = spare else {
            return std::future::pending().await;
        };
        let _offer = Offer::make(self, spare);
        loop {
            let told = match spare {
                Spare::Idle => self.idle.notified(),
                Spare::Used => self.used.notified(),
            };
            if self.change(|wishes| wishes.take(spare, Instant::now())) {
                return;
            }
            told.await;
        }
    }

    /// Changes the wishes, and wakes who may be the next to leave for one.
    fn change<R>(&self, change: impl FnOnce(&mut Wishes) -> R) -> R {
        let mut wishes = self.wishes.lock();
        let result = change(&mut wishes);
        let next = wishes.next();
        drop(wishes);
        match next {
            Some(Spare::Idle) => self.idle.notify_one(),
            Some(Spare::Used) => self.used.notify_one(),
            None => {}
        }
        result
    }
}

/// Somebody opens a stream, and waits for it once the wish is made, until this is dropped.
struct Wish<'a> {
    streams: &'a Streams,
    is_made: bool,
}

impl<'a> Wish<'a> {
    fn of(streams: &'a Streams) -> Self {
        Self {
            streams,
            is_made: false,
        }
    }

    fn make_or_remind(&mut self) {
        let is_made = std::mem::replace(&mut self.is_made, true);
        self.streams.change(|wishes| {
            if is_made {
                wishes.remind(Instant::now());
            } else {
                wishes.wish();
            }
        });
    }

    /// The stream was opened, or the connection is lost.
    fn end_with_a_stream(mut self) {
        let was_made = std::mem::take(&mut self.is_made);
        let now = Instant::now();
        self.streams.change(|wishes| wishes.opened(now, was_made));
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        if self.is_made {
            self.streams.change(Wishes::withdraw);
        }
    }
}

/// A stream is to spare, until this is dropped.
struct Offer<'a> {
    streams: &'a Streams,
    spare: Spare,
}

impl<'a> Offer<'a> {
    fn make(streams: &'a Streams, spare: Spare) -> Self {
        // Who offers one looks for wishes itself.
        streams.wishes.lock().offer(spare);
        Self { streams, spare }
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        self.streams.change(|wishes| wishes.retract(self.spare));
    }
}
