//! One file for each verb or noun.

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod consume;
pub(crate) mod dev;
pub(crate) mod plugin;
pub(crate) mod produce;
pub(crate) mod profile;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod topic;

use anyhow::{Context, Result};
use flumen_broker::config::LogFormat;

use crate::{
    arguments::{Arguments, Command, Global},
    logging, variables,
};

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let Arguments { global, command } = arguments;
    if !matches!(command, Command::Completions(_)) {
        variables::warn_of_unknown();
    }
    match command {
        Command::Completions(arguments) => completions::run(&arguments),
        // A broker's log is set up with its other settings.
        Command::Dev(arguments) => dev::run(&arguments, &global),
        Command::Serve(arguments) => serve::run(&arguments, &global),
        Command::Bench(command) => {
            log_as_client(&global)?;
            bench::run(command, &global)
        }
        command => {
            log_as_client(&global)?;
            let output = global.output;
            let runtime = runtime()?;
            let outcome = runtime.block_on(async {
                match command {
                    Command::Topic(command) => topic::run(command, output).await,
                    Command::Produce(arguments) => produce::run(arguments, output).await,
                    Command::Consume(arguments) => consume::run(arguments, output).await,
                    Command::Plugin(command) => plugin::run(command, output).await,
                    Command::Cluster(command) => cluster::run(command, output).await,
                    Command::Status(arguments) => status::run(&arguments, output).await,
                    Command::Profile(command) => profile::run(&command, output),
                    Command::Bench(_)
                    | Command::Completions(_)
                    | Command::Dev(_)
                    | Command::Serve(_) => Ok(()),
                }
            });
            // A thread that prints to somebody who does not read is not waited for.
            runtime.shutdown_background();
            outcome
        }
    }
}

fn log_as_client(global: &Global) -> Result<()> {
    let filter = global.log.as_deref().unwrap_or(logging::CLIENT_LEVEL);
    logging::start(filter, global.log_format.unwrap_or(LogFormat::Text))
}

/// The runtime that commands run on.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}
