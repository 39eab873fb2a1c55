//! `flumen plugin bind`.

use anyhow::{Result, bail};
use flumen_broker::config::{ByteSize, Interval};
use flumen_protocol::{
    plugin::{BindingConfig, ErrorPolicy, HookPoint},
    topic::{Name, TopicName},
};

use crate::{connect::Connection, failure::usage, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen plugin bind quakes json-filter --config '{\"field\":\"magnitude\",\"op\":\">=\",\"value\":4.5}'
  flumen plugin bind quakes json-redact --config @redact.json --on-error dead-letter=quakes.failed
  flumen plugin bind quakes slow-check --timeout 200ms --memory 64MiB --on-error skip

Plugins on one topic run in the order in which they were bound. What happens to a record that the
plugin fails on:
  reject               the producer gets an error with the plugin's own words
  skip                 the record passes on unchanged
  drop                 the record is dropped
  dead-letter=TOPIC    the record goes to TOPIC, with the reason in its headers";

/// Attach a plugin to a topic
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    topic: TopicName,
    /// The plugin
    #[arg(value_name = "NAME")]
    plugin: Name,
    /// Where on a record's way it runs: `produce`, before a record is stored
    #[arg(long, value_name = "HOOK", default_value = "produce", value_parser = parse_hook)]
    hook: HookPoint,
    /// The plugin's configuration, or @FILE that holds it
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// What happens to a record that the plugin fails on
    #[arg(long, value_name = "POLICY", default_value = "reject", value_parser = parse_policy)]
    on_error: ErrorPolicy,
    /// How long one call may take
    #[arg(long, value_name = "DURATION", default_value = "50ms")]
    timeout: Interval,
    /// How much memory one instance may use
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    memory: ByteSize,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let Arguments { topic, plugin, .. } = &arguments;
    let timeout_ms = u32::try_from(arguments.timeout.as_millis())
        .ok()
        .filter(|ms| *ms > 0)
        .ok_or_else(|| usage(format!("--timeout {} is out of range", arguments.timeout)))?;
    let binding = BindingConfig {
        hook: arguments.hook,
        config: read_config(arguments.config.as_deref())?,
        on_error: arguments.on_error.clone(),
        timeout_ms,
        memory_bytes_max: arguments.memory.as_u64(),
        ..BindingConfig::new(plugin.clone())
    };
    arguments
        .connection
        .admin(async |admin| admin.bind(topic.as_str(), binding).await)
        .await?;
    output.done(&format!("bound {plugin} to topic {topic}"))
}

/// The configuration as text, from the command line or from a file.
pub(super) fn read_config(config: Option<&str>) -> Result<String> {
    let Some(config) = config else {
        return Ok(String::new());
    };
    let Some(path) = config.strip_prefix('@') else {
        return Ok(config.to_owned());
    };
    match std::fs::read_to_string(path) {
        Ok(config) => Ok(config),
        Err(error) => bail!("cannot read the plugin's configuration {path}: {error}"),
    }
}

fn parse_hook(text: &str) -> Result<HookPoint, String> {
    match text {
        "produce" => Ok(HookPoint::Produce),
        _ => Err(format!("{text:?} is no hook; use produce")),
    }
}

pub(super) fn parse_policy(text: &str) -> Result<ErrorPolicy, String> {
    match (text, text.split_once('=')) {
        ("reject", _) => Ok(ErrorPolicy::Reject),
        ("skip", _) => Ok(ErrorPolicy::Skip),
        ("drop", _) => Ok(ErrorPolicy::Drop),
        (_, Some(("dead-letter", topic))) => Ok(ErrorPolicy::DeadLetter(
            TopicName::new(topic).map_err(|error| error.to_string())?,
        )),
        _ => Err(format!(
            "{text:?} is no error policy; use reject, skip, drop or dead-letter=TOPIC"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for text in ["reject", "skip", "drop", "dead-letter=failed"] {
            assert_eq!(parse_policy(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "dead-letter",
            "dead-letter=",
            "dead-letter=a b",
            "retry",
        ] {
            assert!(parse_policy(text).is_err(), "{text}");
        }
    }
}
