//! Logs go to stderr, as text for people or as JSON for machines.

use std::{fmt::Write as _, io};

use flumen_broker::config::LogFormat;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{failure::usage, hint::similar};

/// What client commands log unless told otherwise: what they print says the rest.
pub(crate) const CLIENT_LEVEL: &str = "warn";

/// The consensus engine warns of what is everyday business, such as an election at a start, and
/// calls an error what happens at every stop. Only who names it wants to hear of that: the broker
/// says by itself when the engine of a shard fails, and answers each call to it.
const CONSENSUS: &str = "openraft";

/// The levels, as they are written.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// The crates that log. A filter may name their modules, too.
const CRATES: [&str; 16] = [
    "flumen",
    "flumen_broker",
    "flumen_client",
    "flumen_protocol",
    "flumen_transport",
    CONSENSUS,
    "axum",
    "cranelift_codegen",
    "hyper",
    "mio",
    "quinn",
    "quinn_proto",
    "quinn_udp",
    "rustls",
    "tokio",
    "wasmtime",
];

/// Starts logging. `filter` is a level or a list such as `info,flumen_broker::wal=debug`.
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    check(filter)?;
    let mut directives = filter.to_owned();
    if !filter.contains(CONSENSUS) {
        let _ = write!(directives, ",{CONSENSUS}=off");
    }
    let filter = EnvFilter::builder()
        .parse(directives)
        .map_err(|error| usage(format!("{filter:?} cannot be used for --log: {error}")))?;
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

/// Refuses what would pass for the name of a crate that nobody has, and log nothing.
fn check(filter: &str) -> anyhow::Result<()> {
    for directive in filter.split(',').map(str::trim) {
        // A span with its fields: the parser says what is wrong in it.
        let is_span = directive.contains(['[', ']', '{', '}']);
        let is_end = directive.is_empty() && !filter.trim().is_empty();
        if is_span || is_end {
            continue;
        }
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target), Some(level)),
            None if is_level(directive) => (None, Some(directive)),
            None => (Some(directive), None),
        };
        let is_known = |target: &str| {
            let of_crate = target.split("::").next().unwrap_or(target);
            CRATES.contains(&of_crate)
        };
        if target.is_none_or(is_known) && level.is_none_or(is_level) {
            continue;
        }
        let names = LEVELS.into_iter().chain(CRATES);
        let meant = match similar(directive, names) {
            Some(meant) => format!("; did you mean {meant}?"),
            None => String::new(),
        };
        return Err(usage(format!(
            "{filter:?} cannot be used for log or --log: {directive:?} is neither a level, which is {}, nor a \
             module and its level, such as flumen_broker::wal=debug, of one of the crates {}{meant}",
            LEVELS.join(", "),
            CRATES.join(", "),
        )));
    }
    Ok(())
}

fn is_level(text: &str) -> bool {
    !text.is_empty() && text.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_level_and_no_module_that_logs_is_refused_with_what_is_allowed() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,",
            "info,flumen_broker::wal=debug",
            "warn, openraft=info",
            "flumen_client",
            "flumen[request{name=a,id=1}]=trace",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for (bad, part) in [
            ("nonsense", "\"nonsense\" is neither a level"),
            ("bogus=", "\"bogus=\" is neither"),
            ("info,flumen_broker=loud", "flumen_broker=loud"),
            ("", "error, warn, info, debug, trace, off"),
            ("flumen_broker=", "is neither"),
            ("debgu", "did you mean debug?"),
            ("flumen_brokr::wal=debug", "flumen_broker::wal=debug"),
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.is::<crate::failure::UsageError>());
            assert!(error.to_string().contains(part), "{bad}: {error}");
        }
    }
}
