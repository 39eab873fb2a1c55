//! Streams of the network in memory: a bounded channel for each direction.

use flumen_protocol::ids::BrokerId;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{MemoryNetwork, joined};
use crate::peer::{
    MESSAGE_BYTES_MAX, PeerError, PeerMessage, PeerReceiver, PeerSender, PeerStream,
};

/// Messages of a direction that may be under way: flow control, as it were.
const MESSAGES_MAX: usize = 16;

/// What travels: a message, or that nothing follows.
struct Item {
    arrives: Instant,
    message: Option<PeerMessage>,
}

/// Both ends of a stream from one broker to another.
pub(super) fn pair(
    network: &MemoryNetwork,
    from: BrokerId,
    to: BrokerId,
) -> (PeerStream, PeerStream) {
    let (there, arriving) = half(network, from, to);
    let (back, returning) = half(network, to, from);
    let ours = PeerStream {
        sender: Box::new(there),
        receiver: Box::new(returning),
    };
    let theirs = PeerStream {
        sender: Box::new(back),
        receiver: Box::new(arriving),
    };
    (ours, theirs)
}

fn half(network: &MemoryNetwork, from: BrokerId, to: BrokerId) -> (Sender, Receiver) {
    let (tx, rx) = mpsc::channel(MESSAGES_MAX);
    // A connection needs both directions: either cut breaks it.
    let broken = Broken {
        there: network.broken(from, to),
        back: network.broken(to, from),
    };
    let sender = Sender {
        network: network.clone(),
        to,
        tx: Some(tx),
        broken: broken.clone(),
    };
    let receiver = Receiver {
        from,
        rx,
        waiting: None,
        finished: false,
        broken,
    };
    (sender, receiver)
}

#[derive(Clone)]
struct Broken {
    there: CancellationToken,
    back: CancellationToken,
}

impl Broken {
    async fn cancelled(&self) {
        tokio::select! {
            () = self.there.cancelled() => {}
            () = self.back.cancelled() => {}
        }
    }
}

struct Sender {
    network: MemoryNetwork,
    to: BrokerId,
    /// `None` after [`PeerSender::finish`].
    tx: Option<mpsc::Sender<Item>>,
    broken: Broken,
}

impl PeerSender for Sender {
    fn send(&mut self, message: PeerMessage) -> BoxFuture<'_, Result<(), PeerError>> {
        async move {
            let bytes = message.bytes();
            if bytes > MESSAGE_BYTES_MAX {
                let reason = format!("a message of {bytes} bytes is too large");
                return Err(PeerError::refused(self.to, reason));
            }
            let Some(tx) = &self.tx else {
                return Err(PeerError::lost(self.to, "the stream is finished"));
            };
            let item = Item {
                arrives: Instant::now() + self.network.delay_now(),
                message: Some(joined(message)),
            };
            tokio::select! {
                biased;
                () = self.broken.cancelled() => Err(PeerError::lost(self.to, "the network is cut")),
                sent = tx.send(item) => {
                    sent.map_err(|_| PeerError::lost(self.to, "it dropped the stream"))
                }
            }
        }
        .boxed()
    }

    fn finish(&mut self) {
        let Some(tx) = self.tx.take() else { return };
        let last = Item {
            arrives: Instant::now() + self.network.delay_now(),
            message: None,
        };
        // What was sent before may still wait for room.
        tokio::spawn(async move { tx.send(last).await });
    }
}

struct Receiver {
    from: BrokerId,
    rx: mpsc::Receiver<Item>,
    /// Taken from the channel, and still on its way.
    waiting: Option<Item>,
    finished: bool,
    broken: Broken,
}

impl Receiver {
    async fn take(&mut self) -> Result<Option<PeerMessage>, PeerError> {
        if self.finished {
            return Ok(None);
        }
        if self.waiting.is_none() {
            self.waiting = self.rx.recv().await;
        }
        let Some(item) = &self.waiting else {
            return Err(PeerError::lost(self.from, "it dropped the stream"));
        };
        tokio::time::sleep_until(item.arrives).await;
        let message = self.waiting.take().and_then(|item| item.message);
        self.finished = message.is_none();
        Ok(message)
    }
}

impl PeerReceiver for Receiver {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<PeerMessage>, PeerError>> {
        async move {
            let broken = self.broken.clone();
            let from = self.from;
            tokio::select! {
                biased;
                () = broken.cancelled() => Err(PeerError::lost(from, "the network is cut")),
                taken = self.take() => taken,
            }
        }
        .boxed()
    }
}
