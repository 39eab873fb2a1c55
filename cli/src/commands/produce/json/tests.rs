use flumen_client::Offset;
use flumen_protocol::batch::{Headers, RecordRef, encode_headers};

use super::*;
use crate::commands::consume::format::RecordFormat;

/// The line that `consume` prints for a record.
fn printed(record: &RecordRef<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    RecordFormat::Json
        .write(&mut line, 3, "a/b", Offset(7), record)
        .unwrap();
    line
}

fn read_value(line: &str) -> Option<Bytes> {
    record(line.as_bytes()).unwrap().message.value().cloned()
}

#[test]
fn what_consume_prints_is_the_record_again() {
    let headers = encode_headers([("h", &b"1"[..]), ("h", &[0xff, 0]), ("", b"")]);
    for value in [
        None,
        Some(&b""[..]),
        Some(b"null"),
        Some(b"text"),
        Some(b"two\nlines\r"),
        Some(b"\"a text\""),
        Some(b"{\"a\": 1.50, \"a\": 2}"),
        Some(b" {\"blanks\": 1}\t"),
        Some(b"{\"base64\":\"/w==\"}"),
        Some(b"12345678901234567890123"),
        Some(b"\"\\ud800\""),
        Some(&[0xff, 0xfe, 0]),
    ] {
        for key in [&b"k"[..], b"", b"7", b"{\"base64\":\"/w==\"}", &[0x80]] {
            for timestamp_ms in [0, -1, 1_767_225_600_123, i64::MAX, i64::MIN] {
                let sent = RecordRef {
                    timestamp_ms,
                    key: Some(key),
                    value,
                    headers: Headers::from_encoded(&headers),
                };
                let read = record(&printed(&sent)).unwrap();
                let expected = match value {
                    Some(value) => Message::new(Bytes::copy_from_slice(value)).key(key),
                    None => Message::tombstone(key),
                };
                let expected = sent
                    .headers
                    .into_iter()
                    .fold(expected, |message, header| {
                        message.header(header.name, header.value)
                    })
                    .timestamp_ms(timestamp_ms);
                assert_eq!(read.message, expected, "{sent:?}");
                assert_eq!(read.partition, Some(3));
                assert_eq!(read.content_type.as_deref(), Some("a/b"));
            }
        }
    }
}

#[test]
fn a_value_by_hand_needs_no_encoding() {
    for (line, value) in [
        (r#"{"value": "hello"}"#, Some("hello")),
        (r#"{"value": {"a": [1, 2]}}"#, Some(r#"{"a": [1, 2]}"#)),
        (r#"{"value": 1.50}"#, Some("1.50")),
        (r#"{"value": {"base64": "aGk="}}"#, Some("hi")),
        (r#"{"value": {"base64": 1}}"#, Some(r#"{"base64": 1}"#)),
        (r#"{"key": "k", "value": null}"#, None),
        (r#"{"value": null, "value_encoding": "json"}"#, Some("null")),
        (r#"{"value": "a", "value_encoding": "json"}"#, Some("\"a\"")),
    ] {
        assert_eq!(read_value(line), value.map(Into::into), "{line}");
    }
    let line = br#" {"key": 7, "value": 1, "headers": {"a": "1", "b": {"base64": "aGk="}}, "timestamp": -5}"#;
    let read = record(line).unwrap();
    let expected = Message::new(Bytes::from_static(b"1"))
        .key("7")
        .header("a", "1")
        .header("b", "hi")
        .timestamp_ms(-5);
    assert_eq!((read.message, read.partition), (expected, None));
}

#[test]
fn a_line_that_is_no_record_is_told_with_what_is_expected() {
    for (line, reason) in [
        ("", "not a JSON object"),
        ("[1]", "not a JSON object"),
        (
            "{\"value\": 1",
            "EOF while parsing an object at character 11",
        ),
        ("{}", "missing field `value`"),
        (
            r#"{"id": 7}"#,
            "unknown field `id`, expected one of `partition`",
        ),
        (r#"{"value": 1, "value": 2}"#, "duplicate field `value`"),
        (r#"{"value": null}"#, "neither a key nor a value"),
        (
            r#"{"value": 1, "value_encoding": "text"}"#,
            "value has the encoding text, and is no text",
        ),
        (
            r#"{"value": "a", "value_encoding": "base64"}"#,
            "is no {\"base64\"",
        ),
        (r#"{"value": {"base64": "*"}}"#, "value is no base64"),
        (r#"{"value": 1, "key": ["a"]}"#, "key is an array"),
        (r#"{"value": 1, "key": {"a": 1}}"#, "key is an object"),
        (
            r#"{"value": 1, "key": 1, "key_encoding": "json"}"#,
            "but text or base64",
        ),
        (r#"{"value": 1, "headers": {"a": null}}"#, "header is null"),
        (
            r#"{"value": 1, "headers": "a"}"#,
            "expected headers such as",
        ),
        (
            r#"{"value": 1, "partition": -1}"#,
            "partition is -1, and not a whole number",
        ),
        (
            r#"{"value": 1, "timestamp": "soon"}"#,
            "timestamp is \"soon\", and not a time such as",
        ),
        (r#"{"value": 1, "timestamp": 1.5}"#, "timestamp is 1.5"),
    ] {
        let error = format!("{:#}", record(line.as_bytes()).unwrap_err());
        assert!(error.contains(reason), "{line}: {error}");
        assert!(error.contains("a record is an object such as"), "{error}");
        assert!(!error.contains("line 1"), "{error}");
    }
}
