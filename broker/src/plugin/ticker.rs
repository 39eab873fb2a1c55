//! The clock of running plugins: a thread that moves wasmtime's epoch on while calls run, and
//! sleeps when none do. At each tick a running plugin looks at its deadline.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::limits::{TICK, TICKER_LINGER_TICKS};

/// Ticks while there are [`Running`] guards.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    stopped: AtomicBool,
}

/// Says that a call runs.
pub(super) struct Running<'a>(&'a Shared);

impl Ticker {
    /// One that never ticks, for where no plugin runs.
    pub(super) fn standing() -> Self {
        Self {
            shared: Arc::default(),
            thread: None,
        }
    }

    /// Starts the thread. `tick` must be cheap.
    pub(super) fn start(tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let shared: Arc<Shared> = Arc::default();
        let thread = thread::Builder::new()
            .name("plugin-ticker".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(&tick)
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Keeps the clock going until the guard is dropped.
    pub(super) fn running(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        // Either the thread sees the new count before it sleeps, or it is seen asleep here.
        if self.shared.asleep.load(Ordering::SeqCst)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        Running(&self.shared)
    }
}

impl Shared {
    fn run(&self, tick: &impl Fn()) {
        let mut idle_ticks = 0;
        while !self.stopped.load(Ordering::SeqCst) {
            if self.running.load(Ordering::SeqCst) > 0 {
                idle_ticks = 0;
            } else if idle_ticks < TICKER_LINGER_TICKS {
                idle_ticks += 1;
            } else {
                self.asleep.store(true, Ordering::SeqCst);
                if self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst)
                {
                    thread::park();
                }
                self.asleep.store(false, Ordering::SeqCst);
                idle_ticks = 0;
            }
            thread::sleep(TICK);
            tick();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It only panics if the tick does, and then there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicU64,
        time::{Duration, Instant},
    };

    use super::*;

    fn ticking() -> (Ticker, Arc<AtomicU64>) {
        let ticks = Arc::new(AtomicU64::new(0));
        let ticker = Ticker::start({
            let ticks = Arc::clone(&ticks);
            move || {
                ticks.fetch_add(1, Ordering::SeqCst);
            }
        });
        (ticker.unwrap(), ticks)
    }

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn it_ticks_while_a_call_runs_and_sleeps_when_none_does() {
        let (ticker, ticks) = ticking();
        for _ in 0..3 {
            let running = ticker.running();
            let before = ticks.load(Ordering::SeqCst);
            wait_until("ticks come", || ticks.load(Ordering::SeqCst) > before + 5);
            drop(running);
            wait_until("it falls asleep", || {
                ticker.shared.asleep.load(Ordering::SeqCst)
            });
        }
    }

    #[test]
    fn dropping_it_ends_the_thread_awake_or_asleep() {
        let (ticker, _) = ticking();
        drop(ticker);
        let (ticker, _) = ticking();
        wait_until("it falls asleep", || {
            ticker.shared.asleep.load(Ordering::SeqCst)
        });
        drop(ticker);
    }
}
