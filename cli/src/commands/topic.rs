//! `flumen topic`: one file for each verb.

mod alter;
mod create;
mod delete;
mod describe;
mod list;
mod settings;

use anyhow::Result;

use crate::output::OutputFormat;

/// Make, show, change and delete topics
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(create::Arguments),
    List(list::Arguments),
    Describe(describe::Arguments),
    Alter(alter::Arguments),
    Delete(delete::Arguments),
}

pub(crate) async fn run(command: Command, output: OutputFormat) -> Result<()> {
    match command {
        Command::Create(arguments) => create::run(arguments, output).await,
        Command::List(arguments) => list::run(arguments, output).await,
        Command::Describe(arguments) => describe::run(arguments, output).await,
        Command::Alter(arguments) => alter::run(arguments, output).await,
        Command::Delete(arguments) => delete::run(arguments, output).await,
    }
}
