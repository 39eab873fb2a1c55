//! `flumen plugin bind`.

use anyhow::Result;
use flumen_protocol::{
    plugin::{BindingConfig, ErrorPolicy, HookPoint},
    topic::{Name, TopicName},
};

use super::settings::CallFlags;
use crate::{connect::Connection, hint::Named, output::OutputFormat, view};

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
    /// What happens to a record that the plugin fails on
    #[arg(long, value_name = "POLICY", default_value = "reject", value_parser = parse_policy)]
    on_error: ErrorPolicy,
    #[command(flatten)]
    call: CallFlags,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let Arguments { topic, plugin, .. } = &arguments;
    let binding = BindingConfig {
        hook: arguments.hook,
        on_error: arguments.on_error.clone(),
        ..arguments.call.binding(plugin.clone())?
    };
    let dead_letters = match &arguments.on_error {
        ErrorPolicy::DeadLetter(topic) => Some(topic),
        _ => None,
    };
    let named = Named::topic(topic)
        .and_plugin(plugin)
        .and_dead_letters(dead_letters);
    arguments
        .connection
        .admin(named, async |admin| {
            admin.bind(topic.as_str(), binding.clone()).await
        })
        .await?;
    output.done(
        "bound",
        &view::NewBinding::new(topic, &binding),
        &format!("bound plugin {plugin} to topic {topic}"),
    )
}

fn parse_hook(text: &str) -> Result<HookPoint, String> {
    match text {
        "produce" => Ok(HookPoint::Produce),
        _ => Err(format!("{text:?} is no hook; use produce")),
    }
}

fn parse_policy(text: &str) -> Result<ErrorPolicy, String> {
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
