//! The way to one other broker: dialed when it is wanted, kept, and given rest between attempts.
//!
//! ```text
//! idle ── wanted ──> dialing ── answered ──> up ── ended ──> idle
//!   ^                   │ failed              │ ended soon
//!   └── rested ────── down <──────────────────┘
//! ```

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use flumen_protocol::ids::BrokerId;
use flumen_transport::quinn::{Connection, VarInt};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    PeerError,
    calls::{Calls, calls},
    dial::{Dialed, Dialer},
};

/// The rest after the first attempt that failed. Each doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// The longest rest.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A connection that ends sooner counts as an attempt that failed.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// The way to one other broker.
pub(super) struct Link {
    to: BrokerId,
    address: Mutex<Address>,
    dialer: Arc<Dialer>,
    state: watch::Sender<State>,
    this: Weak<Link>,
}

/// Where the broker may be.
struct Address {
    /// By what the cluster knows.
    named: String,
    /// Where it was seen since; tried once.
    seen: Option<String>,
}

/// A connection that was dialed.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) connection: Connection,
    pub(super) calls: Calls,
}

struct State {
    phase: Phase,
    /// Attempts in a row that failed, and why the last one did.
    failures: u32,
    reason: String,
}

enum Phase {
    Idle,
    Dialing,
    Up(Outgoing),
    /// Not dialed again until then.
    Down(Instant),
    /// For good, with this code.
    Closed(u32),
}

impl Link {
    pub(super) fn new(to: BrokerId, address: String, dialer: Arc<Dialer>) -> Arc<Self> {
        let state = State {
            phase: Phase::Idle,
            failures: 0,
            reason: "it was not dialed yet".to_owned(),
        };
        Arc::new_cyclic(|this| Self {
            to,
            address: Mutex::new(Address {
                named: address,
                seen: None,
            }),
            dialer,
            state: watch::Sender::new(state),
            this: Weak::clone(this),
        })
    }

    /// Where the broker is from now on. A connection that stands is kept.
    pub(super) fn set_address(&self, address: &str) {
        let mut current = self.address.lock();
        if current.named == address {
            return;
        }
        *current = Address {
            named: address.to_owned(),
            seen: None,
        };
        drop(current);
        self.rest_no_longer();
    }

    /// Where the broker was seen, though the cluster knows it by another address.
    pub(super) fn seen_at(&self, address: &str) {
        self.address.lock().seen = Some(address.to_owned());
        self.rest_no_longer();
    }

    /// Where the broker is by what the cluster knows.
    pub(super) fn address(&self) -> String {
        self.address.lock().named.clone()
    }

    /// Whether there is a connection to the broker, and it is known to be at `address`.
    pub(super) fn is_up_at(&self, address: &str) -> bool {
        self.round_trip().is_some() && self.address.lock().named == address
    }

    fn rest_no_longer(&self) {
        self.state.send_if_modified(|state| {
            let is_down = matches!(state.phase, Phase::Down(_));
            if is_down {
                state.phase = Phase::Idle;
            }
            is_down
        });
    }

    /// The connection, dialed if there is none. After an attempt that failed nobody waits for the
    /// next one: it goes on by itself, and until it succeeds the broker is unreachable.
    pub(super) async fn outgoing(&self) -> Result<Outgoing, PeerError> {
        if let Phase::Up(outgoing) = &self.state.borrow().phase {
            return Ok(outgoing.clone());
        }
        self.dial_if_rested();
        let mut states = self.state.subscribe();
        let is_decided =
            |state: &State| state.failures > 0 || !matches!(state.phase, Phase::Dialing);
        let Ok(state) = states.wait_for(is_decided).await else {
            return Err(PeerError::unreachable(self.to, "the link is gone"));
        };
        match &state.phase {
            Phase::Up(outgoing) => Ok(outgoing.clone()),
            _ => Err(PeerError::unreachable(self.to, &*state.reason)),
        }
    }

    /// The time to the broker and back, if it is connected.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        match &self.state.borrow().phase {
            Phase::Up(outgoing) => Some(outgoing.connection.rtt()),
            _ => None,
        }
    }

    /// Closes the link for good.
    pub(super) fn close(&self, code: u32, reason: &str) {
        self.state.send_modify(|state| {
            if let Phase::Up(outgoing) = &state.phase {
                let code = VarInt::from_u32(code);
                outgoing.connection.close(code, reason.as_bytes());
            }
            state.phase = Phase::Closed(code);
            reason.clone_into(&mut state.reason);
        });
    }

    fn dial_if_rested(&self) {
        let is_due = self.state.send_if_modified(|state| {
            let is_due = match state.phase {
                Phase::Idle => true,
                Phase::Down(until) => until <= Instant::now(),
                Phase::Dialing | Phase::Up(_) | Phase::Closed(_) => false,
            };
            if is_due {
                state.phase = Phase::Dialing;
            }
            is_due
        });
        if is_due && let Some(link) = self.this.upgrade() {
            tokio::spawn(link.dial());
        }
    }

    async fn dial(self: Arc<Self>) {
        let address = {
            let mut address = self.address.lock();
            let seen = address.seen.take();
            seen.unwrap_or_else(|| address.named.clone())
        };
        match self.dialer.dial(self.to, &address).await {
            Ok(dialed) => self.run(dialed, &address).await,
            Err(reason) => self.failed(reason),
        }
    }

    /// Keeps the connection until it ends.
    async fn run(self: Arc<Self>, dialed: Dialed, address: &str) {
        let Dialed {
            connection,
            writer,
            reader,
        } = dialed;
        let (calls, driver) = calls(self.to, connection.clone());
        let outgoing = Outgoing {
            connection: connection.clone(),
            calls,
        };
        let is_wanted = self.state.send_if_modified(|state| {
            let is_wanted = matches!(state.phase, Phase::Dialing);
            if is_wanted {
                state.phase = Phase::Up(outgoing);
                state.failures = 0;
            }
            is_wanted
        });
        if !is_wanted {
            return self.tell_why_closed(&connection);
        }
        tracing::info!(broker = %self.to, address, "connected");
        let since = Instant::now();
        let reason = driver.run(writer, reader).await;
        if let Some(error) = connection.close_reason() {
            self.dialer.note_end(self.to, &error);
        }
        connection.close(VarInt::from_u32(0), b"the calls have ended");
        if since.elapsed() < SETTLED_AFTER {
            return self.failed(reason);
        }
        self.state.send_if_modified(|state| {
            let was_up = matches!(state.phase, Phase::Up(_));
            if was_up {
                tracing::warn!(broker = %self.to, reason, "the connection was lost");
                state.phase = Phase::Idle;
                state.reason = reason;
            }
            was_up
        });
    }

    /// Ends a connection that came to be while the link was closed.
    fn tell_why_closed(&self, connection: &Connection) {
        let state = self.state.borrow();
        let (code, reason) = match state.phase {
            Phase::Closed(code) => (code, &*state.reason),
            _ => (0, "not wanted any more"),
        };
        connection.close(VarInt::from_u32(code), reason.as_bytes());
    }

    fn failed(&self, reason: String) {
        self.state.send_if_modified(|state| {
            if matches!(state.phase, Phase::Closed(_)) {
                return false;
            }
            // Once is enough: attempts go on for as long as the broker is wanted.
            if state.failures == 0 || state.reason != reason {
                tracing::warn!(broker = %self.to, reason, "a broker cannot be reached");
            }
            state.phase = Phase::Down(Instant::now() + backoff(state.failures));
            state.failures += 1;
            state.reason = reason;
            true
        });
    }
}

/// The rest after as many failures before this one.
fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_doubles_up_to_a_second() {
        assert_eq!(backoff(0), Duration::from_millis(20));
        assert_eq!(backoff(3), Duration::from_millis(160));
        assert_eq!(backoff(6), BACKOFF_MAX);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
