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

    /// Whether there is a value and it starts with these bytes. Quicker than to ask the value itself
    /// where they are few, as comparing slices calls the C library.
    #[inline]
    pub fn value_starts_with(&self, start: impl AsRef<[u8]>) -> bool {
        let start = start.as_ref();
        let begin = self.value.and_then(|value| value.get(..start.len()));
        begin.is_some_and(|begin| are_equal(begin, start))
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

/// Whether two strings of one length are equal; short ones without a loop.
#[inline]
fn are_equal(a: &[u8], b: &[u8]) -> bool {
    match b.len() {
        0 => true,
        1 => agree_at_both_ends::<1>(a, b),
        2..=3 => agree_at_both_ends::<2>(a, b),
        4..=7 => agree_at_both_ends::<4>(a, b),
        8..=16 => agree_at_both_ends::<8>(a, b),
        _ => a == b,
    }
}

/// Whether the first `N` bytes are equal, and the last `N`.
#[inline]
fn agree_at_both_ends<const N: usize>(a: &[u8], b: &[u8]) -> bool {
    a.first_chunk::<N>() == b.first_chunk() && a.last_chunk::<N>() == b.last_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_starts_with_what_a_slice_starts_with() {
        let value: Vec<u8> = (0..40).collect();
        for len in 0..40 {
            let record = Record::new(&value[..len]);
            for start in 0..40 {
                let start = &value[..start];
                assert_eq!(
                    record.value_starts_with(start),
                    value[..len].starts_with(start),
                    "{len} {start:?}"
                );
            }
            for wrong in 0..len {
                let mut start = value[..len].to_vec();
                start[wrong] ^= 1;
                assert!(!record.value_starts_with(&start), "{len} {wrong}");
            }
        }
        let tombstone = Record {
            value: None,
            ..Record::default()
        };
        assert!(!tombstone.value_starts_with(""));
    }
}
