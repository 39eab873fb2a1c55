//! `flumen cluster token`.

use anstream::eprintln;
use anyhow::Result;
use flumen_broker::config::Interval;
use serde_json::json;

use crate::{connect::Connection, hint::Named, output::OutputFormat};

const EXAMPLES: &str = "\
Examples:
  flumen cluster token
  flumen cluster token --ttl 10min > join.token
  flumen serve --data-dir data --listen 10.0.0.2:4650 --join @join.token
  flumen cluster token --output json | jq -r .token

The token holds the addresses of brokers, the fingerprint of the cluster's authority and a secret.
Whoever has it can make a broker one of the cluster until it expires, as often as wanted: treat it
like a key.";

/// Make a token with which new brokers join the cluster
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// How long the token is valid, up to 30 days
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_ttl)]
    ttl: Interval,
    #[command(flatten)]
    connection: Connection,
}

/// As brokers take it.
const TTL_MIN: Interval = Interval::from_secs(1);
const TTL_MAX: Interval = Interval::from_secs(30 * 24 * 60 * 60);

fn parse_ttl(text: &str) -> Result<Interval, String> {
    match text.parse::<Interval>() {
        Ok(ttl) if (TTL_MIN..=TTL_MAX).contains(&ttl) => Ok(ttl),
        Ok(_) => Err(format!("a token is valid for {TTL_MIN} to {TTL_MAX}")),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let ttl = arguments.ttl;
    let token = arguments
        .connection
        .admin(Named::default(), async |admin| {
            admin.create_join_token(ttl.into()).await
        })
        .await?;
    if output == OutputFormat::Text {
        eprintln!("valid for {ttl}; start a new broker with flumen serve --join TOKEN");
    }
    let object = json!({ "token": token, "valid_for_ms": ttl.as_millis() });
    output.done("created", &object, &token)
}
