//! The developer's commands. Each task is a file under `tasks/`; all of them work on a machine
//! with nothing but stable Rust and a C compiler, install what else they need, and say so.
//!
//! | command | what it does |
//! | --- | --- |
//! | `cargo xtask check` | formatting, lints, documentation, licences and advisories |
//! | `cargo xtask test` | builds the guests and runs every test |
//! | `cargo xtask simulate` | brokers and clients on virtual time, from one seed each |
//! | `cargo xtask guests` | builds the plugins that are part of this repository |
//! | `cargo xtask demo` | real earthquakes through a real broker and two plugins |
//! | `cargo xtask fuzz` | fuzzes the decoders (needs a nightly compiler) |
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod shell;
mod tasks;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The developer's commands.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check formatting, lints, documentation, licences and advisories
    Check(tasks::check::Arguments),
    /// Build the guests and run every test
    Test(tasks::test::Arguments),
    /// Simulate brokers and clients deterministically, with everything going wrong
    Simulate(tasks::simulate::Arguments),
    /// Build the plugins of this repository as WebAssembly components
    Guests,
    /// Stream real earthquakes through a broker and two plugins, and check the counts
    Demo(tasks::demo::Arguments),
    /// Fuzz the decoders (needs a nightly compiler)
    Fuzz(tasks::fuzz::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Check(arguments) => tasks::check::run(&arguments),
        Task::Test(arguments) => tasks::test::run(&arguments),
        Task::Simulate(arguments) => tasks::simulate::run(&arguments),
        Task::Guests => tasks::guests::run(),
        Task::Demo(arguments) => tasks::demo::run(&arguments),
        Task::Fuzz(arguments) => tasks::fuzz::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
