//! What is fuzzed: every decoder, as a function of bytes. The fuzz targets call these, and so
//! does the plain test that replays the corpus, which needs no nightly compiler.
//!
//! A target must not panic, whatever the bytes. Where something decodes, it must encode to
//! what decodes equal again.

use bytes::Bytes;
use flumen_protocol::{
    batch::{Batch, Headers},
    frame::{FrameLimits, Prefix, decode_header},
    message::{ConsumeEvent, ProduceAcks, Reply, StreamOpen},
};

/// A target by its name.
pub type Target = fn(&[u8]);

/// All targets. A folder `corpus/NAME` belongs to each, and a file `fuzz_targets/NAME.rs`.
pub const TARGETS: [(&str, Target); 12] = [
    ("batch", batch),
    ("record_headers", record_headers),
    ("frame_prefix", frame_prefix),
    ("messages", messages),
    ("wal_record", wal_record),
    ("raft_entry", raft_entry),
    ("log_index", log_index),
    ("log_frame", log_frame),
    ("checkpoint", checkpoint),
    ("peer_calls", peer_calls),
    ("join_token", join_token),
    ("plugin_answer", plugin_answer),
];

/// A batch from a peer, whose CRC an attacker computes as needed.
///
/// # Panics
/// When a batch that decodes does not encode to itself.
pub fn batch(bytes: &[u8]) {
    let Ok(batch) = Batch::decode_unchecked_crc(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    assert_eq!(batch.to_bytes(), bytes, "a batch encodes to what it was");
    let Ok(columns) = batch.columns() else { return };
    for (index, record) in columns.records().enumerate() {
        assert!(record.headers.is_valid());
        assert_eq!(columns.key_bytes(index).as_deref(), record.key);
        assert_eq!(columns.value_bytes(index).as_deref(), record.value);
        assert!(columns.offset(index) < batch.end_offset());
    }
}

/// The headers of a record.
pub fn record_headers(bytes: &[u8]) {
    let headers = Headers::from_encoded(bytes);
    let read: usize = headers
        .into_iter()
        .map(|h| 6 + h.name.len() + h.value.len())
        .sum();
    assert_eq!(headers.is_valid(), read == bytes.len());
}

/// What a frame begins with.
pub fn frame_prefix(bytes: &[u8]) {
    let limits = FrameLimits {
        header_bytes_max: 1000,
        payload_bytes_max: 1_000_000,
    };
    if let Some(prefix) = bytes.first_chunk()
        && let Ok(prefix) = Prefix::decode(*prefix, limits)
    {
        assert!(prefix.header_len <= 1000 && prefix.payload_len <= 1_000_000);
    }
}

/// The headers of frames, as both sides read them.
pub fn messages(bytes: &[u8]) {
    // Only that they come back matters here; what they say is checked by who reads them.
    let _ = decode_header::<StreamOpen>(bytes);
    let _ = decode_header::<Reply>(bytes);
    let _ = decode_header::<ProduceAcks>(bytes);
    let _ = decode_header::<ConsumeEvent>(bytes);
}

/// A record of the write-ahead log.
pub fn wal_record(bytes: &[u8]) {
    if let Some(payload) = flumen_broker::fuzzing::wal_record(bytes) {
        assert!(payload <= bytes.len());
    }
}

/// An entry of a shard's Raft log.
pub fn raft_entry(bytes: &[u8]) {
    flumen_broker::fuzzing::raft_entry(bytes);
}

/// The index beside a segment, up to its checksum.
pub fn log_index(bytes: &[u8]) {
    flumen_broker::fuzzing::log_index(bytes);
}

/// A batch as it lies in a segment.
///
/// # Panics
/// When a batch is longer than its bytes.
pub fn log_frame(bytes: &[u8]) {
    if let Some(batch) = flumen_broker::fuzzing::log_frame(bytes) {
        assert!(batch <= bytes.len());
    }
}

/// The checkpoint of a shard or of the catalog.
pub fn checkpoint(bytes: &[u8]) {
    flumen_broker::fuzzing::checkpoint(bytes);
}

/// Calls between brokers that share a frame.
pub fn peer_calls(bytes: &[u8]) {
    flumen_broker::fuzzing::peer_calls(bytes);
}

/// The text of a join token.
///
/// # Panics
/// When a token that parses does not print as one that is equal.
pub fn join_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(token) = text.parse::<flumen_protocol::join::JoinToken>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
}

/// What a plugin has answered.
///
/// # Panics
/// When an answer passes the checks, and a record of it does not fit a batch.
pub fn plugin_answer(bytes: &[u8]) {
    flumen_broker::fuzzing::plugin_answer(bytes);
}
