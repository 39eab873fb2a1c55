//! Asking before something is destroyed that nobody brings back.
//!
//! Only a person is asked: one who sits at a terminal, from which the answer comes and on which the
//! question stands. A script goes on as it is written.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context, Result, bail};
use tokio::task::spawn_blocking;

/// Answers that mean yes, whatever their case.
const YES: [&str; 2] = ["y", "yes"];

/// Flags of commands that destroy something.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Confirmation {
    /// Do not ask on a terminal whether it is meant so; elsewhere, nobody is asked
    #[arg(long, short)]
    yes: bool,
}

impl Confirmation {
    /// Whether somebody is there who has not said yes yet.
    pub(crate) fn is_needed(self) -> bool {
        !self.yes && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks, if that is needed; an error unless the answer is yes.
    pub(crate) async fn ask(self, question: String) -> Result<()> {
        if !self.is_needed() {
            return Ok(());
        }
        let answer = spawn_blocking(move || {
            let mut err = io::stderr().lock();
            write!(err, "{question} [y/N] ")?;
            err.flush()?;
            let mut answer = String::new();
            if io::stdin().read_line(&mut answer)? == 0 {
                writeln!(err)?;
            }
            io::Result::Ok(answer)
        });
        let answer = answer.await?.context("cannot ask whether it is meant so")?;
        if !is_yes(&answer) {
            bail!("nothing was done: the answer was not yes");
        }
        Ok(())
    }
}

fn is_yes(answer: &str) -> bool {
    YES.contains(&answer.trim().to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for answer in ["y\n", "Y", " yes \n", "YES"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n", "no", "yep", "orders"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
