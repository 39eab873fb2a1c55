//! Flags and variables of the connection, and which of them count.
//!
//! A flag wins over the variables of what it stands against: `--profile` over `FLUMEN_BROKERS` and
//! what belongs to it, `--brokers` over `FLUMEN_PROFILE`, one credential over the other. To clap a
//! variable is as good as a flag, and both together would be a conflict; so what goes together is
//! looked at here.

use std::path::PathBuf;

use anyhow::Result;
use clap::{
    ArgMatches, FromArgMatches as _,
    builder::{OsStringValueParser, TypedValueParser},
    parser::ValueSource,
};
use flumen_broker::config::Interval;

use crate::{failure::usage, number::time_above_zero};

/// Which cluster, and with which credential.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Flags {
    /// The profile to use, by name or file; default: as `flumen profile use` or `flumen dev` chose
    #[arg(long, value_name = "NAME|FILE", env = "FLUMEN_PROFILE")]
    pub(super) profile: Option<String>,
    /// Brokers to connect to without a profile; needs --ca, and --token or --cert and --key
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        env = "FLUMEN_BROKERS"
    )]
    pub(super) brokers: Option<Vec<String>>,
    /// The authority that signs the brokers' certificates (PEM)
    #[arg(long, value_name = "FILE", value_parser = file(), env = "FLUMEN_CA")]
    pub(super) ca: Option<PathBuf>,
    /// A client certificate (PEM)
    #[arg(long, value_name = "FILE", value_parser = file(), env = "FLUMEN_CERT")]
    pub(super) cert: Option<PathBuf>,
    /// The private key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", value_parser = file(), env = "FLUMEN_KEY")]
    pub(super) key: Option<PathBuf>,
    /// A token that the brokers accept
    #[arg(
        long,
        value_name = "TOKEN",
        hide_env_values = true,
        env = "FLUMEN_TOKEN"
    )]
    pub(super) token: Option<String>,
    /// Give up when there is no answer after so long, connecting included; with `produce`, also
    /// on a record that has no receipt by then [default: 5s to connect, 30s for the answer, 1min
    /// for a receipt]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = time_above_zero,
        env = "FLUMEN_REQUEST_TIMEOUT"
    )]
    pub(super) request_timeout: Option<Interval>,
}

/// Any path, also an empty one: why that is refused is said with the others.
fn file() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Forgets what a variable says. One that is not set, or not set by a variable, stays.
struct Variables<'m>(&'m ArgMatches);

impl Variables<'_> {
    fn is_flag(&self, id: &str) -> bool {
        self.0.value_source(id) == Some(ValueSource::CommandLine)
    }

    fn is_variable(&self, id: &str) -> bool {
        self.0.value_source(id) == Some(ValueSource::EnvVariable)
    }

    fn forget<T>(&self, id: &str, value: &mut Option<T>) {
        if self.is_variable(id) {
            *value = None;
        }
    }
}

impl Flags {
    /// What was given, without the variables that a flag wins over.
    pub(super) fn that_count(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::from_arg_matches(matches)?;
        let variables = Variables(matches);
        if variables.is_flag("profile") {
            let credential_is_theirs = flags.brokers.is_some() && variables.is_variable("brokers");
            variables.forget("brokers", &mut flags.brokers);
            variables.forget("ca", &mut flags.ca);
            if credential_is_theirs {
                variables.forget("token", &mut flags.token);
                variables.forget("cert", &mut flags.cert);
                variables.forget("key", &mut flags.key);
            }
        }
        if variables.is_flag("brokers") {
            variables.forget("profile", &mut flags.profile);
        }
        if variables.is_flag("token") {
            variables.forget("cert", &mut flags.cert);
            variables.forget("key", &mut flags.key);
        }
        if variables.is_flag("cert") || variables.is_flag("key") {
            variables.forget("token", &mut flags.token);
        }
        Ok(flags)
    }

    /// Refuses what makes no sense, whichever brokers there are.
    pub(super) fn check(&self) -> Result<()> {
        self.check_for_nothing()?;
        let problem = if self.profile.is_some() && self.brokers.is_some() {
            "--profile cannot be used with --brokers, nor FLUMEN_PROFILE with FLUMEN_BROKERS: a \
             profile names brokers of its own"
        } else if self.brokers.is_some() && self.ca.is_none() {
            "--brokers needs --ca FILE, the authority that signs the brokers' certificates; a broker \
             keeps it in its data directory, tls/ca.pem"
        } else if self.ca.is_some() && self.brokers.is_none() {
            "--ca needs --brokers HOST:PORT,…; a profile has an authority of its own"
        } else if self.cert.is_some() != self.key.is_some() {
            "--cert FILE and --key FILE belong together: a certificate, and its private key"
        } else if self.token.is_some() && self.cert.is_some() {
            "--token cannot be used with --cert and --key: one credential is enough"
        } else if self.brokers.is_some() && self.token.is_none() && self.cert.is_none() {
            "--brokers needs a credential: --token TOKEN, or --cert FILE and --key FILE"
        } else {
            return Ok(());
        };
        Err(usage(problem))
    }

    /// Refuses flags without a value: `--token "$TOKEN"`, where the variable is not set.
    fn check_for_nothing(&self) -> Result<()> {
        let is_nothing = |file: &Option<PathBuf>| {
            let file = file.as_ref();
            file.is_some_and(|file| file.as_os_str().is_empty())
        };
        let brokers = self.brokers.as_ref();
        for (is_nothing, flag, value) in [
            (
                self.profile.as_ref().is_some_and(String::is_empty),
                "--profile",
                "the name of a profile, or the path of its file",
            ),
            (
                brokers.is_some_and(|all| all.iter().any(String::is_empty)),
                "--brokers",
                "HOST:PORT, and a comma between two of them",
            ),
            (
                self.token.as_ref().is_some_and(|t| t.trim().is_empty()),
                "--token",
                "a token that the brokers accept",
            ),
            (is_nothing(&self.ca), "--ca", "the path of a file"),
            (is_nothing(&self.cert), "--cert", "the path of a file"),
            (is_nothing(&self.key), "--key", "the path of a file"),
        ] {
            if is_nothing {
                return Err(usage(format!("{flag} is empty; write {value}")));
            }
        }
        Ok(())
    }
}

impl clap::Args for super::Connection {
    fn augment_args(command: clap::Command) -> clap::Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for super::Connection {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Flags::that_count(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
