//! Time and random numbers of a simulated thread: this program's own `clock_gettime`, `getrandom`
//! and `syscall` stand in front of those of the C library.
//!
//! Whatever asks for either in a simulation, at whatever depth, gets virtual time and numbers
//! that follow from the seed: the standard library (`Instant`, `SystemTime`, the keys of
//! `HashMap`), tokio (which branch of a `select!` is polled first), quinn, openraft, the broker
//! and the client. So no crate needs to hand a clock around, and none can be forgotten. Other
//! threads get the real thing. (The same idea: S2's mad-turmoil.)
//!
//! The cryptography of aws-lc asks more than the C library for random numbers. The processor's own
//! it leaves alone if told to ([`NO_RANDOM_INSTRUCTIONS`]), and the jitter of its clock if built so,
//! as `cargo xtask simulate` does. In other builds it decides the bytes of packets, but neither
//! their number nor their sizes, nor what becomes of them (`strays`).
#![allow(unsafe_code)]

use std::{
    cell::Cell,
    ffi::{c_int, c_long, c_uint, c_void},
    sync::atomic::{AtomicPtr, Ordering},
    time::Duration,
};

/// The monotonic clock at the beginning of a simulation: any time but 0.
const MONOTONIC_START: Duration = Duration::from_secs(1_000_000);

/// The wall clock at the beginning: 2026-06-01, 00:00 UTC.
const WALL_START: Duration = Duration::from_hours(494_520);

/// A variable of the environment by which aws-lc leaves RDRAND alone (bit 62), and what it is.
pub(crate) const NO_RANDOM_INSTRUCTIONS: (&str, &str) = ("OPENSSL_ia32cap", "~0x4000000000000000");

/// Waiting for a futex, until a time of the monotonic clock.
const WAIT_UNTIL: c_int = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;

/// The C library's `syscall`, as it is called here: it takes as many arguments as the system call.
type Syscall = unsafe extern "C" fn(c_long, usize, usize, usize, usize, usize, usize) -> c_long;

#[derive(Clone, Copy)]
struct Answers {
    now: Duration,
    skew_ms: i64,
    random: u64,
}

thread_local! {
    static ANSWERS: Cell<Option<Answers>> = const { Cell::new(None) };
    /// Until when the thread would sleep, if it was about to.
    static ASLEEP_UNTIL: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Simulates time and chance in this thread from now on. To be called before the thread does
/// anything else: a `HashMap` takes its keys from a source that is filled once.
pub(crate) fn enter(seed: u64) {
    ANSWERS.set(Some(Answers {
        now: Duration::ZERO,
        skew_ms: 0,
        random: seed,
    }));
}

/// The virtual time since the beginning.
pub(crate) fn now() -> Duration {
    ANSWERS.get().map_or(Duration::ZERO, |answers| answers.now)
}

/// Sets the virtual time.
pub(crate) fn set_now(now: Duration) {
    change(|answers| answers.now = now);
}

/// Sets how far the wall clock is off: that of the host whose turn it is.
pub(crate) fn set_skew_ms(skew_ms: i64) {
    change(|answers| answers.skew_ms = skew_ms);
}

/// Whether the thread was about to sleep since this was taken last.
pub(crate) fn is_asleep() -> bool {
    ASLEEP_UNTIL.get().is_some()
}

/// Until when the thread would sleep by now, if it was about to since this was taken last.
pub(crate) fn take_asleep_until() -> Option<Duration> {
    ASLEEP_UNTIL.take()
}

fn change(how: impl FnOnce(&mut Answers)) {
    if let Some(mut answers) = ANSWERS.get() {
        how(&mut answers);
        ANSWERS.set(Some(answers));
    }
}

/// The CPU time that processes took which this one has started, and waited for.
pub(crate) fn cpu_time_of_children() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills in a `rusage`, for which all zeros are valid too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// The one of the C library.
fn real_syscall() -> Syscall {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let mut real = REAL.load(Ordering::Relaxed);
    if real.is_null() {
        // SAFETY: the name is a string of C.
        real = unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) };
        assert!(!real.is_null(), "the C library has a `syscall`");
        REAL.store(real, Ordering::Relaxed);
    }
    // SAFETY: that is a function of this kind. It takes as many arguments as it is given, all of
    // them of the size of a word, which are passed as those of any other function.
    unsafe { std::mem::transmute::<*mut c_void, Syscall>(real) }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Replaces that of the C library.
///
/// # Safety
/// As there: `time` points to a `timespec`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let answers = ANSWERS.try_with(Cell::get).ok().flatten();
    let Some(answers) = answers else {
        // SAFETY: the system call has the same arguments and the same contract.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    };
    let shown = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            let skew = Duration::from_millis(answers.skew_ms.unsigned_abs());
            let right = WALL_START + answers.now;
            if answers.skew_ms < 0 {
                right.saturating_sub(skew)
            } else {
                right + skew
            }
        }
        _ => MONOTONIC_START + answers.now,
    };
    // SAFETY: the caller gives a pointer to a `timespec`, as the contract says.
    unsafe {
        (*time).tv_sec = shown.as_secs() as libc::time_t;
        (*time).tv_nsec = shown.subsec_nanos().into();
    }
    0
}

/// Replaces that of the C library.
///
/// # Safety
/// As there: `buffer` points to `len` bytes that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, len: usize, flags: c_uint) -> isize {
    let answers = ANSWERS.try_with(Cell::get).ok().flatten();
    let Some(mut answers) = answers else {
        // SAFETY: the system call has the same arguments and the same contract.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) } as isize;
    };
    let mut filled = 0;
    while filled < len {
        let bytes = next_random(&mut answers.random).to_ne_bytes();
        let count = bytes.len().min(len - filled);
        // SAFETY: `filled + count` is at most `len`, and the caller gives `len` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast::<u8>().add(filled), count);
        }
        filled += count;
    }
    ANSWERS.set(Some(answers));
    len as isize
}

/// Replaces that of the C library, by which the standard library has a thread wait, and aws-lc gets
/// random numbers. A thread that is simulated never waits for a time: what could end the wait comes
/// from itself. It is told that the time is over, and [`take_asleep_until`] tells which time.
///
/// # Safety
/// As there: the arguments are those of the system call.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    one: usize,
    two: usize,
    three: usize,
    four: usize,
    five: usize,
    six: usize,
) -> c_long {
    let is_simulated = ANSWERS.try_with(Cell::get).ok().flatten().is_some();
    let waits = number == libc::SYS_futex && two as c_int == WAIT_UNTIL && four != 0;
    if is_simulated && waits {
        // SAFETY: the fourth argument of this call is a `timespec`, or null.
        let until = unsafe { *(four as *const libc::timespec) };
        let until = Duration::new(until.tv_sec as u64, until.tv_nsec as u32);
        ASLEEP_UNTIL.set(Some(until.saturating_sub(MONOTONIC_START)));
        // SAFETY: the C library gives each thread such a place.
        unsafe { *libc::__errno_location() = libc::ETIMEDOUT };
        return -1;
    }
    if is_simulated && number == libc::SYS_getrandom {
        // SAFETY: the arguments of this call are those of the function.
        return unsafe { getrandom(one as *mut c_void, two, three as c_uint) } as c_long;
    }
    // SAFETY: the arguments are those of our caller.
    unsafe { real_syscall()(number, one, two, three, four, five, six) }
}
