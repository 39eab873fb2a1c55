//! Where a record's key stands in its line.

use std::{borrow::Cow, fmt};

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Flags that say where the key stands.
#[derive(Debug, clap::Args)]
pub(crate) struct KeyFlags {
    /// Lines are JSON objects, and this field of each is the record's key: a text without its
    /// quotes, a number, true or false as written. A line where it is missing, null, an object
    /// or an array ends the command
    #[arg(long, value_name = "FIELD", conflicts_with = "key_separator", value_parser = parse_field)]
    pub(super) key_json: Option<String>,
    /// What stands before this text in a line is the record's key, what follows its value
    #[arg(long, value_name = "SEP", value_parser = parse_separator)]
    key_separator: Option<String>,
}

impl KeyFlags {
    /// Whether a flag says where the key stands.
    pub(super) fn is_given(&self) -> bool {
        self.key_json.is_some() || self.key_separator.is_some()
    }

    /// The key, if there is to be one, and the value.
    pub(crate) fn split(&self, line: Bytes) -> Result<(Option<Bytes>, Bytes)> {
        if let Some(separator) = &self.key_separator {
            let at = find(&line, separator.as_bytes())
                .ok_or_else(|| anyhow!("{separator:?} is not in it, so that it has no key"))?;
            let value = line.slice(at + separator.len()..);
            return Ok((Some(line.slice(..at)), value));
        }
        match &self.key_json {
            Some(name) => Ok((Some(key_of(&line, name)?), line)),
            None => Ok((None, line)),
        }
    }
}

fn parse_field(text: &str) -> Result<String, String> {
    match text {
        "" => Err("write the name of a field".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// The field of that name as a key.
fn key_of(line: &[u8], name: &str) -> Result<Bytes> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let field = Field(name)
        .deserialize(&mut json)
        .and_then(|field| json.end().map(|()| field))
        .map_err(|error| anyhow!("it is not a JSON object: {}", in_one_line(&error)))?;
    let Some(field) = field else {
        bail!("it has no field {name:?} to take the key from");
    };
    let kind = match field.get().as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(field.get())?;
            return Ok(text.into());
        }
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'n') => "null",
        _ => return Ok(Bytes::copy_from_slice(field.get().as_bytes())),
    };
    bail!("its field {name:?} is {kind}; a key is a text, a number, true or false")
}

/// What is wrong and where, without the number of the line: it is counted within the text, which
/// is a line of something else.
pub(super) fn in_one_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at character {}", error.column()),
        None => text,
    }
}

/// Finds one field of an object and passes over the others; the last of that name counts.
struct Field<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(FieldName(name)) = object.next_key()? {
            if name == self.0 {
                found = Some(object.next_value()?);
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// The name of a field, copied only if it has escapes.
#[derive(Deserialize)]
pub(super) struct FieldName<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// A separator, in which `\t` stands for a tab, as shells make it hard to type one.
fn parse_separator(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a separator cannot be empty".to_owned());
    }
    Ok(text.replace("\\t", "\t"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        key: KeyFlags,
    }

    fn split(flags: &[&str], line: &str) -> Result<(Option<Bytes>, Bytes)> {
        let all = ["produce"].iter().chain(flags);
        let key = Command::try_parse_from(all).unwrap().key;
        key.split(Bytes::copy_from_slice(line.as_bytes()))
    }

    fn json_key(line: &str) -> Result<String> {
        let (key, value) = split(&["--key-json", "id"], line)?;
        assert_eq!(value, line, "the value stays whole");
        Ok(String::from_utf8(key.unwrap().to_vec())?)
    }

    #[test]
    fn a_key_stands_before_the_first_separator() {
        let (key, value) = split(&["--key-separator", "\\t"], "a\tb\tc").unwrap();
        assert_eq!((key.unwrap(), value), ("a".into(), "b\tc".into()));
        assert!(split(&["--key-separator", ":"], "abc").is_err());
    }

    #[test]
    fn a_text_is_a_key_without_quotes_and_a_number_as_it_is_written() {
        for (line, key) in [
            (r#"{"id": "x", "n": 7}"#, "x"),
            (r#"{"id": ""}"#, ""),
            (r#"{"id": "a \"b\" \u00e4"}"#, "a \"b\" ä"),
            (r#"{"id": 7}"#, "7"),
            (r#"{"id": 1.50}"#, "1.50"),
            (r#"{"id": 1e3}"#, "1e3"),
            (
                r#"{"id": 123456789012345678901234567890}"#,
                "123456789012345678901234567890",
            ),
            (r#"{"id": true}"#, "true"),
            (r#"{"id": 1, "deep": {"id": 2}, "id": 3}"#, "3"),
            (r#"{"\u0069d": 4}"#, "4"),
        ] {
            assert_eq!(json_key(line).unwrap(), key, "{line}");
        }
    }

    #[test]
    fn a_line_without_a_key_is_refused_with_the_reason() {
        for (line, reason) in [
            (r#"{"n": 1}"#, "no field \"id\""),
            (r#"{"id": null}"#, "is null"),
            (r#"{"id": {"a": 1}}"#, "is an object"),
            (r#"{"id": [1]}"#, "is an array"),
            ("[1]", "not a JSON object"),
            ("7", "not a JSON object"),
            ("", "not a JSON object"),
            (
                "no JSON",
                "not a JSON object: expected ident at character 2",
            ),
            (r#"{"id": 1} x"#, "not a JSON object"),
        ] {
            let error = format!("{:#}", json_key(line).unwrap_err());
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn without_flags_a_line_is_a_value() {
        assert_eq!(split(&[], "a:b").unwrap(), (None, "a:b".into()));
    }
}
