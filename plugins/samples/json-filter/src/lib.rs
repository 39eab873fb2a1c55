//! Keeps JSON records by comparing one of their fields:
//!
//! ```json
//! {"field": "magnitude", "op": ">=", "value": 4.5}
//! ```
//!
//! `field` may be a path through objects (`"location.depth_km"`), `op` is one of `==`, `!=`,
//! `<`, `<=`, `>` and `>=`, and `value` is a number, a string, or a boolean. Numbers compare by size,
//! integers exactly, however large they are. A record without
//! the field, or where it is null, is dropped, unless `"missing": "keep"` or
//! `"missing": "error"` says otherwise. A record that is no JSON object is an error, and so is
//! a field of another type than `value`.
//!
//! A record is read up to the field and no further: filtering does not validate the rest.
#![forbid(unsafe_code)]

mod find;
mod number;

use flumen_plugin::{Record, filter};
use serde::Deserialize;

use self::number::Number;

/// The configuration of a binding.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    field: Path,
    op: Op,
    value: Operand,
    #[serde(default)]
    missing: Missing,
}

/// The names of fields on the way to a value.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Path(Vec<String>);

#[derive(Clone, Copy, Deserialize)]
enum Op {
    #[serde(rename = "==")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = "<=")]
    LessOrEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = ">=")]
    GreaterOrEqual,
}

/// What a field is compared with.
#[derive(Deserialize)]
#[serde(untagged)]
enum Operand {
    Boolean(bool),
    Number(Number),
    Text(String),
}

/// What becomes of a record without the field.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Missing {
    #[default]
    Drop,
    Keep,
    Error,
}

#[filter]
fn keep(record: &Record, config: &Config) -> Result<bool, String> {
    let found = match record.value() {
        Some(json) => find::compare(json, config)?,
        None => None,
    };
    match (found, config.missing) {
        (Some(keep), _) => Ok(keep),
        (None, Missing::Drop) => Ok(false),
        (None, Missing::Keep) => Ok(true),
        (None, Missing::Error) => Err(format!("the record has no field {}", config.field)),
    }
}

impl TryFrom<String> for Path {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        let names: Vec<_> = path.split('.').map(str::to_owned).collect();
        if names.iter().any(String::is_empty) {
            return Err("a field is a name, or names with dots between them");
        }
        Ok(Self(names))
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`", self.0.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(config: &str, json: &str) -> Result<bool, String> {
        let config: Config = serde_json::from_str(config).unwrap();
        keep(&Record::new(json), &config)
    }

    const STRONG: &str = r#"{"field": "magnitude", "op": ">=", "value": 4.5}"#;

    #[test]
    fn numbers_compare_by_size() {
        assert_eq!(verdict(STRONG, r#"{"magnitude": 4.5}"#), Ok(true));
        assert_eq!(verdict(STRONG, r#"{"magnitude": 4.49}"#), Ok(false));
        assert_eq!(
            verdict(STRONG, r#"{"id": [1, {"magnitude": 1}], "magnitude": 9}"#),
            Ok(true)
        );
        assert_eq!(verdict(STRONG, r#"{"magnitude": -1}"#), Ok(false));
    }

    #[test]
    fn a_negative_zero_is_zero_and_large_integers_differ() {
        let positive = r#"{"field": "n", "op": ">=", "value": 0}"#;
        for zero in [r#"{"n": -0.0}"#, r#"{"n": -0}"#, r#"{"n": 0}"#] {
            assert_eq!(verdict(positive, zero), Ok(true), "{zero}");
        }
        let id = r#"{"field": "n", "op": "==", "value": 9007199254740993}"#;
        assert_eq!(verdict(id, r#"{"n": 9007199254740993}"#), Ok(true));
        assert_eq!(verdict(id, r#"{"n": 9007199254740992}"#), Ok(false));
    }

    #[test]
    fn texts_and_booleans_compare_too() {
        let kind = r#"{"field": "kind", "op": "==", "value": "quarry blast"}"#;
        assert_eq!(verdict(kind, r#"{"kind": "quarry blast"}"#), Ok(true));
        assert_eq!(verdict(kind, r#"{"kind": "quarry\u0020blast"}"#), Ok(true));
        assert_eq!(verdict(kind, r#"{"kind": "earthquake"}"#), Ok(false));
        let calm = r#"{"field": "tsunami", "op": "!=", "value": true}"#;
        assert_eq!(verdict(calm, r#"{"tsunami": false}"#), Ok(true));
    }

    #[test]
    fn a_path_leads_through_objects() {
        let deep = r#"{"field": "at.depth", "op": "<", "value": 10}"#;
        assert_eq!(
            verdict(deep, r#"{"depth": 1, "at": {"x": {}, "depth": 9.5}}"#),
            Ok(true)
        );
        assert_eq!(verdict(deep, r#"{"at": {"depth": 10}}"#), Ok(false));
        assert_eq!(verdict(deep, r#"{"at": null}"#), Ok(false));
        assert!(
            verdict(deep, r#"{"at": 7}"#)
                .unwrap_err()
                .contains("an object")
        );
    }

    #[test]
    fn a_record_without_the_field_is_dropped_unless_told_otherwise() {
        assert_eq!(verdict(STRONG, r#"{"place": "here"}"#), Ok(false));
        assert_eq!(verdict(STRONG, r#"{"magnitude": null}"#), Ok(false));
        let keep = r#"{"field": "a", "op": ">", "value": 1, "missing": "keep"}"#;
        assert_eq!(verdict(keep, "{}"), Ok(true));
        let error = r#"{"field": "a", "op": ">", "value": 1, "missing": "error"}"#;
        assert!(verdict(error, "{}").unwrap_err().contains("`a`"));
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        assert!(verdict(STRONG, r#"{"magnitude": "strong"}"#).is_err());
        assert!(verdict(STRONG, "{\"magnitude\": ").is_err());
        assert!(verdict(STRONG, "not JSON").is_err());
        assert!(verdict(STRONG, "[4.5]").is_err());
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused() {
        for config in [
            "{}",
            r#"{"field": "", "op": "==", "value": 1}"#,
            r#"{"field": "a..b", "op": "==", "value": 1}"#,
            r#"{"field": "a", "op": "~", "value": 1}"#,
            r#"{"field": "a", "op": "==", "value": [1]}"#,
            r#"{"field": "a", "op": "==", "value": 1, "typo": 1}"#,
        ] {
            assert!(serde_json::from_str::<Config>(config).is_err(), "{config}");
        }
    }
}
