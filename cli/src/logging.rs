//! Logs go to stderr, as text for people or as JSON for machines.

use std::io;

use anstream::eprintln;
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
    let (filter, warnings) = parse(filter)?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
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

/// The filter, and what is odd about it.
fn parse(filter: &str) -> anyhow::Result<(EnvFilter, Vec<String>)> {
    let directives = filter.split(',').map(str::trim);
    let mut directives: Vec<_> = directives.filter(|part| !part.is_empty()).collect();
    if directives.is_empty() {
        return Err(refused(filter, ""));
    }
    let mut warnings = Vec::new();
    for directive in &directives {
        warnings.extend(check(filter, directive)?);
    }
    let consensus_off = format!("{CONSENSUS}=off");
    if !filter.contains(CONSENSUS) {
        directives.push(&consensus_off);
    }
    // The parser does not trim.
    let parsed = EnvFilter::builder()
        .parse(directives.join(","))
        .map_err(|error| usage(format!("{filter:?} cannot be used for --log: {error}")))?;
    Ok((parsed, warnings))
}

/// Refuses what is no level, and what would pass for the name of a crate that nobody has, and log
/// nothing. Warns of a module that is not known: the next version may have it, or the last one, and
/// a broker must not stay down for it.
fn check(filter: &str, directive: &str) -> anyhow::Result<Option<String>> {
    // A span with its fields: the parser says what is wrong in it.
    if directive.contains(['[', ']', '{', '}']) {
        return Ok(None);
    }
    let Some((target, level)) = directive.split_once('=') else {
        return if is_level(directive) || is_known(directive) {
            Ok(None)
        } else {
            Err(refused(filter, directive))
        };
    };
    if target.is_empty() || !is_level(level) {
        return Err(refused(filter, directive));
    }
    Ok((!is_known(target)).then(|| {
        format!(
            "nothing is known to log as {target}, which the log filter {filter:?} names{}",
            meant(target)
        )
    }))
}

fn refused(filter: &str, directive: &str) -> anyhow::Error {
    usage(format!(
        "{filter:?} cannot be used for log or --log: {directive:?} is neither a level, which is {}, nor a \
         module and its level, such as flumen_broker::wal=debug, of one of the crates {}{}",
        LEVELS.join(", "),
        CRATES.join(", "),
        meant(directive),
    ))
}

fn meant(directive: &str) -> String {
    match similar(directive, LEVELS.into_iter().chain(CRATES)) {
        Some(meant) => format!("; did you mean {meant}?"),
        None => String::new(),
    }
}

/// Whether a crate has that name, or a name that begins so, or a module of a crate may have it.
fn is_known(target: &str) -> bool {
    match target.split_once("::") {
        Some((of_crate, _)) => CRATES.contains(&of_crate),
        None => CRATES.iter().any(|known| known.starts_with(target)),
    }
}

fn is_level(text: &str) -> bool {
    !text.is_empty() && text.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_what_the_filter_understands_and_logs_as_much_as_it_says() {
        for (good, most) in [
            ("info", LevelFilter::INFO),
            ("WARN", LevelFilter::WARN),
            ("off", LevelFilter::OFF),
            ("info,", LevelFilter::INFO),
            (" info ", LevelFilter::INFO),
            ("info, debug", LevelFilter::DEBUG),
            ("info,flumen_broker::wal=debug", LevelFilter::DEBUG),
            ("warn, openraft=info", LevelFilter::INFO),
            ("warn ,\tflumen=debug , ", LevelFilter::DEBUG),
            ("flumen_client", LevelFilter::TRACE),
            ("flumen_brok", LevelFilter::TRACE),
            ("quinn=debug", LevelFilter::DEBUG),
        ] {
            let (filter, warnings) = parse(good).unwrap();
            assert_eq!(filter.max_level_hint(), Some(most), "{good}");
            assert_eq!(warnings, Vec::<String>::new());
        }
        assert!(parse("flumen[request{name=a}]=trace").is_ok());
    }

    #[test]
    fn a_module_that_is_not_known_is_warned_of_and_stops_nothing() {
        let (filter, warnings) = parse("info, flumen_brokr::wal=debug, h3=off").unwrap();
        assert_eq!(filter.max_level_hint(), Some(LevelFilter::DEBUG));
        let [broker, h3] = &warnings[..] else {
            panic!("{warnings:?}");
        };
        assert!(broker.contains("log as flumen_brokr::wal"), "{broker}");
        assert!(h3.contains("log as h3"), "{h3}");
    }

    #[test]
    fn what_is_no_level_and_no_module_that_logs_is_refused_with_what_is_allowed() {
        for (bad, part) in [
            ("nonsense", "\"nonsense\" is neither a level"),
            ("bogus=", "\"bogus=\" is neither"),
            ("=debug", "\"=debug\" is neither"),
            ("info,flumen_broker=loud", "flumen_broker=loud"),
            ("", "error, warn, info, debug, trace, off"),
            (" , ", "error, warn, info, debug, trace, off"),
            ("flumen_broker=", "is neither"),
            ("debgu", "did you mean debug?"),
            ("flumen_brokr", "did you mean flumen_broker?"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.is::<crate::failure::UsageError>());
            assert!(error.to_string().contains(part), "{bad}: {error}");
        }
    }
}
