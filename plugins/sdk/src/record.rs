//! A record as a plugin sees it: borrowed from the columns that the broker handed over.
use serde::Deserialize;

use crate::headers::Headers;

/// A record that a plugin is asked about. It borrows the bytes of the call; reading a part of
/// it costs no copy.
///
/// In a unit test, make one with [`Record::new`]:
///
/// ```
/// use flumen_plugin::Record;
///
/// let record = Record::new(b"21.5").with_key(b"kitchen");
/// assert_eq!(record.key(), Some(&b"kitchen"[..]));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
    pub(crate) timestamp_ms: i64,
}

impl<'a> Record<'a> {
    /// The key, if the record has one.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value. `None` is a tombstone: it says that the key was deleted.
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The value read as JSON. `T` may borrow from the record and leave out fields that it
    /// does not need.
    ///
    /// # Errors
    /// When the record has no value, or its value is no JSON of that shape.
    #[inline]
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        match self.value {
            Some(value) => serde_json::from_slice(value),
            None => Err(serde::de::Error::custom("the record has no value")),
        }
    }

    /// The headers, in their order.
    #[inline]
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers
            .into_iter()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// When it happened, in milliseconds since the Unix epoch.
    #[inline]
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    /// A record with this value alone, for a plugin's own tests.
    pub fn new(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            value: Some(value.as_ref()),
            ..Self::default()
        }
    }

    /// The same with a key, for a plugin's own tests.
    #[must_use]
    pub fn with_key(self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self {
            key: Some(key.as_ref()),
            ..self
        }
    }

    /// The same with other headers, for a plugin's own tests.
    #[must_use]
    pub fn with_headers(self, headers: Headers<'a>) -> Self {
        Self { headers, ..self }
    }

    /// The same with another timestamp, for a plugin's own tests.
    #[must_use]
    pub fn with_timestamp_ms(self, timestamp_ms: i64) -> Self {
        Self {
            timestamp_ms,
            ..self
        }
    }
}
