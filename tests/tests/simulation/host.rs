//! A simulated machine: a runtime of its own, on virtual time.
//!
//! That each host has its own runtime is what makes a kill complete: all tasks go with it, wherever
//! they were spawned.

use std::{net::IpAddr, time::Duration};

use flumen_broker::executor::simulation::{self, Latencies};
use tokio::runtime::{Builder, Runtime};

use crate::system;

/// One step of virtual time: that of tokio's timers.
pub(crate) const STEP: Duration = Duration::from_millis(1);

/// A machine. One that is down has no runtime.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// How far its wall clock is off.
    pub(crate) skew_ms: i64,
    /// How slow it is.
    pub(crate) latencies: Latencies,
    runtime: Option<Runtime>,
}

impl Host {
    /// A machine that is off.
    pub(crate) fn new(name: impl Into<String>, address: IpAddr) -> Self {
        Self {
            name: name.into(),
            address,
            skew_ms: 0,
            latencies: Latencies::default(),
            runtime: None,
        }
    }

    /// Whether it is on.
    pub(crate) fn is_on(&self) -> bool {
        self.runtime.is_some()
    }

    /// Turns it on.
    pub(crate) fn turn_on(&mut self) {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        self.runtime = Some(runtime.expect("a runtime without I/O needs nothing of the system"));
    }

    /// Has a task run on it.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        if !self.is_on() {
            self.turn_on();
        }
        if let Some(runtime) = &self.runtime {
            runtime.spawn(task);
        }
    }

    /// Runs it until the next step of time.
    pub(crate) fn step(&self) {
        if let Some(runtime) = &self.runtime {
            self.take_turn();
            runtime.block_on(async { tokio::time::sleep(STEP).await });
        }
    }

    /// Ends all that runs on it, at once.
    pub(crate) fn turn_off(&mut self) {
        self.take_turn();
        drop(self.runtime.take());
    }

    fn take_turn(&self) {
        system::set_skew_ms(self.skew_ms);
        simulation::enter(self.latencies.clone());
    }
}
