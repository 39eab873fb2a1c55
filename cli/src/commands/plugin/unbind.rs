//! `flumen plugin unbind`.

use anyhow::Result;
use flumen_protocol::topic::{Name, TopicName};

use crate::{connect::Connection, output::OutputFormat};

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
        .admin(async |admin| admin.unbind(topic.as_str(), plugin.as_str()).await)
        .await?;
    output.done(&format!("unbound {plugin} from topic {topic}"))
}
