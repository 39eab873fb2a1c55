//! Plugins: WebAssembly components that filter and transform what producers send.
//!
//! ```text
//! bytes --load--> Plugin --bind--> Binding --\
//!                                  Binding ---> Hook --run--> HookOutcome
//! ```
//!
//! A plugin is examined and compiled once ([`PluginEngine::load`]), bound to topics with a
//! configuration ([`PluginEngine::bind`]), and the bindings of a topic make a [`Hook`], which
//! batches go through. Columns go in and come out; no record is ever handled on its own at the
//! boundary, so a filter costs a few nanoseconds a record.
//!
//! What a plugin does wrong stays with it. It runs in an instance of its own, under limits of
//! time, memory, stack and output ([`limits`]), with nothing of the host in reach, and is
//! thrown away after a trap. The policy of its binding says what becomes of the records; the
//! records at fault are searched for by smaller calls, so that the others get their answer.
//! A binding that keeps failing is left alone for a while, and the topic goes on as its policy
//! says.
//!
//! Calls begin on the thread that asks: most end within microseconds, in less than it takes to
//! wake up another. One that has not ended by the next tick (a millisecond) gives up its
//! thread, and goes on on the plugin threads. No network thread is ever held for longer.
//!
//! | module | what it does |
//! | --- | --- |
//! | `wit` | the interface, generated from the folder `wit/` |
//! | `limits`, `error` | every limit and every error by name |
//! | `host` | what stands behind an instance: limits, clocks, log, counters |
//! | `ticker` | ends calls that run too long |
//! | `instance` | one instance, called under a deadline |
//! | `cache` | compiled code on disk |
//! | `inspect` | refuses what is no plugin, in words that help |
//! | `engine` | compiles and shares plugins, owns their threads |
//! | `window`, `returned` | batches into calls, and answers checked |
//! | `breaker` | when a failing binding is left alone |
//! | `binding` | a plugin on a topic: its instances, the search for bad records |
//! | `apply` | answers into batches, by the error policy |
//! | `hook` | the bindings of a topic in order |
//! | `sketch` | answers out of any bytes, for the fuzz target |
//! | `try_out` | a plugin over records on its author's machine |

mod apply;
mod binding;
mod breaker;
mod cache;
mod engine;
mod error;
mod hook;
mod host;
mod inspect;
mod instance;
pub mod limits;
mod returned;
mod sketch;
mod ticker;
mod try_out;
mod window;
mod wit;

#[cfg(test)]
mod tests;

pub(crate) use self::sketch::answer_for_fuzzing;
pub use self::{
    apply::{HEADER_ERROR, HEADER_PLUGIN, HEADER_TOPIC},
    binding::{Binding, BindingReport},
    engine::{Plugin, PluginEngine},
    error::{BindError, CallError, DeployError, EngineError},
    hook::{Hook, HookBatch, HookOutcome, Rejection},
    try_out::{TrialRecord, TryOutError, TryOutReport, try_out},
};
