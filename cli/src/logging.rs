//! Logs go to stderr, as text for people or as JSON for machines.

use std::io;

use flumen_broker::config::LogFormat;
use tracing_subscriber::EnvFilter;

use crate::failure::usage;

/// What client commands log unless told otherwise: what they print says the rest.
pub(crate) const CLIENT_LEVEL: &str = "warn";

/// Starts logging. `filter` is a level or a list such as `info,flumen_broker::wal=debug`.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| usage(format!("--log {filter:?} cannot be used: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
            builder.with_ansi(colours).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
