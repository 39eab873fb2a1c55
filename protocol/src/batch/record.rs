//! One record, borrowed: what goes into a batch and what comes out.

use bytes::Buf;

/// Bytes before each header: the length of its name (u16) and of its value (u32).
pub(super) const HEADER_PREFIX_LEN: usize = 6;

/// A record whose bytes lie elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// When it happened, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// What decides its partition and, in a compacted topic, what it replaces.
    pub key: Option<&'a [u8]>,
    /// Its content; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

impl<'a> RecordRef<'a> {
    /// A record with a value alone.
    pub fn new(timestamp_ms: i64, value: &'a [u8]) -> Self {
        Self {
            timestamp_ms,
            value: Some(value),
            ..Self::default()
        }
    }

    /// Bytes of key, value and headers.
    pub fn len(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.0.len()
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The encoded headers of one record; iterate to read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a>(pub(super) &'a [u8]);

/// One header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Takes encoded headers as they are; [`Headers::is_valid`] tells if they are whole.
    pub fn from_encoded(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The encoded form.
    pub fn as_encoded(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of the first header of that name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.into_iter()
            .find(|header| header.name == name)
            .map(|header| header.value)
    }

    /// Whether the encoding is whole to its last byte and every name is UTF-8.
    pub fn is_valid(&self) -> bool {
        let mut iterator = self.into_iter();
        iterator.by_ref().for_each(drop);
        iterator.0.is_empty()
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = HeaderRef<'a>;
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        HeadersIter(self.0)
    }
}

/// Iterates over headers and stops at bytes that are none.
#[derive(Clone, Debug)]
pub struct HeadersIter<'a>(&'a [u8]);

impl<'a> Iterator for HeadersIter<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<HeaderRef<'a>> {
        if self.0.len() < HEADER_PREFIX_LEN {
            return None;
        }
        let mut from = self.0;
        let name_len = usize::from(from.get_u16_le());
        let value_len = from.get_u32_le() as usize;
        if from.len() < name_len || from.len() - name_len < value_len {
            return None;
        }
        let (name, rest) = from.split_at(name_len);
        let (value, rest) = rest.split_at(value_len);
        let name = std::str::from_utf8(name).ok()?;
        self.0 = rest;
        Some(HeaderRef { name, value })
    }
}

/// Encodes headers for [`Headers::from_encoded`]. Lengths are checked when the record is
/// pushed into a batch; a name longer than 65,535 bytes is cut here and refused there.
pub fn encode_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        let name = &name[..name.floor_char_boundary(usize::from(u16::MAX))];
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value);
    }
    out
}
