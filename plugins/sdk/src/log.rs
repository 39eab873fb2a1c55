//! Lines for the broker's log. Outside of WebAssembly, in a plugin's own tests, they go to
//! standard error.
use std::fmt::Arguments;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// What an operator may want to know.
    Info,
    /// What the plugin's author may want to know.
    Debug,
    /// Every detail.
    Trace,
}

/// Writes a line; the macros [`error!`](crate::error), [`warn!`](crate::warn),
/// [`info!`](crate::info), [`debug!`](crate::debug) and [`trace!`](crate::trace) call it. A
/// line is cut after 1,024 bytes, and a call may write 32 of them.
#[cfg(target_family = "wasm")]
pub fn write(level: Level, message: Arguments<'_>) {
    use crate::bindings::host;
    let level = match level {
        Level::Error => host::Level::Error,
        Level::Warn => host::Level::Warn,
        Level::Info => host::Level::Info,
        Level::Debug => host::Level::Debug,
        Level::Trace => host::Level::Trace,
    };
    host::log(level, &message.to_string());
}

/// Writes a line; the macros [`error!`](crate::error), [`warn!`](crate::warn),
/// [`info!`](crate::info), [`debug!`](crate::debug) and [`trace!`](crate::trace) call it. A
/// line is cut after 1,024 bytes, and a call may write 32 of them.
#[cfg(not(target_family = "wasm"))]
#[expect(clippy::print_stderr, reason = "there is no broker to log to")]
pub fn write(level: Level, message: Arguments<'_>) {
    eprintln!("{level:?}: {message}");
}

/// Logs that something failed, with the arguments of [`format!`].
#[macro_export]
macro_rules! error {
    ($($argument:tt)+) => {
        $crate::log::write($crate::log::Level::Error, ::core::format_args!($($argument)+))
    };
}

/// Logs that something is odd, with the arguments of [`format!`].
#[macro_export]
macro_rules! warn {
    ($($argument:tt)+) => {
        $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($argument)+))
    };
}

/// Logs what an operator may want to know, with the arguments of [`format!`].
#[macro_export]
macro_rules! info {
    ($($argument:tt)+) => {
        $crate::log::write($crate::log::Level::Info, ::core::format_args!($($argument)+))
    };
}

/// Logs what the plugin's author may want to know, with the arguments of [`format!`].
#[macro_export]
macro_rules! debug {
    ($($argument:tt)+) => {
        $crate::log::write($crate::log::Level::Debug, ::core::format_args!($($argument)+))
    };
}

/// Logs a detail, with the arguments of [`format!`].
#[macro_export]
macro_rules! trace {
    ($($argument:tt)+) => {
        $crate::log::write($crate::log::Level::Trace, ::core::format_args!($($argument)+))
    };
}
