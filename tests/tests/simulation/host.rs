//! A simulated machine: a runtime of its own, on virtual time.
//!
//! That each host has its own runtime is what makes a kill complete: all tasks go with it, wherever
//! they were spawned.
//!
//! A runtime takes its turn until it would sleep. How long it would, `system` learns, and until
//! then it gets no turn, unless something else woke one of its tasks: in most steps of time, most
//! hosts have nothing to do.

use std::{future::poll_fn, net::IpAddr, sync::Arc, task::Poll, time::Duration};

use flumen_broker::executor::simulation::{self, Latencies};
use futures_util::task::AtomicWaker;
use tokio::runtime::{Builder, Runtime, RuntimeMetrics};

use crate::system;

/// One step of virtual time: that of tokio's timers.
pub(crate) const STEP: Duration = Duration::from_millis(1);

/// How long a runtime sleeps at most. One without any timer would sleep without an end, and not
/// say so.
const SLEEP_MAX: Duration = Duration::from_hours(1);

/// A machine. One that is down has no runtime.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// How far its wall clock is off.
    pub(crate) skew_ms: i64,
    /// How slow it is.
    pub(crate) latencies: Latencies,
    running: Option<Running>,
}

/// What runs on a machine that is on.
struct Running {
    runtime: Runtime,
    metrics: RuntimeMetrics,
    /// Woken when the runtime has nothing to do any more.
    turn: Arc<AtomicWaker>,
    asleep_until: Duration,
}

impl Running {
    fn new() -> Self {
        let turn = Arc::new(AtomicWaker::new());
        let ends = Arc::clone(&turn);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .on_thread_unpark(move || {
                if system::is_asleep() {
                    ends.wake();
                }
            })
            .build()
            .expect("a runtime without I/O needs nothing of the system");
        runtime.spawn(async {
            loop {
                tokio::time::sleep(SLEEP_MAX).await;
            }
        });
        Self {
            metrics: runtime.metrics(),
            runtime,
            turn,
            asleep_until: system::now(),
        }
    }

    /// Whether there is something to do: a timer is due, or a task was woken from outside.
    fn is_awake(&self) -> bool {
        self.asleep_until <= system::now() || self.metrics.global_queue_depth() > 0
    }

    /// Does all that there is to do now.
    fn take_turn(&mut self) {
        system::take_asleep_until();
        self.asleep_until = self.runtime.block_on(poll_fn(|context| {
            if let Some(until) = system::take_asleep_until() {
                return Poll::Ready(until);
            }
            self.turn.register(context.waker());
            Poll::Pending
        }));
    }
}

impl Host {
    /// A machine that is off.
    pub(crate) fn new(name: impl Into<String>, address: IpAddr) -> Self {
        Self {
            name: name.into(),
            address,
            skew_ms: 0,
            latencies: Latencies::default(),
            running: None,
        }
    }

    /// Whether it is on.
    pub(crate) fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// Has a task run on it, and turns it on for that if it is off.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let running = self.running.get_or_insert_with(Running::new);
        running.runtime.spawn(task);
    }

    /// Runs it through this step of time.
    pub(crate) fn step(&mut self) {
        if let Some(running) = &mut self.running
            && running.is_awake()
        {
            enter(self.skew_ms, &self.latencies);
            running.take_turn();
        }
    }

    /// Ends all that runs on it, at once.
    pub(crate) fn turn_off(&mut self) {
        enter(self.skew_ms, &self.latencies);
        drop(self.running.take());
    }
}

/// What the thread does now is simulated, on a machine like this.
fn enter(skew_ms: i64, latencies: &Latencies) {
    system::set_skew_ms(skew_ms);
    simulation::enter(latencies.clone());
}

mod tests {
    use std::{
        sync::{Mutex, PoisonError},
        thread,
    };

    use tokio::{sync::Notify, time::sleep};

    use super::*;

    /// Does something in a thread that is simulated.
    fn simulated(work: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let work = || {
                system::enter(7);
                work();
            };
            scope.spawn(work).join().unwrap();
        });
    }

    /// A host, and the times that its task notes.
    fn host_with<F>(task: impl FnOnce(Times) -> F) -> (Host, Times)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut host, times) = (Host::new("host", [10, 0, 0, 1].into()), Times::default());
        host.spawn(task(times.clone()));
        (host, times)
    }

    #[derive(Clone, Default)]
    struct Times(Arc<Mutex<Vec<u128>>>);

    impl Times {
        fn note(&self) {
            let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            times.push(system::now().as_millis());
        }

        fn all(&self) -> Vec<u128> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        }
    }

    /// Goes through so many steps of time, and counts those in which the host has something to do.
    fn go(host: &mut Host, steps: u32) -> u32 {
        let mut turns = 0;
        for _ in 0..steps {
            system::set_now(system::now() + STEP);
            turns += u32::from(host.running.as_ref().is_some_and(Running::is_awake));
            host.step();
        }
        turns
    }

    #[test]
    fn timers_are_on_time_and_a_host_takes_no_turn_in_between() {
        simulated(|| {
            let (mut host, times) = host_with(|times| async move {
                for ms in [30, 1, 400, 0] {
                    sleep(Duration::from_millis(ms)).await;
                    times.note();
                }
            });
            let turns = go(&mut host, 1_000);
            assert_eq!(times.all(), [31, 32, 432, 432]);
            // Tokio looks through far timers now and then.
            assert!(turns < 40, "{turns} turns");
        });
    }

    #[test]
    fn a_task_that_is_woken_from_outside_runs_in_the_next_step() {
        simulated(|| {
            let bell = Arc::new(Notify::new());
            let (mut host, times) = host_with(|times| {
                let bell = Arc::clone(&bell);
                async move {
                    loop {
                        bell.notified().await;
                        times.note();
                    }
                }
            });
            go(&mut host, 100);
            bell.notify_one();
            go(&mut host, 50);
            assert_eq!(times.all(), [101]);
        });
    }
}
