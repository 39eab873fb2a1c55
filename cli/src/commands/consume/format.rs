//! How a record is printed.

use std::io::Write;

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use flumen_client::{Offset, RecordRef};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::view;

/// How a record is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RecordFormat {
    /// The value
    Value,
    /// The key, a tab, the value
    KeyValue,
    /// An object with everything
    Json,
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    partition: u32,
    offset: u64,
    timestamp: String,
    key: Option<Part<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    value: Option<Part<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(&'a str, Part<'a>)>,
}

/// Bytes as JSON, in the form that says most about them.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Bytes { base64: String },
}

/// Bytes in JSON: text as text, other bytes as `{"base64": …}`.
pub(crate) fn plain(bytes: &[u8]) -> impl Serialize {
    Part::text(bytes)
}

impl<'a> Part<'a> {
    /// Text as text, other bytes as base64.
    fn text(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Bytes {
                base64: STANDARD.encode(bytes),
            },
        }
    }

    /// Which form that is: a JSON text looks like any text, and a JSON object may look like base64.
    fn encoding(&self) -> &'static str {
        match self {
            Self::Json(_) => "json",
            Self::Text(_) => "text",
            Self::Bytes { .. } => "base64",
        }
    }

    /// JSON as it is, anything else as above.
    fn json(bytes: &'a [u8]) -> Self {
        match serde_json::from_slice::<&RawValue>(bytes) {
            // Raw JSON may span lines, and a record must not. Blanks around it would be lost.
            Ok(json) if !bytes.contains(&b'\n') && json.get().len() == bytes.len() => {
                Self::Json(json)
            }
            _ => Self::text(bytes),
        }
    }
}

impl RecordFormat {
    /// Appends the record and a line end.
    pub(crate) fn write(
        self,
        out: &mut Vec<u8>,
        partition: u32,
        content_type: &str,
        offset: Offset,
        record: &RecordRef<'_>,
    ) -> Result<()> {
        match self {
            Self::Value => out.extend_from_slice(record.value.unwrap_or_default()),
            Self::KeyValue => {
                out.extend_from_slice(record.key.unwrap_or_default());
                out.push(b'\t');
                out.extend_from_slice(record.value.unwrap_or_default());
            }
            Self::Json => {
                let (key, value) = (record.key.map(Part::text), record.value.map(Part::json));
                let json = JsonRecord {
                    partition,
                    offset: offset.0,
                    timestamp: view::time(record.timestamp_ms),
                    key_encoding: key.as_ref().map(Part::encoding),
                    key,
                    value_encoding: value.as_ref().map(Part::encoding),
                    value,
                    content_type,
                    headers: record
                        .headers
                        .into_iter()
                        .map(|header| (header.name, Part::text(header.value)))
                        .collect(),
                };
                serde_json::to_writer(&mut *out, &json)?;
            }
        }
        writeln!(out)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flumen_protocol::batch::{Headers, encode_headers};

    use super::*;

    fn line(format: RecordFormat, key: Option<&[u8]>, value: Option<&[u8]>) -> String {
        let headers = encode_headers([("h", &b"1"[..])]);
        let record = RecordRef {
            timestamp_ms: 1_000,
            key,
            value,
            headers: Headers::from_encoded(&headers),
        };
        let mut out = Vec::new();
        format.write(&mut out, 3, "", Offset(7), &record).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_stands_alone_or_behind_its_key() {
        let (key, value) = (Some(&b"k"[..]), Some(&b"v"[..]));
        assert_eq!(line(RecordFormat::Value, key, value), "v\n");
        assert_eq!(line(RecordFormat::KeyValue, key, value), "k\tv\n");
        assert_eq!(line(RecordFormat::KeyValue, None, None), "\t\n");
    }

    #[test]
    fn an_object_has_everything() {
        assert_eq!(
            line(RecordFormat::Json, Some(b"k"), Some(b"{\"a\": 1}")),
            "{\"partition\":3,\"offset\":7,\"timestamp\":\"1970-01-01T00:00:01.000Z\",\"key\":\"k\",\
             \"key_encoding\":\"text\",\"value\":{\"a\": 1},\"value_encoding\":\"json\",\"headers\":[[\"h\",\"1\"]]}\n"
        );
        let text = line(RecordFormat::Json, None, Some(b"a\nb"));
        assert!(text.contains("\"key\":null,\"value\":\"a\\nb\""), "{text}");
        let binary = line(RecordFormat::Json, None, Some(&[0xff, 0xfe]));
        assert!(binary.contains("{\"base64\":\"//4=\"}"), "{binary}");
        let tombstone = line(RecordFormat::Json, Some(b"k"), None);
        assert!(tombstone.contains("\"value\":null"), "{tombstone}");
    }

    #[test]
    fn values_that_look_alike_are_told_apart() {
        let encoded = |value: &[u8]| {
            let line = line(RecordFormat::Json, None, Some(value));
            let object: serde_json::Value = serde_json::from_str(&line).unwrap();
            (object["value"].clone(), object["value_encoding"].clone())
        };
        let (json, text) = (encoded(b"\"a\""), encoded(b"a"));
        assert_eq!(json.0, text.0);
        assert_eq!((json.1, text.1), ("json".into(), "text".into()));
        let (json, binary) = (encoded(b"{\"base64\":\"/w==\"}"), encoded(&[0xff]));
        assert_eq!(json.0, binary.0);
        assert_eq!((json.1, binary.1), ("json".into(), "base64".into()));
        assert_eq!(encoded(b"null").1, "json");
        assert_eq!(encoded(b" 1"), (" 1".into(), "text".into()));
        let tombstone = line(RecordFormat::Json, Some(&[0xff]), None);
        assert!(!tombstone.contains("value_encoding"), "{tombstone}");
        assert!(
            tombstone.contains("\"key_encoding\":\"base64\""),
            "{tombstone}"
        );
    }
}
