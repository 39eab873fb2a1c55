//! `flumen cluster status`.

use anyhow::Result;

use super::{
    tables::{brokers_table, fail_unless_healthy, write_summary},
    view,
};
use crate::{
    connect::Connection,
    hint::Named,
    output::{OutputFormat, write_table},
};

const EXAMPLES: &str = "\
Examples:
  flumen cluster status
  flumen cluster status > /dev/null && echo healthy
  flumen cluster status --output json | jq '.brokers[] | select(.state != \"active\")'

The exit code is 1 when the cluster is not healthy: when a shard has no leader or not all of its
replicas, when a broker cannot be reached or takes no records, or when one is far behind, or is
behind for half a minute.";

/// Show the brokers, and whether all is well
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
    output.print(&view::Summary::from(&status), |out| {
        write_summary(out, &status)?;
        writeln!(out)?;
        write_table(out, &brokers_table(&status))
    })?;
    fail_unless_healthy(&status)
}
