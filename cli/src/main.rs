//! The Flumen message queue: broker, client commands and benchmarks in one binary.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `arguments` | the command line as a whole |
//! | `broker_names` | brokers by their addresses, beside their ids |
//! | `commands` | one file for each verb or noun |
//! | `bench` | the benchmarks |
//! | `complete` | names that a shell completes |
//! | `confirm` | asking before something is destroyed |
//! | `connect` | from flags and profiles to a connected client |
//! | `hint` | names that somebody may have meant |
//! | `number` | numbers and lengths of time in flags |
//! | `settings` | every setting of a broker as a flag and a variable |
//! | `output` | results as text or JSON; data to stdout, talk to stderr |
//! | `variables` | `FLUMEN_…` variables that nothing reads |
//! | `view` | what JSON says of things |
//! | `logging` | tracing, as text or JSON |
//! | `failure` | errors and exit codes |
//! | `stop` | Ctrl-C and SIGTERM |
//! | `systemd` | telling systemd that a broker serves |
//! | `waiting` | why a command waits |
#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arguments;
mod bench;
mod broker_names;
mod commands;
mod complete;
mod confirm;
mod connect;
mod failure;
mod hint;
mod logging;
mod number;
mod output;
mod settings;
mod stop;
mod systemd;
mod variables;
mod view;
mod waiting;

use std::{env, process::ExitCode};

use crate::arguments::Arguments;

/// Batches are large and short-lived, on many threads; this allocator is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut line = env::args_os().skip(1).peekable();
    if line.next_if(|word| word == complete::COMMAND).is_some() {
        complete::answer(line);
        return ExitCode::SUCCESS;
    }
    // Usage errors end here, with exit code 2.
    let arguments = Arguments::read();
    failure::exit_code(commands::run(arguments))
}
