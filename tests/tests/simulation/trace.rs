//! What happened, in order: as a hash, to compare runs, and as lines, to read.

use std::{
    fmt::Write as _,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::system;

/// Lines that are kept; the oldest go first.
const LINES_MAX: usize = 4_000;

/// FNV-1a, whose result depends on nothing but what was added.
#[derive(Clone, Copy)]
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

struct State {
    hash: Fnv,
    events: u64,
    lines: std::collections::VecDeque<String>,
}

/// The trace of a run. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<State>>);

impl Trace {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            hash: Fnv(0xcbf2_9ce4_8422_2325),
            events: 0,
            lines: std::collections::VecDeque::new(),
        })))
    }

    /// Adds an event that nobody reads.
    pub(crate) fn add(&self, event: impl Hash) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        system::now().hash(&mut state.hash);
        event.hash(&mut state.hash);
        state.events += 1;
    }

    /// Adds an event with a line for the reader.
    pub(crate) fn say(&self, line: impl Into<String>) {
        let line = line.into();
        self.add(&line);
        tracing::info!(target: "simulation", "{line}");
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{} {line}", Seconds(system::now()));
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lines.len() == LINES_MAX {
            state.lines.pop_front();
        }
        state.lines.push_back(text);
    }

    /// The hash so far, and of how many events.
    pub(crate) fn hash(&self) -> (u64, u64) {
        use std::hash::Hasher;
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.hash.finish(), state.events)
    }

    /// The lines that are kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.lines.iter().cloned().collect()
    }
}

struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:4}.{:03}", self.0.as_secs(), self.0.subsec_millis())
    }
}
