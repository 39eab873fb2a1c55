//! Streams to a broker, which allows only so many at once.
//!
//! Producers keep a stream to each partition for a while after they last needed it. Whoever finds
//! no room for another one asks those that carry nothing to end.

use std::time::Duration;

use flumen_transport::quinn::{Connection, ConnectionError, RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// How long a stream may take to open before others are asked to end, and how often they are
/// asked, however many wait.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// Who wants a stream of a broker, and who has one to spare.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    wanted: Notify,
    asked: Mutex<Option<Instant>>,
}

impl Streams {
    /// Opens a stream, as soon as the broker allows another one.
    pub(crate) async fn open(
        &self,
        connection: &Connection,
    ) -> Result<(SendStream, RecvStream), ConnectionError> {
        let opening = connection.open_bi();
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return opened,
                () = sleep(ASK_INTERVAL) => self.ask(),
            }
        }
    }

    /// Waits until somebody has no room for a stream.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    fn ask(&self) {
        let now = Instant::now();
        let mut asked = self.asked.lock();
        if asked.is_none_or(|asked| now - asked >= ASK_INTERVAL) {
            *asked = Some(now);
            self.wanted.notify_waiters();
        }
    }
}
