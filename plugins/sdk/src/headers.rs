//! Headers in the encoding of a batch, read in place.

/// The length of a name (u16) and of a value (u32), before each header.
const PREFIX_LEN: usize = 6;

/// The headers of a record; iterate over them to read names and values.
///
/// ```
/// use flumen_plugin::{Headers, Record, encode_headers};
///
/// let encoded = encode_headers([("trace", &b"7f"[..])]);
/// let record = Record::new(b"").with_headers(Headers::from_encoded(&encoded));
/// assert_eq!(record.header("trace"), Some(&b"7f"[..]));
/// assert_eq!(record.headers().into_iter().count(), 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Headers that [`encode_headers`] has encoded. Iteration stops at bytes that are none.
    pub fn from_encoded(encoded: &'a [u8]) -> Self {
        Self(encoded)
    }

    /// The headers as the broker encodes them.
    pub fn as_encoded(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        HeadersIter(self.0)
    }
}

/// Iterates over names and values of headers.
#[derive(Clone, Debug)]
pub struct HeadersIter<'a>(&'a [u8]);

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (prefix, rest) = self.0.split_first_chunk::<PREFIX_LEN>()?;
        let [name0, name1, value @ ..] = *prefix;
        let name_len = usize::from(u16::from_le_bytes([name0, name1]));
        let value_len = u32::from_le_bytes(value) as usize;
        let (name, rest) = rest.split_at_checked(name_len)?;
        let (value, rest) = rest.split_at_checked(value_len)?;
        let name = std::str::from_utf8(name).ok()?;
        self.0 = rest;
        Some((name, value))
    }
}

/// Encodes headers, one after the other.
///
/// # Panics
/// When a name is longer than 65,535 bytes.
pub fn encode_headers<'h>(headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (name, value) in headers {
        append_header(&mut encoded, name, value);
    }
    encoded
}

/// Appends one header to others in their encoding.
pub(crate) fn append_header(encoded: &mut Vec<u8>, name: &str, value: &[u8]) {
    let name_len = u16::try_from(name.len()).expect("a header's name has at most 65,535 bytes");
    let value_len = u32::try_from(value.len()).expect("a header's value has less than 4 GiB");
    encoded.extend_from_slice(&name_len.to_le_bytes());
    encoded.extend_from_slice(&value_len.to_le_bytes());
    encoded.extend_from_slice(name.as_bytes());
    encoded.extend_from_slice(value);
}
