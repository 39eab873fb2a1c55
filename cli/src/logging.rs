//! Logs go to stderr, as text for people or as JSON for machines.

use std::{fmt::Write as _, io};

use flumen_broker::config::LogFormat;
use tracing_subscriber::EnvFilter;

use crate::failure::usage;

/// What client commands log unless told otherwise: what they print says the rest.
pub(crate) const CLIENT_LEVEL: &str = "warn";

/// The consensus engine warns of what is everyday business, such as an election at a start, and
/// calls an error what happens at every stop. Only who names it wants to hear of that: the broker
/// says by itself when the engine of a shard fails, and answers each call to it.
const CONSENSUS: &str = "openraft";

/// Starts logging. `filter` is a level or a list such as `info,flumen_broker::wal=debug`.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let mut directives = filter.to_owned();
    if !filter.contains(CONSENSUS) {
        let _ = write!(directives, ",{CONSENSUS}=off");
    }
    let filter = EnvFilter::builder()
        .parse(directives)
        .map_err(|error| usage(format!("--log {filter:?} cannot be used: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            let colours =
                anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
            builder.with_ansi(colours).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
