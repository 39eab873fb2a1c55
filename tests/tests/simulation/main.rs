//! Deterministic simulation: real brokers and real clients over real quinn, in one thread, on
//! virtual time, with everything that goes wrong drawn from one seed.
//!
//! ```text
//! run ── world ──> machine (broker, simulated disk) ──┐
//!  │      │        jobs (services with the client) ───┴── socket ── network (links)
//!  │      └─────── operator    brokers join, and are drained, removed and replaced
//!  ├── faults      what goes wrong, and when
//!  ├── checker     what clients did and saw, and whether that may be
//!  └── trace       what happened, as a hash and as lines
//! system           answers for the operating system: time and random numbers
//! ```
//!
//! Each machine has a tokio runtime of its own, with a paused clock, and they run one after the
//! other through the same millisecond. What one sends arrives in a later one, so the order in
//! which they run does not matter to what they can know. Each seed runs in a process of its own:
//! tokio numbers its runtimes, and what it draws depends on the number.
//!
//! `cargo xtask simulate --seeds N [--seed S]` runs as many as one likes, and `--shrink` looks for
//! the least with which one of them fails.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod checker;
mod clients;
mod faults;
mod fixed;
mod host;
mod jobs;
mod machine;
mod mutations;
mod network;
mod operator;
mod run;
mod seeds;
mod shrink;
mod socket;
mod strays;
mod system;
mod tls;
mod trace;
mod world;

use std::sync::{Mutex, PoisonError};

use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// A twentieth of a run is saved by it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The panics so far; a task that panics would otherwise just be gone.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Has nothing logged, at the least cost: while nobody says where logs go, `tracing` makes lines for
/// the crate `log` of each span and event, and asks that one then.
pub(crate) fn log_nothing() {
    tracing_subscriber::registry().with(LevelFilter::OFF).init();
}

/// Keeps what panics say.
pub(crate) fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        panics.push(info.to_string());
    }));
}

/// The panics so far.
pub(crate) fn panics() -> Vec<String> {
    std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner))
}
