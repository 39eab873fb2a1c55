//! The command line as a whole.

mod leading;

use std::{env, ffi::OsStr};

use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand, builder::Resettable,
    error::ErrorKind,
};
use flumen_broker::config::LogFormat;

use crate::{
    commands::{
        bench, cluster, completions, consume, dev, plugin, produce, profile, serve, status, topic,
    },
    output::OutputFormat,
};

const EXAMPLES: &str = "\
Examples:
  # start a broker on this machine
  flumen dev
  # make a topic, send a record to it, read all records and those to come
  flumen topic create orders --partitions 4
  echo '{\"id\":1}' | flumen produce orders
  flumen consume orders --from beginning
  # talk to another cluster than the default one
  flumen --profile staging topic list

Every command has its own --help with more examples. The flags that say which cluster to talk to,
such as --profile, may stand before the command or behind it.";

/// A durable, fast message queue over QUIC, with WebAssembly plugins
#[derive(Debug, Parser)]
#[command(name = "flumen", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Reads the command line of the process; usage errors and requests for help end it.
    pub(crate) fn read() -> Self {
        let mut program = Self::program();
        let line = leading::moved_behind(&program, env::args_os())
            .unwrap_or_else(|text| program.error(ErrorKind::InvalidValue, text).exit());
        let judging = without_empty_variables(program.clone());
        let mut matches = match judging.try_get_matches_from(&line) {
            Ok(matches) => matches,
            // Help names all variables, also those that are set to nothing.
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                program.clone().get_matches_from(line)
            }
            Err(error) => error.exit(),
        };
        Self::from_arg_matches_mut(&mut matches)
            .unwrap_or_else(|error| error.format(&mut program).exit())
    }

    /// All commands with their flags.
    pub(crate) fn program() -> clap::Command {
        with_negative_numbers(with_short_timeouts(Self::command()))
    }
}

/// The commands without the variables that are set to nothing, or to white space alone: these are
/// not set.
pub(crate) fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| {
        let value = env::var_os(name);
        value.is_some_and(|value| value.to_str().is_some_and(|text| text.trim().is_empty()))
    };
    command
        .mut_args(|argument| match argument.get_env() {
            Some(name) if is_empty(name) => argument.env(Resettable::Reset),
            _ => argument,
        })
        .mut_subcommands(without_empty_variables)
}

/// Takes `-1` for a value, not for a flag: who reads the value says what it may be.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| {
            let takes_values = argument.get_action().takes_values();
            argument.allow_negative_numbers(takes_values)
        })
        .mut_subcommands(with_negative_numbers)
}

/// `--timeout` for `--request-timeout`, wherever it means nothing else.
fn with_short_timeouts(command: clap::Command) -> clap::Command {
    const LONG: &str = "request-timeout";
    const SHORT: &str = "timeout";
    let below: Vec<_> = command
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    let command = below.into_iter().fold(command, |command, name| {
        command.mut_subcommand(name, with_short_timeouts)
    });
    let longs: Vec<_> = command.get_arguments().map(clap::Arg::get_long).collect();
    if longs.contains(&Some(LONG)) && !longs.contains(&Some(SHORT)) {
        command.mut_arg("request_timeout", |argument| argument.visible_alias(SHORT))
    } else {
        command
    }
}

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// How results are printed
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        global = true,
        env = "FLUMEN_OUTPUT"
    )]
    pub(crate) output: OutputFormat,
    /// What is logged, to stderr: error, warn, info, debug, trace, also per module
    #[arg(long, value_name = "LEVEL", global = true, env = "FLUMEN_LOG")]
    pub(crate) log: Option<String>,
    /// How log lines look: text or json
    #[arg(long, value_name = "FORMAT", global = true, env = "FLUMEN_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(dev::Arguments),
    Serve(serve::Arguments),
    #[command(subcommand)]
    Topic(topic::Command),
    Produce(produce::Arguments),
    Consume(consume::Arguments),
    #[command(subcommand)]
    Plugin(plugin::Command),
    #[command(subcommand)]
    Cluster(cluster::Command),
    #[command(subcommand)]
    Bench(bench::Command),
    Status(status::Arguments),
    #[command(subcommand)]
    Profile(profile::Command),
    Completions(completions::Arguments),
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use clap::Command;

    use super::*;

    /// A shell in which `flumen` prints its words and the end of a line, and nothing else is found.
    /// All at once: the ends of a pipe print at the same time.
    const SHELL: &str = r#"
        PATH=/nowhere
        END='
'
        flumen() { printf '%s\0' "$@" "$END" >&3; }
        { eval "$EXAMPLE"; } 3>&1 >/dev/null 2>&1 </dev/null
        true
    "#;

    fn of_all(command: &Command, test: &mut impl FnMut(&str)) {
        let help = command.get_after_help().map(ToString::to_string);
        let examples = help.unwrap_or_default();
        for example in examples
            .lines()
            .skip_while(|line| *line != "Examples:")
            .skip(1)
        {
            test(example);
        }
        for below in command.get_subcommands() {
            of_all(below, test);
        }
    }

    #[test]
    fn every_example_can_be_pasted_into_a_shell_and_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let program = Arguments::program();
        let (mut begun, mut parsed) = (String::new(), 0);
        of_all(&program, &mut |line| {
            let Some(line) = line.strip_prefix("  ") else {
                return;
            };
            begun.push_str(line.strip_suffix('\\').unwrap_or(line));
            if line.ends_with('\\') || line.starts_with('#') || !begun.contains("flumen ") {
                if !line.ends_with('\\') {
                    begun.clear();
                }
                return;
            }
            let example = std::mem::take(&mut begun);
            let shell = Process::new("sh")
                .args(["-c", SHELL])
                .env("EXAMPLE", &example)
                .env("HOME", dir.path())
                .current_dir(dir.path())
                .output()
                .unwrap();
            let printed = String::from_utf8(shell.stdout).unwrap();
            for words in printed.split_terminator("\n\0") {
                let words = ["flumen"].into_iter().chain(words.split_terminator('\0'));
                let line = leading::moved_behind(&program, words.map(Into::into)).unwrap();
                let taken = program.clone().try_get_matches_from(line);
                assert!(taken.is_ok(), "{example}: {}", taken.unwrap_err());
                parsed += 1;
            }
        });
        assert!(parsed > 50, "only {parsed} examples were found");
    }
}
