//! Streams of messages between brokers: a frame for each message, on a QUIC stream of its own.

use bytes::Bytes;
use flumen_protocol::{frame::FrameLimits, ids::BrokerId};
use flumen_transport::{
    quinn::{self, VarInt},
    stream::{FrameReader, FrameWriter, Payload, ReadError},
};
use futures_util::{FutureExt, future::BoxFuture};

use super::{
    MESSAGE_BYTES_MAX, PeerError, PeerMessage, PeerReceiver, PeerSender, PeerStream,
    wire::{RESET_DROPPED, RESET_NOT_READY, read_reason},
};

/// What is taken as a message. That head and parts together are within the limit is checked, too.
pub(super) const MESSAGE_LIMITS: FrameLimits = FrameLimits {
    header_bytes_max: MESSAGE_BYTES_MAX,
    payload_bytes_max: MESSAGE_BYTES_MAX,
};

/// Both directions of a stream with a broker.
pub(super) fn stream(with: BrokerId, writer: FrameWriter, reader: FrameReader) -> PeerStream {
    PeerStream {
        sender: Box::new(Sender {
            to: with,
            writer,
            is_finished: false,
        }),
        receiver: Box::new(Receiver {
            from: with,
            reader,
            head: None,
        }),
    }
}

struct Sender {
    to: BrokerId,
    writer: FrameWriter,
    is_finished: bool,
}

impl PeerSender for Sender {
    fn send(&mut self, message: PeerMessage) -> BoxFuture<'_, Result<(), PeerError>> {
        async move {
            let bytes = message.bytes();
            if bytes > MESSAGE_BYTES_MAX {
                let reason =
                    format!("a message of {bytes} bytes is over the limit of {MESSAGE_BYTES_MAX}");
                return Err(PeerError::refused(self.to, reason));
            }
            let parts = Payload::Parts(&message.parts);
            self.writer.push_bytes(&message.head, parts);
            let flushed = self.writer.flush().await;
            flushed.map_err(|error| PeerError::lost(self.to, error.to_string()))
        }
        .boxed()
    }

    fn finish(&mut self) {
        // A message that was cut off within is not finished: dropping resets it.
        if self.writer.buffered() == 0 {
            self.is_finished = true;
            self.writer.finish();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.is_finished {
            self.writer.reset(RESET_DROPPED);
        }
    }
}

struct Receiver {
    from: BrokerId,
    reader: FrameReader,
    /// Of a message whose parts are still missing, and how long they are.
    head: Option<(Bytes, usize)>,
}

impl Receiver {
    async fn take(&mut self) -> Result<Option<PeerMessage>, ReadError> {
        if self.head.is_none() {
            self.head = self.reader.next_bytes().await?;
        }
        let Some((head, len)) = &self.head else {
            return Ok(None);
        };
        let len = *len;
        if head.len() + len > MESSAGE_BYTES_MAX {
            return Err(ReadError::Frame(
                flumen_protocol::frame::FrameError::PayloadTooLarge {
                    len: head.len() + len,
                    max: MESSAGE_BYTES_MAX,
                },
            ));
        }
        let payload = self.reader.payload(len).await?;
        let parts = if payload.is_empty() {
            Vec::new()
        } else {
            vec![payload]
        };
        let message = self
            .head
            .take()
            .map(|(head, _)| PeerMessage { head, parts });
        Ok(message)
    }
}

impl PeerReceiver for Receiver {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<PeerMessage>, PeerError>> {
        async move {
            self.take().await.map_err(|error| match error {
                ReadError::Broken(quinn::ReadError::Reset(code))
                    if code == VarInt::from_u32(RESET_NOT_READY) =>
                {
                    PeerError::refused(self.from, "it is not ready yet")
                }
                error => PeerError::lost(self.from, read_reason(&error)),
            })
        }
        .boxed()
    }
}
