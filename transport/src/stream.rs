//! Frames over QUIC streams.
//!
//! Both halves are safe to cancel: a dropped future loses no byte, the next call goes on
//! where it stopped.

mod read;
mod write;

pub use self::{
    read::{FrameReader, ReadError},
    write::{FrameWriter, Payload, WriteError},
};
use flumen_protocol::{
    frame::FrameLimits,
    limits::{CONTROL_REPLY_BYTES_MAX, FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX},
};

/// What a reader of data streams takes.
pub const DATA_LIMITS: FrameLimits = FrameLimits {
    header_bytes_max: FRAME_HEADER_BYTES_MAX,
    payload_bytes_max: FRAME_PAYLOAD_BYTES_MAX,
};

/// What a client takes as the reply on a control stream.
pub const REPLY_LIMITS: FrameLimits = FrameLimits {
    header_bytes_max: CONTROL_REPLY_BYTES_MAX,
    payload_bytes_max: FRAME_PAYLOAD_BYTES_MAX,
};

#[cfg(test)]
pub(crate) mod tests;
