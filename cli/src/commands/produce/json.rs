//! Records as JSON objects, one a line: what `flumen consume --format json` prints, and what people
//! write by hand.

use std::{borrow::Cow, fmt};

use anyhow::{Result, anyhow, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flumen_client::{Message, Raw};
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    key::{FieldName, in_one_line},
    record::Record,
};

/// What is expected of a line, told with every error about one.
const EXPECTED: &str = "a record is an object such as {\"key\": \"a\", \"value\": 1}, as \
     `flumen consume --format json` prints them; `flumen produce --help` has all fields";

/// A line as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Fields<'a> {
    #[serde(default, borrow)]
    partition: Option<&'a RawValue>,
    /// Where the record was in another topic.
    #[serde(default, rename = "offset")]
    _offset: Option<IgnoredAny>,
    #[serde(default, borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(default, borrow)]
    key: Option<&'a RawValue>,
    #[serde(default)]
    key_encoding: Option<Encoding>,
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(default)]
    value_encoding: Option<Encoding>,
    #[serde(default, borrow)]
    headers: Option<Headers<'a>>,
    #[serde(default)]
    content_type: Option<String>,
}

/// How bytes stand in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Json,
    Text,
    Base64,
}

/// Reads a line.
pub(super) fn record(line: &[u8]) -> Result<Record> {
    read(line).map_err(|error| anyhow!("{error:#}; {EXPECTED}"))
}

fn read(line: &[u8]) -> Result<Record> {
    // Without this, an array would do as well, with the fields in their order.
    if line.trim_ascii_start().first() != Some(&b'{') {
        bail!("it is not a JSON object");
    }
    let fields: Fields<'_> = serde_json::from_slice(line)
        .map_err(|error| anyhow!("it is not a record: {}", in_one_line(&error)))?;
    let key = match fields.key {
        Some(raw) => Some(plain("key", raw, fields.key_encoding)?),
        None => None,
    };
    let value = value(fields.value, fields.value_encoding)?;
    let bytes = key.as_ref().map_or(0, Bytes::len) + value.as_ref().map_or(0, Bytes::len);
    let mut message: Message<Raw> = match (key, value) {
        (Some(key), Some(value)) => Message::new(value).key_bytes(key),
        (None, Some(value)) => Message::new(value),
        (Some(key), None) => Message::tombstone(key),
        (None, None) => bail!(
            "it has neither a key nor a value; a value that is null deletes the record of a key"
        ),
    };
    for (name, value) in fields.headers.map_or_else(Vec::new, |headers| headers.0) {
        message = message.header(&name, plain("header", value, None)?);
    }
    if let Some(raw) = fields.timestamp {
        message = message.timestamp_ms(timestamp_ms(raw)?);
    }
    Ok(Record {
        partition: fields.partition.map(partition).transpose()?,
        message,
        content_type: fields.content_type,
        bytes: bytes as u64,
    })
}

/// The value; none in a tombstone.
fn value(raw: &RawValue, encoding: Option<Encoding>) -> Result<Option<Bytes>> {
    let as_it_stands = || Bytes::copy_from_slice(raw.get().as_bytes());
    Ok(match encoding {
        Some(Encoding::Text | Encoding::Base64) => Some(plain("value", raw, encoding)?),
        None if raw.get() == "null" => None,
        None if is_text(raw) || base64_of(raw).is_some() => Some(plain("value", raw, None)?),
        Some(Encoding::Json) | None => Some(as_it_stands()),
    })
}

/// A text without its quotes, the bytes of `{"base64": …}`, a number, true or false as written.
fn plain(what: &str, raw: &RawValue, encoding: Option<Encoding>) -> Result<Bytes> {
    if let Some(encoding) = encoding {
        let is_so = match encoding {
            Encoding::Json => bail!("its {what} cannot have the encoding json, but text or base64"),
            Encoding::Text => is_text(raw),
            Encoding::Base64 => base64_of(raw).is_some(),
        };
        if !is_so {
            bail!(match encoding {
                Encoding::Base64 =>
                    format!("its {what} has the encoding base64, and is no {{\"base64\": \"…\"}}"),
                _ => format!("its {what} has the encoding text, and is no text"),
            });
        }
    }
    let kind = match raw.get().as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(raw.get())
                .map_err(|error| anyhow!("its {what} is no text: {}", in_one_line(&error)))?;
            return Ok(text.into());
        }
        Some(b'{') => match base64_of(raw) {
            Some(text) => {
                let decoded = STANDARD.decode(text.as_bytes());
                return Ok(decoded
                    .map_err(|error| anyhow!("its {what} is no base64: {error}"))?
                    .into());
            }
            None => "an object",
        },
        Some(b'[') => "an array",
        Some(b'n') => "null",
        _ => return Ok(Bytes::copy_from_slice(raw.get().as_bytes())),
    };
    bail!("its {what} is {kind}, and not a text or {{\"base64\": \"…\"}}")
}

fn is_text(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// What stands in `{"base64": …}`, if it is such an object.
fn base64_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bytes<'a> {
        #[serde(borrow)]
        base64: Cow<'a, str>,
    }
    let is_object = raw.get().starts_with('{');
    let bytes: Bytes<'_> = serde_json::from_str(raw.get()).ok().filter(|_| is_object)?;
    Some(bytes.base64)
}

fn partition(raw: &RawValue) -> Result<u32> {
    serde_json::from_str(raw.get())
        .map_err(|_| anyhow!("its partition is {raw}, and not a whole number from 0"))
}

/// RFC 3339, or milliseconds since the epoch: as a number, or as the text that stands for what no
/// calendar has.
fn timestamp_ms(raw: &RawValue) -> Result<i64> {
    let text: Cow<'_, str> = match serde_json::from_str::<FieldName<'_>>(raw.get()) {
        Ok(text) => text.0,
        Err(_) => raw.get().into(),
    };
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    match text.parse::<Timestamp>() {
        Ok(timestamp) => Ok(timestamp.as_millisecond()),
        Err(_) => bail!(
            "its timestamp is {raw}, and not a time such as \"2026-01-31T12:00:00.000Z\", or \
             milliseconds since 1970"
        ),
    }
}

/// Names and values, in their order: `[["name", "value"], …]` or `{"name": "value", …}`.
struct Headers<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a, 'de: 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Headers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers such as [[\"name\", \"value\"]] or {\"name\": \"value\"}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<Self::Value, A::Error> {
                let mut headers = Vec::new();
                while let Some((FieldName(name), value)) = pairs.next_element()? {
                    headers.push((name, value));
                }
                Ok(Headers(headers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
                let mut headers = Vec::new();
                while let Some((FieldName(name), value)) = object.next_entry()? {
                    headers.push((name, value));
                }
                Ok(Headers(headers))
            }
        }

        json.deserialize_any(All)
    }
}

#[cfg(test)]
mod tests;
