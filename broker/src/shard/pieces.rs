//! What may be larger than a message of a stream: a head, and bytes in pieces until the stream ends.

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::rpc;
use crate::peer::{PeerError, PeerMessage, PeerReceiver, PeerSender};

/// Bytes of a piece: far below what a message may have.
const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// Why something did not arrive whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum PiecesError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the stream ended before it began")]
    Nothing,
    #[error("it has more than {0} bytes")]
    TooLarge(usize),
}

/// Sends a head and bytes. The caller finishes the stream, which is the end of them.
pub(super) async fn send(
    sender: &mut dyn PeerSender,
    head: &(impl Serialize + Sync),
    mut bytes: Bytes,
) -> Result<(), PeerError> {
    let head = rpc::encode(head);
    let parts = Vec::new();
    sender.send(PeerMessage { head, parts }).await?;
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        let message = PeerMessage {
            head: Bytes::new(),
            parts: vec![piece],
        };
        sender.send(message).await?;
    }
    Ok(())
}

/// Receives what [`send`] sent. Memory is taken for what has come, whatever else is said to come.
pub(super) async fn receive(
    receiver: &mut dyn PeerReceiver,
    bytes_max: usize,
) -> Result<(Bytes, Bytes), PiecesError> {
    let head = receiver.next().await?.ok_or(PiecesError::Nothing)?.head;
    let mut bytes = BytesMut::new();
    while let Some(message) = receiver.next().await? {
        for piece in message.parts {
            if piece.len() > bytes_max - bytes.len() {
                return Err(PiecesError::TooLarge(bytes_max));
            }
            bytes.extend_from_slice(&piece);
        }
    }
    Ok((head, bytes.freeze()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flumen_protocol::ids::BrokerId;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::peer::{
        MESSAGE_BYTES_MAX, PeerHandler, PeerService, PeerStream, memory::MemoryNetwork,
    };

    /// Sends back what a stream brings.
    struct Echo;

    impl PeerHandler for Echo {
        fn call(&self, _: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
            Box::pin(std::future::ready(Ok(request)))
        }

        fn stream(&self, _: BrokerId, _: Bytes, mut stream: PeerStream) -> BoxFuture<'static, ()> {
            Box::pin(async move {
                while let Ok(Some(message)) = stream.receiver.next().await {
                    stream.sender.send(message).await.unwrap();
                }
                stream.sender.finish();
            })
        }
    }

    async fn there_and_back(bytes: Bytes, bytes_max: usize) -> Result<Bytes, PiecesError> {
        let network = MemoryNetwork::new();
        network.serve(BrokerId(2), PeerService::Raft, Arc::new(Echo));
        let peer = network.peer(BrokerId(1));
        let opened = peer.open(BrokerId(2), PeerService::Raft, Bytes::new());
        let PeerStream {
            mut sender,
            mut receiver,
        } = opened.await.unwrap();
        let sending = async {
            send(&mut *sender, &7u64, bytes).await.unwrap();
            sender.finish();
        };
        let ((), received) = tokio::join!(sending, receive(&mut *receiver, bytes_max));
        let (head, bytes) = received?;
        assert_eq!(rpc::decode::<u64>(&head).unwrap(), 7);
        Ok(bytes)
    }

    #[tokio::test]
    async fn what_is_larger_than_a_message_arrives_whole() {
        let mut large = vec![3; MESSAGE_BYTES_MAX + PIECE_BYTES / 2];
        large[PIECE_BYTES] = 4;
        for bytes in [Vec::new(), vec![1], large] {
            let received = there_and_back(bytes.clone().into(), bytes.len()).await;
            assert!(received.unwrap() == bytes, "{} bytes", bytes.len());
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_when_it_is() {
        let bytes = vec![1; PIECE_BYTES + 1];
        let received = there_and_back(bytes.into(), PIECE_BYTES).await;
        let refused = matches!(received, Err(PiecesError::TooLarge(_)));
        assert!(refused, "{received:?}");
    }
}
