//! Decoders that are private to their rooms, opened for the fuzz targets alone.

use bytes::Bytes;

/// A record of the write-ahead log: the length of its payload, if the bytes are one.
pub fn wal_record(bytes: &[u8]) -> Option<usize> {
    crate::wal::decode_record_for_fuzzing(bytes)
}

/// An entry of a shard's Raft log. Whether the bytes are one.
pub fn raft_entry(bytes: &[u8]) -> bool {
    crate::shard::raft::decode_entry(1, 1, Bytes::copy_from_slice(bytes)).is_ok()
}
