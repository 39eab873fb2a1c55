//! Frames: `header length (u32 LE) | payload length (u32 LE) | header | payload`.
//!
//! The header is a postcard value of the kind that the stream carries; the payload is raw
//! bytes (batches, plugin code) that no serializer touches. Lengths are checked against a
//! limit before anything is allocated.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

use crate::size::Size;

/// Bytes of a frame's prefix.
pub const PREFIX_LEN: usize = 8;

/// The most that a reader takes from a peer.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Bytes of the postcard header.
    pub header_bytes_max: usize,
    /// Bytes of the payload.
    pub payload_bytes_max: usize,
}

/// Why a frame was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The header is longer than the limit.
    #[error("a frame header of {} is over the limit of {}", Size::of(*len), Size::of(*max))]
    HeaderTooLarge {
        /// The length that the prefix announced.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The payload is longer than the limit.
    #[error("a frame payload of {} is over the limit of {}", Size::of(*len), Size::of(*max))]
    PayloadTooLarge {
        /// The length that the prefix announced.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The header is not what this stream carries.
    #[error("frame header cannot be decoded: {0}; is the peer of another version?")]
    Malformed(String),
}

/// The lengths that open a frame, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Bytes of the postcard header.
    pub header_len: usize,
    /// Bytes of the payload.
    pub payload_len: usize,
}

impl Prefix {
    /// Reads a prefix and checks both lengths.
    pub fn decode(bytes: [u8; PREFIX_LEN], limits: FrameLimits) -> Result<Self, FrameError> {
        let mut from = &bytes[..];
        let header_len = from.get_u32_le() as usize;
        let payload_len = from.get_u32_le() as usize;
        if header_len > limits.header_bytes_max {
            return Err(FrameError::HeaderTooLarge {
                len: header_len,
                max: limits.header_bytes_max,
            });
        }
        if payload_len > limits.payload_bytes_max {
            return Err(FrameError::PayloadTooLarge {
                len: payload_len,
                max: limits.payload_bytes_max,
            });
        }
        Ok(Self {
            header_len,
            payload_len,
        })
    }
}

/// Encodes prefix and header; the payload follows as it is.
pub fn encode_head<H: Serialize>(header: &H, payload_len: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    append_head(&mut out, header, payload_len);
    out.freeze()
}

/// Appends prefix and header to `out`, so that several frames can leave in one write.
pub fn append_head<H: Serialize>(out: &mut BytesMut, header: &H, payload_len: usize) {
    let start = out.len();
    out.put_bytes(0, PREFIX_LEN);
    let mut writer = out.writer();
    postcard::to_io(header, &mut writer)
        .expect("a message of this protocol serializes into memory");
    let header_len = out.len() - start - PREFIX_LEN;
    out[start..start + 4].copy_from_slice(&(header_len as u32).to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&(payload_len as u32).to_le_bytes());
}

/// Appends the prefix of a frame whose header is not a postcard value; header and payload follow
/// as they are.
pub fn append_prefix(out: &mut BytesMut, prefix: Prefix) {
    out.put_u32_le(prefix.header_len as u32);
    out.put_u32_le(prefix.payload_len as u32);
}

/// Decodes a frame's header. Trailing bytes are an error.
pub fn decode_header<H: DeserializeOwned>(bytes: &[u8]) -> Result<H, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((header, [])) => Ok(header),
        Ok((_, rest)) => Err(FrameError::Malformed(format!(
            "{} bytes are left over",
            rest.len()
        ))),
        Err(error) => Err(FrameError::Malformed(error.to_string())),
    }
}
