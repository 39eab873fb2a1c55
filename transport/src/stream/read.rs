//! Reading frames.

use bytes::{Buf, Bytes, BytesMut};
use flumen_protocol::frame::{FrameError, FrameLimits, PREFIX_LEN, Prefix, decode_header};
use quinn::{RecvStream, VarInt};
use serde::de::DeserializeOwned;

/// Chunks taken from the connection at once; each is at most a packet.
const CHUNKS_PER_READ: usize = 64;

/// Bytes of a payload that are allocated before any of them has arrived. Beyond this the
/// buffer grows only as the peer really sends.
const PAYLOAD_BYTES_UNSEEN_MAX: usize = 2 * 1024 * 1024;

/// Payloads below this lie wherever there is room.
const ALIGNED_BYTES_MIN: usize = 64 * 1024;

/// What [`FrameReader::payload_aligned`] aligns to, in bytes: what disks ask of memory.
const ALIGNMENT: usize = 4096;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream or its connection broke.
    #[error("stream broke: {0}")]
    Broken(#[from] quinn::ReadError),
    /// The stream ended within a frame.
    #[error("stream ended within a frame")]
    Truncated,
    /// The frame breaks the protocol or a limit.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads frames from a stream.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    limits: FrameLimits,
    /// Received and not yet consumed, in order; `chunks[at..]` are left.
    chunks: Vec<Bytes>,
    at: usize,
    finished: bool,
    /// Set between a prefix and its header.
    prefix: Option<Prefix>,
    /// Set between a header and its payload, if both are read in one call.
    header: Option<(Bytes, usize)>,
    partial: BytesMut,
}

impl FrameReader {
    /// Reads frames from `stream` within `limits`.
    pub fn new(stream: RecvStream, limits: FrameLimits) -> Self {
        Self {
            stream,
            limits,
            chunks: Vec::new(),
            at: 0,
            finished: false,
            prefix: None,
            header: None,
            partial: BytesMut::new(),
        }
    }

    /// Goes on with other limits, once the first frame has said what the stream is.
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// The header of the next frame and the length of its payload, which must be taken with
    /// [`FrameReader::payload`] before the frame after it. `None` at the end of the stream.
    pub async fn next<H: DeserializeOwned>(&mut self) -> Result<Option<(H, usize)>, ReadError> {
        let Some((header, payload_len)) = self.next_bytes().await? else {
            return Ok(None);
        };
        Ok(Some((decode_header(&header)?, payload_len)))
    }

    /// As [`FrameReader::next`], with the header's bytes as they came.
    pub async fn next_bytes(&mut self) -> Result<Option<(Bytes, usize)>, ReadError> {
        let prefix = match self.prefix {
            Some(prefix) => prefix,
            None => {
                let Some(bytes) = self.take_or_end(PREFIX_LEN).await? else {
                    return Ok(None);
                };
                let bytes = bytes[..].try_into().map_err(|_| ReadError::Truncated)?;
                *self.prefix.insert(Prefix::decode(bytes, self.limits)?)
            }
        };
        let header = self.payload(prefix.header_len).await?;
        self.prefix = None;
        Ok(Some((header, prefix.payload_len)))
    }

    /// Exactly `len` bytes: the payload of the frame whose header was read last.
    pub async fn payload(&mut self, len: usize) -> Result<Bytes, ReadError> {
        match self.take_or_end(len).await? {
            Some(bytes) => Ok(bytes),
            None => Err(ReadError::Truncated),
        }
    }

    /// As [`FrameReader::payload`]; a large payload's byte at `at` lies at a block's boundary in
    /// memory, so that a disk takes what begins there without another copy. This is for speed
    /// alone: now and then it lies elsewhere.
    pub async fn payload_aligned(&mut self, len: usize, at: usize) -> Result<Bytes, ReadError> {
        if len >= ALIGNED_BYTES_MIN && self.partial.is_empty() {
            self.partial
                .reserve(len.min(PAYLOAD_BYTES_UNSEEN_MAX) + ALIGNMENT);
            let start = self.partial.as_ptr().addr() + at;
            let shift = start.next_multiple_of(ALIGNMENT) - start;
            self.partial.resize(shift, 0);
            self.partial.advance(shift);
        }
        self.payload(len).await
    }

    /// Header and payload of the next frame. When it is cancelled, the next call of it goes on, also
    /// within the payload.
    pub async fn next_with_payload<H: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(H, Bytes)>, ReadError> {
        if self.header.is_none() {
            self.header = self.next_bytes().await?;
        }
        let Some((header, len)) = self.header.clone() else {
            return Ok(None);
        };
        let header = decode_header(&header)?;
        let payload = self.payload(len).await?;
        self.header = None;
        Ok(Some((header, payload)))
    }

    /// Tells the sender to stop.
    pub fn stop(&mut self, code: u32) {
        // Fails only when the stream is over, which is what is wanted.
        let _ = self.stream.stop(VarInt::from_u32(code));
    }

    /// Exactly `len` bytes, or `None` when the stream ends before the first of them.
    async fn take_or_end(&mut self, len: usize) -> Result<Option<Bytes>, ReadError> {
        if len == 0 {
            return Ok(Some(Bytes::new()));
        }
        loop {
            if let Some(bytes) = self.take_buffered(len) {
                return Ok(Some(bytes));
            }
            if self.finished {
                return if self.partial.is_empty() {
                    Ok(None)
                } else {
                    Err(ReadError::Truncated)
                };
            }
            self.fill().await?;
        }
    }

    /// Takes `len` bytes if they are all here. Those within one chunk are shared with it;
    /// those over several are gathered in one buffer.
    fn take_buffered(&mut self, len: usize) -> Option<Bytes> {
        while self.at < self.chunks.len() {
            let chunk = &mut self.chunks[self.at];
            let missing = len - self.partial.len();
            if self.partial.is_empty() && chunk.len() >= len {
                let taken = chunk.split_to(len);
                self.skip_if_empty();
                return Some(taken);
            }
            if self.partial.capacity() < len.min(PAYLOAD_BYTES_UNSEEN_MAX) {
                self.partial.reserve(len.min(PAYLOAD_BYTES_UNSEEN_MAX));
            }
            let part = chunk.split_to(missing.min(chunk.len()));
            self.partial.extend_from_slice(&part);
            self.skip_if_empty();
            if self.partial.len() == len {
                return Some(std::mem::take(&mut self.partial).freeze());
            }
        }
        None
    }

    fn skip_if_empty(&mut self) {
        if self.chunks[self.at].is_empty() {
            self.chunks[self.at] = Bytes::new();
            self.at += 1;
        }
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        debug_assert!(self.at == self.chunks.len(), "all that came was consumed");
        self.chunks.clear();
        self.at = 0;
        let mut received = [const { Bytes::new() }; CHUNKS_PER_READ];
        match self.stream.read_chunks(&mut received).await? {
            Some(count) => self.chunks.extend(received.into_iter().take(count)),
            None => self.finished = true,
        }
        Ok(())
    }
}
