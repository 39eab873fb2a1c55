//! Keeps records whose value starts with a text: about the least that a filter can do, and
//! what `flumen bench plugin` runs.
//!
//! ```json
//! {"text": "GET "}
//! ```
#![forbid(unsafe_code)]

use flumen_plugin::{Record, filter};
use serde::Deserialize;

/// The configuration of a binding.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    text: String,
}

#[filter]
fn keep(record: &Record, config: &Config) -> bool {
    record.value_starts_with(&config.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_by_how_they_start() {
        let config = Config {
            text: "GET ".to_owned(),
        };
        assert!(keep(&Record::new("GET /"), &config));
        assert!(!keep(&Record::new("PUT /"), &config));
        assert!(!keep(&Record::new("GE"), &config));
    }
}
