//! Every limit of the plugin engine, by name. Those of a single binding (time-out, memory) are
//! settings of it, within the ranges here.
use std::{ops::RangeInclusive, time::Duration};

/// Bytes of a component that may be deployed.
pub use flumen_protocol::limits::PLUGIN_BYTES_MAX;

/// Milliseconds that a binding may give a call.
pub const TIMEOUT_MS_RANGE: RangeInclusive<u32> = 1..=60_000;

/// Bytes of memory that a binding may give an instance.
pub const MEMORY_BYTES_RANGE: RangeInclusive<u64> = 64 * 1024..=1024 * 1024 * 1024;

/// How long the start of an instance may take: its own start-up code and `init`.
pub const INIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of records that go into one call; a single larger record still goes alone. Small
/// enough for the second-level cache and for the default memory of an instance.
pub const CALL_BYTES_MAX: usize = 1024 * 1024;

/// Bytes that one call, or one call from the plugin into the host, may hand over.
pub const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of stack that a plugin's code may use.
pub const STACK_BYTES_MAX: usize = 512 * 1024;

/// Bytes of stack of a call in all: the plugin's, and that of host functions it calls.
pub const CALL_STACK_BYTES: usize = STACK_BYTES_MAX + 512 * 1024;

/// Core instances in one instance of a component.
pub const CORE_INSTANCES_MAX: usize = 64;

/// Memories in one instance of a component; together they share the binding's limit.
pub const MEMORIES_MAX: usize = 4;

/// Tables in one instance of a component.
pub const TABLES_MAX: usize = 64;

/// Elements in all tables of one instance.
pub const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Things of the host, such as streams and timers, that an instance may hold at once.
pub const HOST_RESOURCES_MAX: usize = 256;

/// Random bytes that a plugin may ask for at once.
pub const RANDOM_BYTES_MAX: u64 = 64 * 1024;

/// Instances of one binding, and so the calls that it serves at once.
pub const INSTANCES_PER_BINDING_MAX: usize = 8;

/// How often time-outs are looked at, and how long a call may hold a network thread before it
/// moves to the plugin threads.
pub const TICK: Duration = Duration::from_millis(1);

/// How long the ticker goes on after the last call before it sleeps.
pub const TICKER_LINGER_TICKS: u32 = 100;

/// Calls that the search for the records at fault in one failed call may take.
pub const ISOLATION_CALLS_MAX: u32 = 256;

/// How long that search may take, in time-outs of the binding.
pub const ISOLATION_TIMEOUTS_MAX: u32 = 4;

/// Batches in a row that may fail as a whole before a binding is suspended.
pub const FAILURES_IN_A_ROW_MAX: u32 = 10;

/// How long a binding is suspended for the first time; it doubles with every failure after.
pub const BACK_OFF_MIN: Duration = Duration::from_secs(1);

/// How long a binding is suspended at most.
pub const BACK_OFF_MAX: Duration = Duration::from_mins(1);

/// Bytes of a line that a plugin logs, of its last words, and of the text of a failure.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Lines that a plugin may log in one call.
pub const LOG_LINES_PER_CALL_MAX: u32 = 32;

/// Bytes that a plugin may write to standard output and error in one call.
pub const CONSOLE_BYTES_PER_CALL_MAX: usize = 4 * 1024;

/// Counters that a binding may have.
pub const COUNTERS_PER_BINDING_MAX: usize = 64;

/// Characters of a counter's name.
pub const COUNTER_NAME_CHARS_MAX: usize = 64;

/// Cuts a text at [`TEXT_BYTES_MAX`].
pub(super) fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}
