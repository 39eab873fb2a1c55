//! Decoders that are private to their rooms, opened for the fuzz targets alone.

use bytes::Bytes;

/// A record of the write-ahead log: the length of its payload, if the bytes are one.
pub fn wal_record(bytes: &[u8]) -> Option<usize> {
    crate::wal::decode_record_for_fuzzing(bytes)
}

/// The index beside a segment. Whether the bytes are one, up to their checksum, and encode to
/// themselves again.
pub fn log_index(bytes: &[u8]) -> bool {
    crate::log::index::SparseIndex::decode_for_fuzzing(bytes)
}

/// A batch as it lies in a segment: its length, if the bytes are one, up to their checksum.
pub fn log_frame(bytes: &[u8]) -> Option<usize> {
    crate::log::frame::decode_for_fuzzing(bytes)
}

/// The checkpoints of a shard and of the catalog. Whether the bytes are one of them.
pub fn checkpoint(bytes: &[u8]) -> bool {
    crate::shard::decode_checkpoint_for_fuzzing(bytes)
        || crate::catalog::decode_checkpoint_for_fuzzing(bytes)
}

/// An entry of a shard's Raft log. Whether the bytes are one.
pub fn raft_entry(bytes: &[u8]) -> bool {
    crate::shard::raft::decode_entry(1, 1, Bytes::copy_from_slice(bytes)).is_ok()
}

/// Calls between brokers, or replies, that share a frame. Whether the bytes are such a frame: the
/// first gives the length of its header.
pub fn peer_calls(bytes: &[u8]) -> bool {
    crate::peer::decode_calls_for_fuzzing(bytes)
}

/// What a plugin has answered. Whether it passes the checks.
pub fn plugin_answer(bytes: &[u8]) -> bool {
    crate::plugin::answer_for_fuzzing(bytes)
}
