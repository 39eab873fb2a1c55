//! Rounds or removes fields of JSON records:
//!
//! ```json
//! {"round": {"latitude": 1, "longitude": 1}, "remove": ["url", "reporter.email"]}
//! ```
//!
//! A field may be a path through objects. `round` gives the number of decimals to keep, 0 to
//! 15; a field that is null stays as it is, and one that is no number is an error. Fields that
//! a record does not have are no error. What is not touched keeps every byte, its order too.
#![forbid(unsafe_code)]

mod object;

use std::collections::BTreeMap;

use flumen_plugin::{Output, Record, transform};
use serde::Deserialize;

use crate::object::Object;

/// Decimals that a number can be rounded to; beyond, a 64-bit float has none.
const DECIMALS_MAX: i32 = 15;

/// What to do with the fields of an object.
#[derive(Deserialize)]
#[serde(try_from = "Settings")]
struct Config(BTreeMap<String, Action>);

enum Action {
    Remove,
    Round(i32),
    /// The field is an object with fields to redact.
    Enter(Config),
}

#[transform]
fn redact(record: &Record, config: &Config) -> Result<Output, String> {
    let Some(value) = record.value() else {
        return Ok(Output::same());
    };
    let json = std::str::from_utf8(value).map_err(|error| format!("no JSON: {error}"))?;
    let mut redacted = String::with_capacity(json.len());
    config.apply(json, &mut redacted)?;
    Ok(Output::same().value(redacted))
}

impl Config {
    /// Writes the object `json` to `out`, redacted.
    fn apply(&self, json: &str, out: &mut String) -> Result<(), String> {
        let object: Object<'_> =
            serde_json::from_str(json).map_err(|error| format!("no JSON object: {error}"))?;
        out.push('{');
        let mut first = true;
        for (name, value) in object.0 {
            let action = self.0.get(name.as_ref());
            if matches!(action, Some(Action::Remove)) {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            object::write_name(&name, out);
            out.push(':');
            match action {
                None | Some(Action::Remove) => out.push_str(value),
                Some(_) if value == "null" => out.push_str(value),
                Some(Action::Round(decimals)) => round(&name, value, *decimals, out)?,
                Some(Action::Enter(inner)) => inner.apply(value, out)?,
            }
        }
        out.push('}');
        Ok(())
    }

    fn add(&mut self, path: &str, action: Action) -> Result<(), String> {
        let (name, rest) = path
            .split_once('.')
            .map_or((path, None), |(name, rest)| (name, Some(rest)));
        if name.is_empty() {
            return Err(format!(
                "{path:?}: a field is a name, or names with dots between them"
            ));
        }
        let twice = || format!("{path:?} is redacted twice");
        match rest {
            None => match self.0.insert(name.to_owned(), action) {
                None => Ok(()),
                Some(_) => Err(twice()),
            },
            Some(rest) => {
                let inner = self.0.entry(name.to_owned());
                match inner.or_insert_with(|| Action::Enter(Self(BTreeMap::new()))) {
                    Action::Enter(inner) => inner.add(rest, action),
                    _ => Err(twice()),
                }
            }
        }
    }
}

fn round(name: &str, value: &str, decimals: i32, out: &mut String) -> Result<(), String> {
    let number: f64 = serde_json::from_str(value)
        .map_err(|_| format!("field `{name}` is no number and cannot be rounded: {value}"))?;
    let scale = 10_f64.powi(decimals);
    let scaled = number * scale;
    // What is too large to be scaled has no decimals. Adding zero turns -0 into 0.
    let rounded = if scaled.is_finite() {
        scaled.round() / scale + 0.0
    } else {
        number
    };
    out.push_str(&serde_json::to_string(&rounded).map_err(|error| error.to_string())?);
    Ok(())
}

/// The configuration as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    round: BTreeMap<String, i32>,
    #[serde(default)]
    remove: Vec<String>,
}

impl TryFrom<Settings> for Config {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let mut config = Self(BTreeMap::new());
        for (path, decimals) in settings.round {
            if !(0..=DECIMALS_MAX).contains(&decimals) {
                return Err(format!(
                    "{path:?}: round to 0 to {DECIMALS_MAX} decimals, not {decimals}"
                ));
            }
            config.add(&path, Action::Round(decimals))?;
        }
        for path in settings.remove {
            config.add(&path, Action::Remove)?;
        }
        if config.0.is_empty() {
            return Err("nothing to redact: give `round` or `remove`".to_owned());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(config: &str, json: &str) -> Result<String, String> {
        let config: Config = serde_json::from_str(config).map_err(|error| error.to_string())?;
        let mut out = String::new();
        config.apply(json, &mut out)?;
        Ok(out)
    }

    #[test]
    fn numbers_are_rounded_and_the_rest_keeps_every_byte() {
        assert_eq!(
            apply(
                r#"{"round": {"lon": 1, "lat": 0}}"#,
                r#"{"big": 12345678901234567890.10, "lon":-122.197, "té":  [1, 2] ,"lat": 46.5}"#
            )
            .unwrap(),
            r#"{"big":12345678901234567890.10,"lon":-122.2,"té":[1, 2],"lat":47.0}"#
        );
    }

    #[test]
    fn fields_are_removed_also_inside_of_objects() {
        assert_eq!(
            apply(
                r#"{"remove": ["a", "b.c"], "round": {"b.d": 0}}"#,
                r#"{"a": 1, "b": {"c": 2, "d": 3.7, "e": 4}, "c": 5}"#
            )
            .unwrap(),
            r#"{"b":{"d":4.0,"e":4},"c":5}"#
        );
        assert_eq!(apply(r#"{"remove": ["a"]}"#, r#"{"a": 1}"#).unwrap(), "{}");
    }

    #[test]
    fn missing_and_null_fields_are_left_alone() {
        let config = r#"{"round": {"a": 1, "b.c": 1}}"#;
        assert_eq!(apply(config, r#"{"b": null}"#).unwrap(), r#"{"b":null}"#);
        assert_eq!(apply(config, r#"{"a": -0.01}"#).unwrap(), r#"{"a":0.0}"#);
    }

    #[test]
    fn what_cannot_be_redacted_is_an_error() {
        let config = r#"{"round": {"a": 1}}"#;
        assert!(
            apply(config, r#"{"a": "1"}"#)
                .unwrap_err()
                .contains("no number")
        );
        assert!(apply(config, "[]").is_err());
        assert!(apply(config, r#"{"a": 1"#).is_err());
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused() {
        for config in [
            "{}",
            r#"{"round": {"a": 16}}"#,
            r#"{"round": {"a": 1}, "remove": ["a"]}"#,
            r#"{"remove": ["a", "a.b"]}"#,
            r#"{"remove": [""]}"#,
            r#"{"typo": ["a"]}"#,
        ] {
            assert!(apply(config, "{}").is_err(), "{config}");
        }
    }
}
