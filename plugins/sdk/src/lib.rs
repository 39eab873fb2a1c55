//! Write Flumen plugins in Rust: functions over records that the broker runs, sandboxed, on
//! what producers send to a topic.
//!
//! A **filter** keeps or drops records. This is a whole one:
//!
//! ```
//! #[derive(serde::Deserialize)]
//! struct Config { prefix: String }
//!
//! #[flumen_plugin::filter]
//! fn keep(record: &flumen_plugin::Record, config: &Config) -> bool {
//!     record.key().is_some_and(|key| key.starts_with(config.prefix.as_bytes()))
//! }
//! ```
//!
//! A **transform** changes records, drops them, makes several of one, or sends them to other
//! topics:
//!
//! ```
//! use flumen_plugin::{Output, Record, transform};
//!
//! #[transform]
//! fn shout(record: &Record) -> Result<Output, std::str::Utf8Error> {
//!     let text = std::str::from_utf8(record.value().unwrap_or_default())?;
//!     Ok(Output::same().value(text.to_uppercase()))
//! }
//! ```
//!
//! # From the function to the broker
//! In `Cargo.toml`: `crate-type = ["cdylib"]` under `[lib]`, and this crate among the
//! dependencies. Then:
//!
//! ```text
//! rustup target add wasm32-wasip2
//! cargo build --release --target wasm32-wasip2
//! flumen plugin test target/wasm32-wasip2/release/NAME.wasm --config '{"prefix": "eu."}' \
//!     records.ndjson --key-json region
//! flumen plugin deploy NAME target/wasm32-wasip2/release/NAME.wasm
//! flumen plugin bind TOPIC NAME --config '{"prefix": "eu."}'
//! ```
//!
//! # The function
//! - Its first parameter is `&`[`Record`]. Its second, which may be left out, is a reference to
//!   any type that implements [`serde::Deserialize`]: the configuration, read once per
//!   instance from the binding's JSON (no configuration reads as `{}`). A configuration that
//!   does not fit refuses the binding. Work that is worth doing once, such as compiling an
//!   expression, belongs there, by `#[serde(try_from = "...")]`.
//! - A filter returns `bool`; a transform returns [`Output`], `Option<Output>` or
//!   `Vec<Output>`; both may wrap it in a `Result` whose error implements
//!   [`Display`](std::fmt::Display).
//! - An error is about this record alone. The binding's policy says what becomes of it:
//!   `reject` refuses the producer's batch with the error's words, `skip` passes the record on
//!   unchanged, `drop` drops it, `dead-letter` sends it to a topic with the words in a header.
//! - A panic ends the instance; its text reaches the broker's log and the error. It costs far
//!   more than an `Err`.
//! - Instances come and go and run side by side, so what the plugin remembers between records
//!   is a cache, never the truth.
//!
//! The function stays callable, so a unit test on the host calls it like any other:
//! `assert!(keep(&Record::new("{}").with_key("eu.1"), &config))`.
//!
//! # What else there is
//! [`error!`] to [`trace!`] write to the broker's log, [`count`] adds to a metric. Time and
//! random numbers work as everywhere in Rust; files, network, environment and arguments do not
//! exist.
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[doc(hidden)]
pub mod bindings;
mod columns;
#[doc(hidden)]
pub mod guest;
mod headers;
pub mod log;
mod metrics;
mod output;
mod record;

/// Makes a filter of a function: the component implements the world `filter`. See the
/// [crate's documentation](crate#the-function).
///
/// ```
/// use flumen_plugin::{Record, filter};
///
/// #[filter]
/// fn keep(record: &Record) -> Result<bool, serde_json::Error> {
///     #[derive(serde::Deserialize)]
///     struct Event { magnitude: f64 }
///     Ok(record.json::<Event>()?.magnitude >= 4.5)
/// }
///
/// assert!(keep(&Record::new(r#"{"magnitude": 5.1}"#)).unwrap());
/// ```
pub use flumen_plugin_macros::filter;
/// Makes a transform of a function: the component implements the world `transform`. See the
/// [crate's documentation](crate#the-function).
///
/// ```
/// use flumen_plugin::{Output, Record, transform};
///
/// /// Lines become records of their own; those about errors go to another topic.
/// #[transform]
/// fn split(record: &Record) -> Vec<Output> {
///     let lines = record.value().unwrap_or_default().split(|byte| *byte == b'\n');
///     lines
///         .map(|line| {
///             let output = Output::same().value(line);
///             if line.starts_with(b"ERROR") { output.topic("errors") } else { output }
///         })
///         .collect()
/// }
///
/// assert_eq!(split(&Record::new("one\nERROR two")).len(), 2);
/// ```
pub use flumen_plugin_macros::transform;

pub use crate::{
    headers::{Headers, HeadersIter, encode_headers},
    metrics::count,
    output::Output,
    record::Record,
};
