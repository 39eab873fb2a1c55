//! openraft's runtime: tokio, with the clocks of all Raft groups in step.
//!
//! Each group would look at its clock every [`PERIOD`], at a random phase of its own. On an idle
//! broker that is nearly all there is to do. A part of what it costs is being woken for it: the
//! processor comes out of its sleep, a thread is scheduled, the heartbeats of one group leave in
//! packets of their own. So the ticks of all groups are moved to common moments: one wake-up
//! serves them all, and their heartbeats to another broker share a packet. The other part is the
//! look itself, after which openraft goes through all that the group might have to do. So the
//! common moments are two periods apart, and every second look is left out. Heartbeats, which are
//! due a moment after the fifth period, leave with the sixth then, as most did before; a follower
//! stands for election half a period later in the mean.

use std::{sync::OnceLock, time::Duration};

use openraft::{AsyncRuntime, Instant as _, impls::TokioRuntime};

use super::group::ANSWER_MIN;

type Instant = <TokioRuntime as AsyncRuntime>::Instant;

/// How often openraft would look at the clock of a group, by the heartbeat interval that it is
/// given.
const PERIOD: Duration = Duration::from_millis(super::group::HEARTBEAT_MS * 13 / 64);

/// How far the moments that the groups share are apart.
pub(super) const TICK: Duration = PERIOD.saturating_mul(2);

/// A tick that is due this little after a shared moment comes at that moment. Otherwise one that
/// is due right behind it would be passed over each time the thread is woken late.
const EARLY_MAX: Duration = Duration::from_millis(4);

/// Waits that are not for a tick, and are over at once: openraft gathers completions so long.
const SHORT_MAX: Duration = Duration::from_micros(100);

/// The runtime that openraft runs on.
#[derive(Debug)]
pub(crate) struct InStep(TokioRuntime);

/// When the tick that is due at `deadline` comes instead: at a multiple of [`TICK`] since
/// `origin`, after `now`.
fn aligned(deadline: Instant, now: Instant, origin: Instant) -> Instant {
    if deadline.saturating_duration_since(now) < SHORT_MAX {
        return deadline;
    }
    let due = deadline.saturating_duration_since(origin + EARLY_MAX);
    let past = now.saturating_duration_since(origin);
    let tick = TICK.as_nanos();
    let lines = due
        .as_nanos()
        .div_ceil(tick)
        .max(past.as_nanos() / tick + 1);
    origin + TICK * u32::try_from(lines).unwrap_or(u32::MAX)
}

/// A moment that all groups of this process share.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

impl AsyncRuntime for InStep {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(aligned(deadline, Instant::now(), origin()))
    }

    /// What openraft bounds so are answers of other replicas. For those to heartbeats it takes the
    /// interval of heartbeats, which is too little for brokers that are further apart.
    fn timeout<R, F: Future<Output = R> + Send>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration.max(ANSWER_MIN), future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(origin: Instant, micros: u64) -> Instant {
        origin + Duration::from_micros(micros)
    }

    /// The ticks of a group with such a phase, each as openraft makes it: due at the next whole
    /// period after the moment at which the last one was seen to.
    fn ticks(origin: Instant, phase: Duration, late: Duration) -> Vec<Duration> {
        let mut now = origin;
        let mut due = origin + phase;
        let mut ticks = Vec::new();
        for _ in 0..20 {
            let at = aligned(due, now, origin);
            now = at.max(now) + late;
            ticks.push(at - origin);
            let since_phase = now.saturating_duration_since(origin + phase);
            let periods = since_phase.as_micros() / PERIOD.as_micros() + 1;
            due = origin + phase + PERIOD * periods as u32;
        }
        ticks
    }

    #[test]
    fn groups_of_any_phase_tick_at_the_same_moments_and_leave_none_out() {
        let origin = Instant::now();
        let period = PERIOD.as_micros() as u64;
        for phase in (period..2 * period).step_by(173) {
            for late in [0, 10, 900, 3_000] {
                let phase = Duration::from_micros(phase);
                let late = Duration::from_micros(late);
                let ticks = ticks(origin, phase, late);
                assert!(ticks[0] + EARLY_MAX >= phase && ticks[0] < phase + TICK);
                let (shared, own): (Vec<Duration>, Vec<Duration>) = ticks
                    .into_iter()
                    .partition(|at| at.as_nanos().is_multiple_of(TICK.as_nanos()));
                for pair in shared.windows(2) {
                    assert_eq!(pair[1], pair[0] + TICK, "{phase:?}, {late:?}");
                }
                for at in own {
                    assert!(
                        at.as_nanos() % TICK.as_nanos() <= SHORT_MAX.as_nanos(),
                        "{at:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_wait_that_is_no_tick_is_as_long_as_it_was_asked_for() {
        let origin = Instant::now();
        for now in [0, 5, 19_999, 123_456] {
            let now = after(origin, now);
            let soon = now + Duration::from_micros(1);
            assert_eq!(aligned(soon, now, origin), soon);
        }
    }
}
