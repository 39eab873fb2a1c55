//! `flumen completions`: a script that completes commands and flags in a shell.

use std::io::{self, Write};

use anyhow::Result;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  flumen completions bash > ~/.local/share/bash-completion/completions/flumen
  flumen completions zsh > ~/.zfunc/_flumen
  flumen completions fish > ~/.config/fish/completions/flumen.fish";

/// Print a script that completes commands in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut command = crate::arguments::Arguments::program();
    // Into memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "flumen", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(())
}
