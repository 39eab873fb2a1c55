//! Writing frames.

use bytes::{Bytes, BytesMut};
use flumen_protocol::{
    batch::Batch,
    frame::{Prefix, append_head, append_prefix},
};
use quinn::{SendStream, VarInt};
use serde::Serialize;

/// A payload of fewer bytes is copied behind its header, so that both leave in one chunk.
const COPY_BYTES_MAX: usize = 1024;

/// Why a frame could not be written.
#[derive(Debug, thiserror::Error)]
#[error("stream broke: {0}")]
pub struct WriteError(#[from] quinn::WriteError);

/// What follows a frame's header.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Nothing.
    None,
    /// Bytes as they are.
    Bytes(&'a Bytes),
    /// An encoded batch.
    Batch(&'a Batch),
    /// Bytes that lie in several places, one after the other.
    Parts(&'a [Bytes]),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Batch(batch) => batch.encoded_len(),
            Self::Parts(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }
}

/// Writes frames to a stream. Frames gather until [`FrameWriter::flush`], so that many small
/// ones leave together; large payloads are handed over without being copied.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    /// Small frames that follow each other.
    tail: BytesMut,
    chunks: Vec<Bytes>,
    buffered: usize,
}

impl FrameWriter {
    /// Writes frames to `stream`.
    pub fn new(stream: SendStream) -> Self {
        Self {
            stream,
            tail: BytesMut::new(),
            chunks: Vec::new(),
            buffered: 0,
        }
    }

    /// Adds a frame to those that wait.
    pub fn push<H: Serialize>(&mut self, header: &H, payload: Payload<'_>) {
        let before = self.tail.len();
        append_head(&mut self.tail, header, payload.len());
        self.buffered += self.tail.len() - before;
        self.push_payload(payload);
    }

    /// Adds a frame whose header is bytes, which are taken as they are.
    pub fn push_bytes(&mut self, header: &Bytes, payload: Payload<'_>) {
        let before = self.tail.len();
        let prefix = Prefix {
            header_len: header.len(),
            payload_len: payload.len(),
        };
        append_prefix(&mut self.tail, prefix);
        self.buffered += self.tail.len() - before + header.len();
        self.append(header);
        self.push_payload(payload);
    }

    fn push_payload(&mut self, payload: Payload<'_>) {
        self.buffered += payload.len();
        match payload {
            Payload::None => {}
            Payload::Bytes(bytes) => self.append(bytes),
            Payload::Batch(batch) => {
                self.tail.extend_from_slice(&batch.header().encode());
                self.append(batch.body());
            }
            Payload::Parts(parts) => parts.iter().for_each(|part| self.append(part)),
        }
    }

    /// Bytes that wait for [`FrameWriter::flush`].
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Hands all that waits to the connection; waits while flow control says so.
    pub async fn flush(&mut self) -> Result<(), WriteError> {
        if !self.tail.is_empty() {
            self.chunks.push(self.tail.split().freeze());
        }
        while !self.chunks.is_empty() {
            let written = self.stream.write_chunks(&mut self.chunks).await?;
            self.buffered -= written.bytes;
            self.chunks.drain(..written.chunks);
        }
        Ok(())
    }

    /// Adds a frame and flushes.
    pub async fn send<H: Serialize>(
        &mut self,
        header: &H,
        payload: Payload<'_>,
    ) -> Result<(), WriteError> {
        self.push(header, payload);
        self.flush().await
    }

    /// Says that nothing follows. What was flushed still arrives.
    pub fn finish(&mut self) {
        // Fails only when the stream is over, which is what is wanted.
        let _ = self.stream.finish();
    }

    /// Abandons the stream.
    pub fn reset(&mut self, code: u32) {
        // As above.
        let _ = self.stream.reset(VarInt::from_u32(code));
    }

    /// Waits until the peer stops the stream, or has received all of it after
    /// [`FrameWriter::finish`], or is gone.
    pub async fn stopped(&self) {
        // Whatever the reason, nobody reads any more.
        let _ = self.stream.stopped().await;
    }

    fn append(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.tail.extend_from_slice(bytes);
        } else {
            if !self.tail.is_empty() {
                self.chunks.push(self.tail.split().freeze());
            }
            self.chunks.push(bytes.clone());
        }
    }
}
