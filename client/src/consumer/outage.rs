//! Since when a consumer gets nothing: how long it waits before the next attempt, and when that is
//! worth a line in the log.

use std::time::{Duration, Instant};

use crate::connection::backoff::Backoff;

/// A consumer that cannot be served says so in the log this often.
const OUTAGE_LOG: Duration = Duration::from_secs(30);

/// Since when nothing could be read.
#[derive(Debug)]
pub(super) struct Outage {
    backoff: Backoff,
    /// When the first stream was lost since the last batch came.
    since: Option<Instant>,
    /// When it was logged last.
    logged: Instant,
}

/// What follows from the loss of a stream.
pub(super) struct Lost {
    /// For how long nothing came, by now.
    pub(super) since: Duration,
    /// How long to wait before the next stream is tried.
    pub(super) wait: Duration,
    /// Whether it is time to log it.
    pub(super) is_to_be_logged: bool,
}

impl Outage {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            since: None,
            logged: Instant::now(),
        }
    }

    /// Whether a stream was lost, and nothing has come since.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Something came.
    pub(super) fn over(&mut self) {
        self.backoff.reset();
        self.since = None;
    }

    /// For how long nothing came, by now.
    pub(super) fn goes_on(&mut self) -> Duration {
        let now = Instant::now();
        if self.since.is_none() {
            self.logged = now;
        }
        now - *self.since.get_or_insert(now)
    }

    /// A stream was lost.
    pub(super) fn lost(&mut self) -> Lost {
        let since = self.goes_on();
        let wait = self.backoff.next_delay();
        let is_to_be_logged = self.logged.elapsed() >= OUTAGE_LOG;
        if is_to_be_logged {
            self.logged = Instant::now();
        }
        Lost {
            since,
            wait,
            is_to_be_logged,
        }
    }
}
