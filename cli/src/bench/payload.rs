//! What benchmark records hold.

use bytes::Bytes;
use jiff::Timestamp;

/// Bytes of which values are cut. Few enough for the cache of a core: an application that has just
/// made a record has it there, too.
const POOL_BYTES: usize = 128 << 10;

/// Bytes of the shortest JSON value.
const JSON_BYTES_MIN: usize = 64;

/// The first number in JSON values: all that follow have as many digits.
const JSON_NUMBER_MIN: usize = 100_000;

/// Values of one size, taken from a pool in turn. They do not compress.
#[derive(Clone, Debug)]
pub(super) struct Values {
    pool: Bytes,
    size: usize,
    at: usize,
}

impl Values {
    /// Values of random bytes.
    pub(super) fn random(size: u32) -> Self {
        let size = size as usize;
        // xorshift: quick, and the same every time.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut pool = Vec::with_capacity(POOL_BYTES.max(size) + 8);
        while pool.len() < POOL_BYTES.max(size) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            pool.extend_from_slice(&state.to_le_bytes());
        }
        Self {
            pool: pool.into(),
            size,
            at: 0,
        }
    }

    /// Values that are JSON objects with a number `n` that rises, filled up to the size.
    pub(super) fn json(size: u32) -> Self {
        let size = size as usize;
        let count = (POOL_BYTES / size.max(JSON_BYTES_MIN)).max(1);
        let mut pool = Vec::with_capacity(count * size);
        for n in 0..count {
            let mut value = format!(
                r#"{{"n":{},"time_ms":{},"text":""#,
                JSON_NUMBER_MIN + n,
                now_ms()
            );
            let end = "\"}";
            while value.len() + end.len() < size {
                value.push(char::from(b'a' + (value.len() % 26) as u8));
            }
            value.push_str(end);
            pool.extend_from_slice(value.as_bytes());
        }
        let size = pool.len() / count;
        Self {
            pool: pool.into(),
            size,
            at: 0,
        }
    }

    /// The next value, without copying.
    pub(super) fn next(&mut self) -> Bytes {
        if self.at + self.size > self.pool.len() {
            self.at = 0;
        }
        let value = self.pool.slice(self.at..self.at + self.size);
        self.at += self.size;
        value
    }
}

pub(super) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_size_that_was_asked_for() {
        for size in [1, 100, 1_000, 3_000_000] {
            let mut values = Values::random(size);
            assert!((0..10).all(|_| values.next().len() == size as usize));
        }
        let mut values = Values::json(100);
        for _ in 0..20_000 {
            let value = values.next();
            assert_eq!(value.len(), 100);
            assert!(serde_json::from_slice::<serde_json::Value>(&value).is_ok());
        }
    }
}
