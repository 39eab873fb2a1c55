//! Every setting of a broker as a flag and a `FLUMEN_…` variable, made of the broker's own list
//! of settings, so that none can be forgotten. A flag wins over a variable, a variable over the
//! file, the file over the default.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::Result;
use clap::{Arg, ArgMatches, Command, FromArgMatches, parser::ValueSource};
use flumen_broker::config::{self, BrokerConfig, ConfigError, Setting, Source};

use crate::{arguments::Global, failure::UsageError};

/// Flags of their own on every command, see [`Global`].
const GLOBAL_KEYS: [&str; 2] = ["log", "log_format"];

/// What was set by flags and variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings(Vec<Given>);

#[derive(Clone, Debug)]
struct Given {
    key: &'static str,
    text: String,
    source: Source,
}

impl Settings {
    /// The settings of a broker: what was given here, over what the file says.
    pub(crate) fn resolve(&self, file: Option<&PathBuf>, global: &Global) -> Result<BrokerConfig> {
        let mut config = match file {
            Some(path) => BrokerConfig::from_file(path).map_err(usage)?,
            None => BrokerConfig::default(),
        };
        for Given { key, text, source } in &self.0 {
            config.set(key, text, *source).map_err(usage)?;
        }
        if let Some(log) = &global.log {
            config.log.clone_from(log);
        }
        if let Some(format) = global.log_format {
            config.log_format = format;
        }
        config.validate().map_err(usage)?;
        Ok(config)
    }
}

/// A setting that cannot be used is wrong usage, wherever it stands; a file that cannot be read
/// is a failure.
pub(crate) fn usage(error: ConfigError) -> anyhow::Error {
    match error {
        ConfigError::Read { .. } => error.into(),
        error => UsageError(error.to_string()).into(),
    }
}

fn flags() -> impl Iterator<Item = Setting> {
    config::settings()
        .into_iter()
        .filter(|setting| !GLOBAL_KEYS.contains(&setting.key))
}

fn argument(setting: &Setting) -> Arg {
    let mut help = setting.doc.trim_end_matches('.').to_owned();
    let _ = write!(help, " [default: {}]", setting.default);
    if let Some((lowest, highest)) = &setting.range {
        let _ = write!(help, " [range: {lowest} to {highest}]");
    }
    Arg::new(setting.key)
        .long(setting.flag())
        .env(setting.variable())
        .value_name(setting.value_name)
        .help(help)
        .help_heading("Settings")
}

impl clap::Args for Settings {
    fn augment_args(command: Command) -> Command {
        command.args(flags().map(|setting| argument(&setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = flags().filter_map(|setting| {
            let text: &String = matches.get_one(setting.key)?;
            let source = match matches.value_source(setting.key) {
                Some(ValueSource::EnvVariable) => Source::Environment,
                _ => Source::Flag,
            };
            Some(Given {
                key: setting.key,
                text: text.clone(),
                source,
            })
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
