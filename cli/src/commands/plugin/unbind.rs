//! `flumen plugin unbind`.

use anyhow::Result;
use flumen_protocol::topic::{Name, TopicName};
use serde_json::json;

use crate::{connect::Connection, hint::Named, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen plugin unbind quakes json-filter";

/// Detach a plugin from a topic
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    topic: TopicName,
    /// The plugin
    #[arg(value_name = "NAME")]
    plugin: Name,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let Arguments { topic, plugin, .. } = &arguments;
    arguments
        .connection
        .admin(Named::topic(topic).and_plugin(plugin), async |admin| {
            admin.unbind(topic.as_str(), plugin.as_str()).await
        })
        .await?;
    output.done(
        "unbound",
        &json!({ "topic": topic, "plugin": plugin }),
        &format!("unbound plugin {plugin} from topic {topic}"),
    )
}
