//! `flumen cluster describe`.

use anyhow::Result;

use super::{
    tables::{brokers_table, fail_unless_healthy, shards_table, write_summary},
    view,
};
use crate::{
    connect::Connection,
    hint::Named,
    output::{OutputFormat, write_table},
};

const EXAMPLES: &str = "\
Examples:
  flumen cluster describe
  flumen cluster describe --output json | jq '.shards[] | select(.leader == null)'

The exit code is 1 when the cluster is not healthy, as with `flumen cluster status`.";

/// Show the brokers and every shard with its replicas
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let status = arguments
        .connection
        .admin(Named::default(), async |admin| admin.cluster_status().await)
        .await?;
    output.print(&view::Details::from(&status), |out| {
        write_summary(out, &status)?;
        writeln!(out)?;
        write_table(out, &brokers_table(&status))?;
        writeln!(out)?;
        write_table(out, &shards_table(&status))
    })?;
    fail_unless_healthy(&status)
}
