//! `flumen dev`: a broker on this machine with nothing to set up.

use std::path::{Path, PathBuf};

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use etcetera::BaseStrategy;
use flumen_broker::{
    config::{BrokerConfig, LogFormat, Source},
    identity::PROFILE_FILE,
    node::Broker,
};
use flumen_client::{
    Profile, Profiles,
    profile::{Contents, is_path},
};
use flumen_protocol::{limits::NAME_CHARS_MAX, topic::Name};
use tokio::sync::watch;

use super::serve;
use crate::{arguments::Global, logging, output::OutputFormat, settings::usage};

const EXAMPLES: &str = "\
Examples:
  flumen dev
  flumen dev --data-dir /tmp/flumen --listen 127.0.0.1:0 --admin none

  flumen dev --data-dir /tmp/other --listen 127.0.0.1:0 --admin none --output json | jq -r .profile

The first start makes a data directory and a certificate authority. Every start writes a profile
and makes it the default, so that every other command finds the broker without flags: \"dev\", or
\"dev-DIR\" with --data-dir …/DIR. `flumen profile use NAME` goes back to another one. With --output
json, one object says where the broker is once it serves.";

/// The name of the profile that leads to the broker in the default data directory, and the
/// beginning of the others.
const PROFILE: &str = "dev";

/// What is logged unless told otherwise: what is printed says the rest.
const LEVEL: &str = "warn";

/// Run a broker on this machine, with nothing to set up
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Where records are kept; default: a directory among the user's data
    #[arg(long, value_name = "DIR", env = "FLUMEN_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The UDP address that clients connect to; port 0 takes any free port
    #[arg(long, value_name = "IP:PORT", env = "FLUMEN_LISTEN")]
    listen: Option<String>,
    /// The TCP address of /metrics, /healthz and /readyz, or none
    #[arg(long, value_name = "IP:PORT", env = "FLUMEN_ADMIN")]
    admin: Option<String>,
    /// The profile that is written; default: dev, or dev-DIR with --data-dir …/DIR
    #[arg(long, value_name = "NAME", value_parser = parse_profile)]
    profile: Option<Name>,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<()> {
    let mut config = BrokerConfig {
        log: global.log.clone().unwrap_or_else(|| LEVEL.to_owned()),
        log_format: global.log_format.unwrap_or(LogFormat::Text),
        data_dir: match &arguments.data_dir {
            Some(dir) => dir.clone(),
            None => default_data_dir()?,
        },
        ..BrokerConfig::default()
    };
    for (key, text) in [("listen", &arguments.listen), ("admin", &arguments.admin)] {
        if let Some(text) = text {
            config.set(key, text, Source::Flag).map_err(usage)?;
        }
    }
    logging::start(&config.log, config.log_format)?;
    let data_dir = config.data_dir.clone();
    // What the broker will be reached by may be another address.
    let before = Profile::read(&data_dir.join(PROFILE_FILE)).ok();
    let own_before = before.and_then(|before| before.contents().brokers.first().cloned());
    let name = match &arguments.profile {
        Some(name) => name.clone(),
        None => profile_name(&data_dir, arguments.data_dir.is_some())?,
    };
    serve::serve(config, serve::Start::AsItIs, |broker| {
        let written = write_profile(&name, broker, own_before.as_slice())?;
        tokio::spawn(keep_profile(
            name.clone(),
            broker.profile().to_owned(),
            written.members.clone(),
            broker.profile_changes(),
        ));
        match global.output {
            OutputFormat::Text => tell(broker, &data_dir, &name, &written),
            OutputFormat::Json => serve::tell_json(broker, &data_dir, Some(&name))?,
        }
        Ok(())
    })
}

/// What was written, and what the profile was before.
struct Written {
    /// The brokers that the broker knows.
    members: Vec<String>,
    /// The brokers that it led to, if they were others.
    led_to: Option<String>,
    /// The profile that was the default, if it was another one.
    default_before: Option<String>,
}

/// Writes the profile that leads to the broker, which was reached by `own_before`, and makes it the
/// default.
fn write_profile(name: &Name, broker: &Broker, own_before: &[String]) -> Result<Written> {
    let mut profile = Profile::read(broker.profile())?.contents().clone();
    let profiles = Profiles::of_user()?;
    let before = profiles.load(name.as_str()).ok();
    let before = before.map(|before| before.contents().clone());
    // A data directory keeps its authority: another authority is another data directory.
    let (same, other): (Option<Contents>, Option<Contents>) = match before {
        Some(before) if before.ca == profile.ca => (Some(before), None),
        other => (None, other),
    };
    let members = profile.brokers.clone();
    if let Some(same) = same {
        profile.brokers = all_brokers(same.brokers, own_before, profile.brokers);
    }
    let led_to = other.map(|other| other.brokers.join(","));
    let default_before = profiles.default_name()?;
    profiles.save(name.as_str(), &profile.into())?;
    profiles.make_default(name.as_str())?;
    Ok(Written {
        members,
        led_to,
        default_before: default_before.filter(|before| before != name.as_str()),
    })
}

/// Has the profile name all brokers, also those that join: without one of them, the broker that
/// it was written for would be the only way to the cluster.
async fn keep_profile(
    name: Name,
    file: PathBuf,
    mut members: Vec<String>,
    mut changes: watch::Receiver<()>,
) {
    while changes.changed().await.is_ok() {
        match update_profile(&name, &file, &members) {
            Ok(now) => members = now,
            Err(error) => tracing::warn!("profile {name} does not name all brokers: {error:#}"),
        }
    }
}

/// Takes over the brokers that a profile's file names, and returns them. It named those `before`.
/// Nothing is taken over if the two are not of the same cluster.
fn update_profile(name: &Name, file: &Path, before: &[String]) -> Result<Vec<String>> {
    let now = Profile::read(file)?.contents().clone();
    let profiles = Profiles::of_user()?;
    let loaded = profiles.load(name.as_str())?;
    if loaded.contents().ca == now.ca {
        let all = all_brokers(
            loaded.contents().brokers.clone(),
            before,
            now.brokers.clone(),
        );
        profiles.refresh(name.as_str(), &loaded, all)?;
    }
    Ok(now.brokers)
}

/// The members of the cluster, and what else a profile names: other names of the brokers, ways
/// through tunnels, and members that this broker has not heard of again since it was started. Not
/// those that were `members_before`, and are none any more.
fn all_brokers(named: Vec<String>, members_before: &[String], members: Vec<String>) -> Vec<String> {
    let is_other =
        |address: &String| !members.contains(address) && !members_before.contains(address);
    let others: Vec<_> = named.into_iter().filter(is_other).collect();
    members.into_iter().chain(others).collect()
}

/// The profile of a data directory: each has its own, so that a second broker does not take
/// away the way to the first.
fn profile_name(data_dir: &Path, is_given: bool) -> Result<Name> {
    if !is_given || default_data_dir().is_ok_and(|default| default == data_dir) {
        return Ok(Name::new(PROFILE)?);
    }
    let absolute = std::path::absolute(data_dir)
        .with_context(|| format!("cannot find {}", data_dir.display()))?;
    let last = absolute.file_name().unwrap_or_default().to_string_lossy();
    // With a dot, it could be taken for a file.
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name: String = format!("{PROFILE}-{last}")
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(NAME_CHARS_MAX)
        .collect();
    Ok(Name::new(name)?)
}

fn parse_profile(text: &str) -> Result<Name, String> {
    if is_path(text) {
        return Err(format!(
            "{text} is taken for a file, and this is the name of a profile that is written"
        ));
    }
    Name::new(text).map_err(|error| error.to_string())
}

fn default_data_dir() -> Result<PathBuf> {
    let base = etcetera::choose_base_strategy()
        .context("there is no home directory to keep data in; name one with --data-dir")?;
    Ok(base.data_dir().join("flumen").join("dev"))
}

fn tell(broker: &Broker, data_dir: &Path, profile: &Name, written: &Written) {
    const BOLD: Style = Style::new().bold();
    const COMMAND: Style = AnsiColor::Cyan.on_default();
    const WARNING: Style = AnsiColor::Yellow.on_default().bold();
    let admin = broker.admin_addr();
    eprintln!("{BOLD}Flumen is running.{BOLD:#} Ctrl-C stops it.\n");
    eprintln!("  address   {} (QUIC)", broker.local_addr());
    if let Some(admin) = admin {
        eprintln!("  metrics   http://{admin}/metrics");
    }
    eprintln!("  data      {}", data_dir.display());
    match &written.default_before {
        None => eprintln!("  profile   {profile} (the default from now on)\n"),
        Some(name) => eprintln!(
            "  profile   {profile} (the default from now on; `flumen profile use {name}` goes back)\n"
        ),
    }
    if let Some(brokers) = &written.led_to {
        eprintln!(
            "{WARNING}warning:{WARNING:#} profile {profile} led to another broker, {brokers}, until \
             now; that one is still reached with --profile and the client.toml in its data \
             directory, and `flumen dev --profile NAME` keeps profiles apart\n"
        );
    }
    eprintln!("In another terminal:\n");
    for line in [
        "flumen topic create hello",
        "echo 'hello, world' | flumen produce hello",
        "flumen consume hello --from beginning",
    ] {
        eprintln!("  {COMMAND}{line}{COMMAND:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_keeps_what_it_names_besides_the_members_but_not_those_that_have_left() {
        let all = |named: &str, before: &str, now: &str| {
            let list = |text: &str| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            all_brokers(list(named), &list(before), list(now)).join(" ")
        };
        // It is started again, and knows itself alone so far.
        assert_eq!(all("old:1 b:1 c:1", "old:1", "new:1"), "new:1 b:1 c:1");
        assert_eq!(
            all("new:1 b:1 c:1", "new:1", "new:1 b:1 c:1"),
            "new:1 b:1 c:1"
        );
        assert_eq!(all("a:1 b:1 tunnel:1", "a:1 b:1", "a:1"), "a:1 tunnel:1");
        assert_eq!(all("old:1", "old:1", "new:1"), "new:1");
        assert_eq!(all("a:1", "", "a:1"), "a:1");
    }

    #[test]
    fn each_data_directory_has_a_profile_of_its_own() {
        let name = |dir: &str| profile_name(Path::new(dir), true).unwrap().to_string();
        assert_eq!(name("/tmp/other"), "dev-other");
        assert_eq!(name("other/"), "dev-other");
        assert_eq!(name("/tmp/a b/ü"), "dev--");
        assert_eq!(name("/tmp/a.toml"), "dev-a-toml");
        assert_eq!(name("/"), "dev-");
        assert_eq!(profile_name(Path::new("x"), false).unwrap().as_str(), "dev");
        if let Ok(default) = default_data_dir() {
            assert_eq!(name(&default.display().to_string()), "dev");
        }
        let long = "x".repeat(NAME_CHARS_MAX);
        assert_eq!(name(&long).len(), NAME_CHARS_MAX);
    }
}
