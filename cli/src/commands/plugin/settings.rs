//! How a plugin is called, as flags.

use anyhow::{Result, bail};
use flumen_broker::{
    config::{ByteSize, Interval},
    plugin::limits::{MEMORY_BYTES_RANGE, TIMEOUT_MS_RANGE},
};
use flumen_protocol::{plugin::BindingConfig, size::Size, topic::Name};

/// Flags of the settings that `bind` and `test` share.
#[derive(Debug, clap::Args)]
pub(crate) struct CallFlags {
    /// The plugin's configuration, or @FILE that holds it
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// How long one call may take
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = parse_timeout)]
    timeout: u32,
    /// How much memory one instance may use
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_memory)]
    memory: ByteSize,
}

impl CallFlags {
    /// A binding of `plugin` with these settings.
    pub(crate) fn binding(&self, plugin: Name) -> Result<BindingConfig> {
        Ok(BindingConfig {
            config: read_config(self.config.as_deref())?,
            timeout_ms: self.timeout,
            memory_bytes_max: self.memory.as_u64(),
            ..BindingConfig::new(plugin)
        })
    }
}

/// The configuration as text, from the command line or from a file.
fn read_config(config: Option<&str>) -> Result<String> {
    let Some(config) = config else {
        return Ok(String::new());
    };
    let Some(path) = config.strip_prefix('@') else {
        return Ok(config.to_owned());
    };
    match std::fs::read_to_string(path) {
        Ok(config) => Ok(config),
        Err(error) => bail!("cannot read the plugin's configuration {path}: {error}"),
    }
}

/// Milliseconds, in the range that a broker takes.
fn parse_timeout(text: &str) -> Result<u32, String> {
    let timeout: Interval = text.parse().map_err(|error| format!("{error}"))?;
    u32::try_from(timeout.as_millis())
        .ok()
        .filter(|ms| TIMEOUT_MS_RANGE.contains(ms))
        .ok_or_else(|| {
            let [shortest, longest] = [TIMEOUT_MS_RANGE.start(), TIMEOUT_MS_RANGE.end()]
                .map(|ms| Interval::from_millis((*ms).into()));
            format!("a call may take {shortest} to {longest}")
        })
}

fn parse_memory(text: &str) -> Result<ByteSize, String> {
    let memory: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    if MEMORY_BYTES_RANGE.contains(&memory.as_u64()) {
        return Ok(memory);
    }
    let [least, most] =
        [MEMORY_BYTES_RANGE.start(), MEMORY_BYTES_RANGE.end()].map(|bytes| Size(*bytes));
    Err(format!("an instance may use {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_would_refuse_is_refused_here_with_the_range() {
        assert_eq!(parse_timeout("200ms").unwrap(), 200);
        for text in ["0s", "500us", "2min", "1000000d"] {
            let error = parse_timeout(text).unwrap_err();
            assert_eq!(error, "a call may take 1ms to 1min", "{text}");
        }
        assert_eq!(parse_memory("16MiB").unwrap(), ByteSize::mib(16));
        for text in ["0", "1KiB", "2GiB"] {
            let error = parse_memory(text).unwrap_err();
            assert_eq!(error, "an instance may use 64 KiB to 1 GiB", "{text}");
        }
    }
}
