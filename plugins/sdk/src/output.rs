//! What a transform makes of a record: said as the difference from that record, so that what
//! stays the same is copied once, and no lifetime shows in a plugin.
use crate::{Record, headers::append_header};

/// A record that a transform returns, told by how it differs from the one it was made of.
///
/// ```
/// use flumen_plugin::Output;
///
/// // The same key, timestamp and headers; another value, one more header, another topic.
/// let output = Output::same()
///     .value("21.5 C")
///     .header("unit", "celsius")
///     .topic("temperatures");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Output {
    pub(crate) key: Part,
    pub(crate) value: Part,
    pub(crate) removed_headers: RemovedHeaders,
    pub(crate) added_headers: Vec<u8>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) topic: Option<String>,
}

/// How a key or a value differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    #[default]
    Same,
    Absent,
    Bytes(Vec<u8>),
}

impl Part {
    pub(crate) fn resolve<'a>(&'a self, same: Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self {
            Self::Same => same,
            Self::Absent => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// Which of the record's headers go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RemovedHeaders {
    All,
    Named(Vec<String>),
}

impl Default for RemovedHeaders {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl Output {
    /// The record as it came.
    pub fn same() -> Self {
        Self::default()
    }

    /// With another value.
    pub fn value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = Part::Bytes(value.into());
        self
    }

    /// Without a value: a tombstone, which deletes what the key stood for.
    pub fn no_value(mut self) -> Self {
        self.value = Part::Absent;
        self
    }

    /// With another key. The record stays in its partition.
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Part::Bytes(key.into());
        self
    }

    /// Without a key.
    pub fn no_key(mut self) -> Self {
        self.key = Part::Absent;
        self
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        append_header(&mut self.added_headers, name, value.as_ref());
        self
    }

    /// Without those of the record's headers that have this name.
    pub fn without_header(mut self, name: &str) -> Self {
        if let RemovedHeaders::Named(names) = &mut self.removed_headers {
            names.push(name.to_owned());
        }
        self
    }

    /// Without any of the record's headers.
    pub fn without_headers(mut self) -> Self {
        self.removed_headers = RemovedHeaders::All;
        self
    }

    /// With another timestamp, in milliseconds since the Unix epoch.
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// To another topic than the record's own.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Appends the encoded headers that result, made of those of `record`.
    pub(crate) fn write_headers(&self, record: &Record<'_>, encoded: &mut Vec<u8>) {
        match &self.removed_headers {
            RemovedHeaders::All => {}
            RemovedHeaders::Named(names) if names.is_empty() => {
                encoded.extend_from_slice(record.headers().as_encoded());
            }
            RemovedHeaders::Named(names) => {
                for (name, value) in record.headers() {
                    if !names.iter().any(|removed| removed == name) {
                        append_header(encoded, name, value);
                    }
                }
            }
        }
        encoded.extend_from_slice(&self.added_headers);
    }
}
