//! Compression of a batch's body.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::BatchError;

/// The zstd level: the library's default, a middle between ratio and speed.
const ZSTD_LEVEL: i32 = 3;

/// How a batch's body is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// LZ4 blocks: little effort.
    Lz4 = 1,
    /// Zstandard: smaller.
    Zstd = 2,
}

impl Codec {
    pub(super) fn from_byte(byte: u8) -> Result<Self, BatchError> {
        match byte {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            _ => Err(BatchError::Malformed("its compression is not known")),
        }
    }

    /// Compresses a body. `None` when that would not make it smaller.
    pub(super) fn compress(self, raw: &[u8]) -> Option<Vec<u8>> {
        let compressed = match self {
            Self::None => return None,
            Self::Lz4 => lz4_flex::block::compress(raw),
            Self::Zstd => zstd::bulk::compress(raw, ZSTD_LEVEL).ok()?,
        };
        (compressed.len() < raw.len()).then_some(compressed)
    }

    /// Expands a body to exactly `raw_len` bytes, which the caller has checked against a limit.
    pub(super) fn decompress(self, body: &Bytes, raw_len: usize) -> Result<Bytes, BatchError> {
        let raw = match self {
            Self::None => return Ok(body.clone()),
            Self::Lz4 => lz4_flex::block::decompress(body, raw_len)
                .map_err(|error| BatchError::Decompress(error.to_string()))?,
            Self::Zstd => zstd::bulk::decompress(body, raw_len)
                .map_err(|error| BatchError::Decompress(error.to_string()))?,
        };
        if raw.len() != raw_len {
            return Err(BatchError::Malformed(
                "its body expands to another length than its header says",
            ));
        }
        Ok(raw.into())
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(format!("{text:?} is no compression; use none, lz4 or zstd")),
        }
    }
}
