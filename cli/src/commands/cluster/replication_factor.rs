//! `flumen cluster replication-factor`.

use anyhow::Result;
use serde_json::json;

use crate::{
    connect::Connection, hint::Named, number::whole, output::OutputFormat, output::counted,
};

const EXAMPLES: &str = "\
Examples:
  flumen cluster replication-factor 3

With 3 replicas one broker may be lost at any moment, with 5 two. Each has to be on another broker.";

/// Set how many replicas every shard has
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// How many
    #[arg(value_name = "N", value_parser = whole(1..=REPLICAS_MAX))]
    factor: u32,
    #[command(flatten)]
    connection: Connection,
}

/// More than this no majority is worth waiting for.
const REPLICAS_MAX: u32 = 7;

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let factor = arguments.factor;
    arguments
        .connection
        .admin(Named::default(), async |admin| {
            admin.set_replication_factor(factor).await
        })
        .await?;
    output.done(
        "set",
        &json!({ "replication_factor": factor }),
        &format!(
            "every shard gets {}; `flumen cluster status` shows how far it is",
            counted(factor.into(), "replica")
        ),
    )
}
