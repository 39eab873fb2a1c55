//! `flumen profile`: which cluster commands talk to.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use flumen_client::{Client, Name, Profile, ProfileError, Profiles, profile::is_path};
use serde::Serialize;
use serde_json::json;

use crate::{
    connect::explain_profile,
    failure::usage,
    output::{OutputFormat, table, write_table},
};

/// The file that stands for standard input.
const STDIN: &str = "-";

const LIST_EXAMPLES: &str = "\
Examples:
  flumen profile list
  flumen profile list --output json";

const ADD_EXAMPLES: &str = "\
Examples:
  flumen profile add staging ./client.toml
  ssh broker-1 sudo cat /var/lib/flumen/client.toml | flumen profile add prod -

Every broker writes a client.toml into its data directory. The copy is for this user's eyes only
(mode 0600), and is no longer needed where it came from.";

const REMOVE_EXAMPLES: &str = "\
Examples:
  flumen profile remove dev-experiment";

const USE_EXAMPLES: &str = "\
Examples:
  flumen profile use staging
  # for a single command
  FLUMEN_PROFILE=staging flumen topic list
  flumen topic list --profile staging
  # straight from a file
  flumen topic list --profile ./client.toml";

/// Show and choose the clusters that commands talk to
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the profiles of this user
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Take over the client.toml of a broker under a name
    #[command(
        after_help = ADD_EXAMPLES,
        override_usage = "flumen profile add [OPTIONS] <NAME> <FILE>"
    )]
    Add {
        /// The name that the profile gets
        name: String,
        /// The client.toml; `-` is standard input
        file: Option<PathBuf>,
        /// Replace a profile of that name
        #[arg(long)]
        force: bool,
    },
    /// Forget a profile; the broker it leads to keeps everything
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// The profile
        name: String,
    },
    /// Make a profile the default
    #[command(after_help = USE_EXAMPLES)]
    Use {
        /// The profile
        name: String,
    },
}

#[derive(Serialize)]
struct Row {
    profile: String,
    default: bool,
    brokers: Vec<String>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(command: &Command, output: OutputFormat) -> Result<()> {
    let profiles = Profiles::of_user()?;
    match command {
        Command::Add { name, file, force } => {
            let (name, file) = name_and_file(name, file.as_deref())?;
            add(&profiles, name, file, *force, output)
        }
        Command::List => list(&profiles, output),
        Command::Remove { name } => {
            let was_default = profiles.default_name()?.as_ref() == Some(name);
            profiles.remove(name).map_err(explain_profile)?;
            let next = if was_default {
                without_default(&profiles.list()?)
            } else {
                String::new()
            };
            output.done(
                "removed",
                &json!({ "profile": name }),
                &format!("removed profile {name}{next}"),
            )
        }
        Command::Use { name } if is_path(name) => Err(usage(format!(
            "{name} is a file, and the default profile is chosen by its name: `flumen profile add \
             NAME {name}` gives it one, and --profile {name} shows it to a single command"
        ))),
        Command::Use { name } => {
            profiles.make_default(name).map_err(explain_profile)?;
            output.done(
                "selected",
                &json!({ "profile": name }),
                &format!("{name} is the default profile now"),
            )
        }
    }
}

/// What to do when the default is gone.
fn without_default(left: &[String]) -> String {
    let how = match left {
        [] => "`flumen dev` or `flumen profile add NAME FILE` makes a profile".to_owned(),
        [one] => format!("`flumen profile use {one}` chooses the one that is left"),
        several => format!(
            "`flumen profile use NAME` chooses one of {}",
            several.join(", ")
        ),
    };
    format!(", which was the default; there is none now, and {how}")
}

/// What `flumen profile add` was given, if that is a name and a file.
///
/// # Errors
/// The line that was meant, if one of them is missing, or each stands in the place of the other.
fn name_and_file<'a>(name: &'a str, file: Option<&'a Path>) -> Result<(&'a str, &'a Path)> {
    let is_file = |text: &str| is_path(text) || text == STDIN;
    let told = match file {
        Some(file) if !is_file(name) => return Ok((name, file)),
        None if !is_file(name) => format!(
            "profile {name} of which file? Write `flumen profile add {name} FILE`, with the \
             client.toml of a broker's data directory, or - for standard input"
        ),
        None => {
            let meant = name_for(name);
            format!("{name} is a file, and has no name yet: `flumen profile add {meant} {name}`")
        }
        Some(file) => {
            let file = file.display().to_string();
            if is_file(&file) {
                let meant = name_for(name);
                format!(
                    "a profile cannot be named {name}, as that is taken for a file: `flumen profile \
                     add {meant} {file}`"
                )
            } else {
                format!("the name comes first, then the file: `flumen profile add {file} {name}`")
            }
        }
    };
    Err(usage(told))
}

/// A name for the profile in a file.
fn name_for(file: &str) -> &str {
    let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str());
    let is_good = |stem: &&str| Name::new(*stem).is_ok() && !["client", STDIN].contains(stem);
    stem.filter(is_good).unwrap_or("NAME")
}

fn add(
    profiles: &Profiles,
    name: &str,
    file: &Path,
    force: bool,
    output: OutputFormat,
) -> Result<()> {
    let profile = read(file)?;
    let saved = if force {
        profiles.save(name, &profile)
    } else {
        profiles.add(name, &profile)
    };
    let path = saved.map_err(|error| match error {
        ProfileError::Exists { .. } => {
            anyhow!("{error}; --force replaces it, or choose another name")
        }
        error => explain_profile(error),
    })?;
    let is_default = profiles.default_name()?.as_deref() == Some(name);
    let how = if is_default {
        "it is the default".to_owned()
    } else {
        format!("`flumen profile use {name}` makes it the default")
    };
    output.done(
        "added",
        &json!({
            "profile": name,
            "profile_file": path,
            "brokers": profile.contents().brokers,
        }),
        &format!("added profile {name}; {how}"),
    )
}

/// A profile that can be used, from a file or from standard input.
fn read(file: &Path) -> Result<Profile> {
    let (profile, origin) = if file == Path::new(STDIN) {
        let origin = Path::new("from standard input");
        let text = io::read_to_string(io::stdin()).context("cannot read standard input")?;
        (Profile::parse(&text, origin)?, origin)
    } else {
        (Profile::read(file)?, file)
    };
    let invalid = || format!("profile {} cannot be used", origin.display());
    let checked = Client::builder().profile(profile.clone()).check();
    checked.with_context(invalid)?;
    let contents = profile.contents();
    if contents.token.is_none() && contents.cert.is_none() {
        let error = anyhow!("it has no credential, neither a token nor a certificate with its key");
        return Err(error.context(invalid()));
    }
    Ok(profile)
}

fn list(profiles: &Profiles, output: OutputFormat) -> Result<()> {
    let default = profiles.default_name()?;
    let mut rows = Vec::new();
    for name in profiles.list()? {
        let (brokers, error) = match profiles.load(&name) {
            Ok(profile) => (profile.contents().brokers.clone(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        rows.push(Row {
            default: default.as_ref() == Some(&name),
            brokers,
            error,
            profile: name,
        });
    }
    output.print(&rows, |out| {
        if rows.is_empty() {
            eprintln!("There are no profiles yet; `flumen dev` or `flumen profile add NAME FILE` makes one.");
            return Ok(());
        }
        let mut table = table(["NAME", "DEFAULT", "BROKERS"]);
        for row in &rows {
            let default = if row.default { "*" } else { "" };
            table.add_row([row.profile.as_str(), default, &row.brokers.join(",")]);
        }
        write_table(out, &table)?;
        for error in rows.iter().filter_map(|row| row.error.as_ref()) {
            anstream::eprintln!("warning: {error}");
        }
        Ok(())
    })
}
