//! What producers send and what consumers receive.

use bytes::Bytes;
use flumen_protocol::{
    batch::{HeaderRef, Headers, encode_headers},
    ids::Offset,
};

/// A message to send: a value, and what travels with it.
///
/// ```
/// use flumen_client::Message;
///
/// let message = Message::new(42_u64).key("customer-7").header("source", "till");
/// assert_eq!(message.value(), Some(&42));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<T> {
    pub(crate) value: Option<T>,
    pub(crate) key: Option<Bytes>,
    /// Encoded as in a batch.
    pub(crate) headers: Vec<u8>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) partition: Option<u32>,
}

impl<T> Message<T> {
    /// A message with a value alone.
    pub fn new(value: T) -> Self {
        Self {
            value: Some(value),
            key: None,
            headers: Vec::new(),
            timestamp_ms: None,
            partition: None,
        }
    }

    /// A message without a value: in a compacted topic it deletes its key.
    pub fn tombstone(key: impl AsRef<[u8]>) -> Self {
        Self {
            value: None,
            key: Some(Bytes::copy_from_slice(key.as_ref())),
            headers: Vec::new(),
            timestamp_ms: None,
            partition: None,
        }
    }

    /// Sets the key, which decides the partition: messages of one key keep their order, for as long
    /// as the topic has as many partitions. When it gets more, those that come from then on may go
    /// to another partition than those before, and be received before them.
    #[must_use]
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        self.key_bytes(Bytes::copy_from_slice(key.as_ref()))
    }

    /// As [`Message::key`], without copying.
    #[must_use]
    pub fn key_bytes(mut self, key: Bytes) -> Self {
        self.key = Some(key);
        self
    }

    /// Adds a header. Several may have the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let header = encode_headers([(name, value.as_ref())]);
        self.headers.extend_from_slice(&header);
        self
    }

    /// Sets when it happened, in milliseconds since the epoch. Without this it is the time
    /// at which the message is given to the producer.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Sends it to this partition, whatever its key.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// The value; `None` in a tombstone.
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

impl<T> From<T> for Message<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

/// A message as a consumer receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received<T> {
    /// The partition that it lies in.
    pub partition: u32,
    /// Its place in the partition.
    pub offset: Offset,
    /// When it happened, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// Its key, sharing the buffer of the batch that it came in.
    pub key: Option<Bytes>,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its value.
    pub value: T,
}

impl<T> Received<T> {
    /// A message as if it had been received, at the beginning of partition 0, without key, headers
    /// and time: for unit tests of what handles messages. Set what they look at.
    ///
    /// ```
    /// use flumen_client::{HeaderMap, Received};
    ///
    /// let mut message = Received::new(42_u64);
    /// message.key = Some("customer-7".into());
    /// message.headers = HeaderMap::new([("source", "till")]);
    /// assert_eq!((message.value, message.key_str()), (42, Some("customer-7")));
    /// ```
    pub fn new(value: T) -> Self {
        Self {
            partition: 0,
            offset: Offset(0),
            timestamp_ms: 0,
            key: None,
            headers: HeaderMap::default(),
            value,
        }
    }

    /// The key as text, if it is one.
    pub fn key_str(&self) -> Option<&str> {
        self.key
            .as_deref()
            .and_then(|key| std::str::from_utf8(key).ok())
    }
}

/// The headers of a received message, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMap(pub(crate) Bytes);

impl HeaderMap {
    /// These headers, such as those of a message that a test makes.
    pub fn new<'a>(headers: impl IntoIterator<Item = (&'a str, impl AsRef<[u8]>)>) -> Self {
        let headers = headers.into_iter();
        let encoded = headers.flat_map(|(name, value)| encode_headers([(name, value.as_ref())]));
        Self(encoded.collect())
    }

    /// The value of the first header of that name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        Headers::from_encoded(&self.0).get(name)
    }

    /// The value of the first header of that name, if it is text.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = HeaderRef<'_>> {
        Headers::from_encoded(&self.0).into_iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_back_in_order() {
        let message = Message::new(())
            .header("a", "1")
            .header("b", "2")
            .header("a", "3");
        let headers = HeaderMap(message.headers.into());
        let all: Vec<_> = headers.iter().map(|h| (h.name, h.value)).collect();
        assert_eq!(all, [("a", &b"1"[..]), ("b", b"2"), ("a", b"3")]);
        assert_eq!(headers.get_str("a"), Some("1"));
        assert_eq!(headers.get("c"), None);
        assert_eq!(
            HeaderMap::new([("a", "1"), ("b", "2"), ("a", "3")]),
            headers
        );
    }
}
