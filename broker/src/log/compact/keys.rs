//! The last offset of each key in a stretch of a log, in bounded memory.

use std::hash::{BuildHasher, RandomState};

use flumen_protocol::ids::Offset;
use rustc_hash::FxHashMap;

/// Keys that one pass of compaction takes in, about 25 bytes each. A log with more of them needs
/// several passes.
pub const COMPACTION_KEYS_MAX: usize = 900_000;

/// Keys are kept as two independent 64-bit hashes with random secrets: that two of them are the
/// same for two keys does not happen, not even when somebody chooses the keys.
#[derive(Debug, Default)]
pub(super) struct LatestOffsets {
    secrets: [RandomState; 2],
    latest: FxHashMap<[u64; 2], Offset>,
}

impl LatestOffsets {
    /// Takes note of a key; offsets rise.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) {
        let hash = self.hash(key);
        self.latest.insert(hash, offset);
    }

    /// Whether a record of `key` at `offset` is followed by another one.
    pub(super) fn is_superseded(&self, key: &[u8], offset: Offset) -> bool {
        let latest = self.latest.get(&self.hash(key));
        latest.is_some_and(|latest| offset < *latest)
    }

    /// How many keys.
    pub(super) fn len(&self) -> usize {
        self.latest.len()
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        [self.secrets[0].hash_one(key), self.secrets[1].hash_one(key)]
    }
}
