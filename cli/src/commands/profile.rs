//! `flumen profile`: which cluster commands talk to.

use anyhow::Result;
use flumen_client::Profiles;
use serde::Serialize;
use serde_json::json;

use crate::{
    connect::explain_profile,
    output::{OutputFormat, table, write_table},
};

const LIST_EXAMPLES: &str = "\
Examples:
  flumen profile list
  flumen profile list --output json";

const REMOVE_EXAMPLES: &str = "\
Examples:
  flumen profile remove dev-experiment";

const USE_EXAMPLES: &str = "\
Examples:
  flumen profile use staging
  FLUMEN_PROFILE=staging flumen topic list        for a single command
  flumen topic list --profile ./client.toml       straight from a file";

/// Show and choose the clusters that commands talk to
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the profiles of this user
    #[command(after_help = LIST_EXAMPLES)]
    List,
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
        Command::List => list(&profiles, output),
        Command::Remove { name } => {
            profiles.remove(name).map_err(explain_profile)?;
            output.done(
                "removed",
                &json!({ "profile": name }),
                &format!("removed profile {name}"),
            )
        }
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
            eprintln!("There are no profiles yet; `flumen dev` makes one.");
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
