//! Why a plugin is not taken, not bound, or has failed: an enum per operation, a variant per
//! limit.
use flumen_protocol::size::Size;

use super::engine::COMPILE_TIMEOUT;
use super::limits::{
    CALL_STACK_BYTES, INIT_TIMEOUT, MEMORY_BYTES_RANGE, OUTPUT_BYTES_MAX, PLUGIN_BYTES_MAX,
    STACK_BYTES_MAX, TABLE_ELEMENTS_MAX, TIMEOUT_MS_RANGE,
};

/// The engine could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The compiler or runtime does not work on this machine.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Runtime(String),
    /// The directory for compiled plugins cannot be used.
    #[error("cannot use {path} for compiled plugins: {source}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// No threads for plugins.
    #[error("cannot start the threads that run plugins: {0}")]
    Threads(std::io::Error),
}

/// A file is refused as a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeployError {
    /// Over the limit.
    #[error(
        "the plugin has {}, over the limit of {}: build it in release mode, with \
         `strip = true` and `lto = true` in its profile",
        Size::of(*bytes),
        Size::of(PLUGIN_BYTES_MAX)
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// No WebAssembly.
    #[error("the file is not WebAssembly: {0}")]
    NotWebAssembly(String),
    /// WebAssembly, but a core module.
    #[error(
        "the file is a core WebAssembly module, not a component: build the plugin with \
         `cargo build --release --target wasm32-wasip2`"
    )]
    CoreModule,
    /// A component that does not compile.
    #[error("the component cannot be compiled: {0}")]
    Invalid(String),
    /// None of the worlds.
    #[error(
        "the component implements neither world of flumen:plugin@{offered}: a filter exports \
         flumen:plugin/filtering@{offered}, a transform flumen:plugin/transforming@{offered}; \
         this one exports {found}"
    )]
    WrongWorld {
        /// What it exports.
        found: String,
        /// The version that the broker offers.
        offered: &'static str,
    },
    /// Both worlds.
    #[error("the component is both a filter and a transform: a plugin is one of them")]
    TwoWorlds,
    /// A version that the broker does not have.
    #[error(
        "the component is built against {found}, but this broker offers flumen:plugin@{offered}: \
         build it with the flumen-plugin that belongs to this broker"
    )]
    WrongVersion {
        /// What it exports or imports.
        found: String,
        /// The version that the broker offers.
        offered: &'static str,
    },
    /// Imports beyond what a plugin gets.
    #[error(
        "the component imports what plugins are not given: {}; there are clocks, random numbers, \
         standard output and error, and flumen:plugin/host",
        .0.join(", ")
    )]
    ImportsNotOffered(Vec<String>),
    /// The right names with other types.
    #[error("the component's functions have other types than its world says: {0}")]
    WrongTypes(String),
    /// It cannot even start.
    #[error("the component cannot be started: {0}")]
    Start(CallError),
    /// It takes too long to compile.
    #[error(
        "the component does not compile within {COMPILE_TIMEOUT:?}, which takes milliseconds as a \
         rule: is there a function of unusual size or depth in it?"
    )]
    TooSlow,
    /// Others are being compiled.
    #[error("the broker is compiling other plugins; try again when it is done with one of them")]
    Busy,
    /// The broker has failed, not the plugin.
    #[error("the plugin could not be examined, through no fault of its own: {0}")]
    Internal(String),
}

/// A plugin could not be bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Out of range.
    #[error(
        "a time-out of {0} ms is out of range: use {min} to {max} ms",
        min = TIMEOUT_MS_RANGE.start(),
        max = TIMEOUT_MS_RANGE.end()
    )]
    Timeout(u32),
    /// Out of range.
    #[error(
        "a memory of {} is out of range: use {} to {}",
        Size(*.0),
        Size(*MEMORY_BYTES_RANGE.start()),
        Size(*MEMORY_BYTES_RANGE.end())
    )]
    Memory(u64),
    /// The plugin does not take its configuration.
    #[error("plugin {plugin} refuses its configuration: {text}")]
    Config {
        /// The plugin's name.
        plugin: String,
        /// Its own words.
        text: String,
    },
    /// Its first instance did not start.
    #[error("plugin {plugin} does not start: {error}")]
    Start {
        /// The plugin's name.
        plugin: String,
        /// Why.
        error: CallError,
    },
}

/// A call into a plugin has failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Over its deadline.
    #[error("it ran longer than its time-out of {timeout_ms} ms")]
    Timeout {
        /// The binding's setting.
        timeout_ms: u32,
    },
    /// Over the deadline of its start.
    #[error("its start took longer than {} ms", INIT_TIMEOUT.as_millis())]
    InitTimeout,
    /// Over its memory.
    #[error("it asked for more than its {} of memory", Size(*bytes_max))]
    Memory {
        /// The binding's setting.
        bytes_max: u64,
    },
    /// Over the table limit.
    #[error("it asked for tables of more than {TABLE_ELEMENTS_MAX} elements")]
    Tables,
    /// Over the stack limit.
    #[error(
        "it used more than {} of stack, {} with the host's: does it recurse without end?",
        Size::of(STACK_BYTES_MAX),
        Size::of(CALL_STACK_BYTES)
    )]
    Stack,
    /// Over the output limit.
    #[error("it returned more than {}", Size::of(OUTPUT_BYTES_MAX))]
    Output,
    /// It panicked, or reported its last words otherwise.
    #[error("{message}")]
    LastWords {
        /// The text.
        message: String,
        /// Which record of the call it named.
        index: Option<u32>,
    },
    /// Its functions are not those of its world.
    #[error("its functions have other types than its world says: {0}")]
    Types(String),
    /// It trapped without a word.
    #[error("it trapped: {0}")]
    Trap(String),
    /// It returned an error for the whole call.
    #[error("{0}")]
    Plugin(String),
    /// What it returned does not fit.
    #[error("it returned what does not fit: {0}")]
    Misfit(String),
}

impl CallError {
    /// Whether the plugin answered in good order, so that the instance can be used again and
    /// a repetition would not help.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Plugin(_))
    }

    /// The record that the plugin blamed.
    pub(super) fn blamed(&self) -> Option<usize> {
        match self {
            Self::LastWords { index, .. } => index.map(|index| index as usize),
            _ => None,
        }
    }
}
