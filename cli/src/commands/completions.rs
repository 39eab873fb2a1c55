//! `flumen completions`: a script that completes commands, flags and names in a shell.

use std::io::{self, Write};

use anyhow::Result;
use clap_complete::Shell;

use crate::complete;

const EXAMPLES: &str = "\
Examples:
  flumen completions bash > ~/.local/share/bash-completion/completions/flumen
  flumen completions zsh > ~/.zfunc/_flumen
  flumen completions fish > ~/.config/fish/completions/flumen.fish

Elvish reads the script by `eval (flumen completions elvish | slurp)` in its rc.elv.

In bash, zsh, fish and elvish, the names of topics, plugins, brokers and profiles are completed,
too: the script asks the cluster for them, the one that the line names or else the default one, and
offers none if that does not answer within a second.";

/// Print a script that completes commands in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // In memory by now: the generator panics when its writer fails.
    let script = complete::script(arguments.shell);
    io::stdout().lock().write_all(&script)?;
    Ok(())
}
