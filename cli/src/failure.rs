//! Errors and exit codes: 0 done, 1 failed, 2 used in the wrong way, 130 or 143 stopped by a
//! signal before it was done.

use std::{fmt, io, process::ExitCode};

use anstream::eprintln;
use anstyle::{AnsiColor, Style};

use crate::stop::Signal;

/// What was asked for makes no sense, whatever the state of the world.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// An error that ends the command with exit code 2.
pub(crate) fn usage(text: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(UsageError(text.into()))
}

/// A signal came before all that was asked for was done.
#[derive(Debug)]
pub(crate) struct Interrupted {
    pub(crate) signal: Signal,
    /// How far it came.
    pub(crate) so_far: String,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by {} {}", self.signal, self.so_far)
    }
}

impl std::error::Error for Interrupted {}

/// The code of [`UsageError`], as clap has it for the errors that it finds itself.
const EXIT_USAGE: u8 = 2;

const ERROR_STYLE: Style = AnsiColor::Red.on_default().bold();

/// Tells an error, if there is one, and turns the outcome into an exit code.
pub(crate) fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    let error = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        // Whoever reads what we print has seen enough, as in `flumen consume … | head`.
        Err(error) if is_broken_pipe(&error) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    eprintln!("{ERROR_STYLE}error:{ERROR_STYLE:#} {}", describe(&error));
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        ExitCode::from(interrupted.signal.exit_code())
    } else if is_usage(&error) {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::FAILURE
    }
}

/// Whether it ends the command with exit code 2.
pub(crate) fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<UsageError>)
}

/// The error with its causes, leaving out those whose text the one before has already.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if last.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
        last = cause;
    }
    text
}

/// Whether it is that nobody reads any more what is printed.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("disk on fire");
        let error = Err::<(), _>(error)
            .context("cannot write: disk on fire")
            .context("topic orders")
            .unwrap_err();
        assert_eq!(describe(&error), "topic orders: cannot write: disk on fire");
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        let error = Err::<(), _>(pipe).context("cannot print").unwrap_err();
        assert!(is_broken_pipe(&error));
        assert!(!is_broken_pipe(&usage("no")));
    }
}
