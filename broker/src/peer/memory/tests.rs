//! That the network in memory keeps what the interface promises.

use std::{sync::atomic::AtomicUsize, sync::atomic::Ordering};

use super::*;

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);

/// Answers with what it was asked; sends back what a stream brings.
#[derive(Default)]
struct Echo {
    calls: AtomicUsize,
}

impl PeerHandler for Echo {
    fn call(&self, _from: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        async move { Ok(request) }.boxed()
    }

    fn stream(
        &self,
        _from: BrokerId,
        _head: Bytes,
        mut stream: PeerStream,
    ) -> BoxFuture<'static, ()> {
        async move {
            while let Ok(Some(message)) = stream.receiver.next().await {
                if stream.sender.send(message).await.is_err() {
                    return;
                }
            }
            stream.sender.finish();
        }
        .boxed()
    }
}

fn network() -> (MemoryNetwork, Arc<Echo>) {
    let network = MemoryNetwork::new();
    let echo = Arc::new(Echo::default());
    network.serve(TWO, PeerService::Raft, Arc::clone(&echo) as _);
    (network, echo)
}

fn message(head: &'static [u8], parts: &[&'static [u8]]) -> PeerMessage {
    PeerMessage {
        head: Bytes::from_static(head),
        parts: parts.iter().map(|part| Bytes::from_static(part)).collect(),
    }
}

async fn ask(network: &MemoryNetwork) -> Result<Bytes, PeerError> {
    let request = Bytes::from_static(b"?");
    network
        .peer(ONE)
        .call(TWO, PeerService::Raft, request)
        .await
}

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_after_the_delay_of_both_ways() {
    let (network, _echo) = network();
    network.delay(Duration::from_millis(5));
    let started = tokio::time::Instant::now();
    assert_eq!(ask(&network).await.unwrap(), "?");
    assert_eq!(started.elapsed(), Duration::from_millis(10));
}

#[tokio::test]
async fn a_cut_way_there_is_unreachable_and_a_cut_way_back_loses_the_reply() {
    let (network, echo) = network();
    network.cut(ONE, TWO);
    assert!(matches!(
        ask(&network).await,
        Err(PeerError::Unreachable { broker: TWO, .. })
    ));
    assert_eq!(echo.calls.load(Ordering::Relaxed), 0);
    network.mend(ONE, TWO);
    network.cut(TWO, ONE);
    assert!(matches!(
        ask(&network).await,
        Err(PeerError::Lost { broker: TWO, .. })
    ));
    network.mend_all();
    assert_eq!(ask(&network).await.unwrap(), "?");
}

#[tokio::test]
async fn of_lost_calls_some_were_done_and_some_not() {
    let (network, echo) = network();
    network.lose_calls(ONE, TWO, 1.0);
    for _ in 0..100 {
        assert!(matches!(ask(&network).await, Err(PeerError::Lost { .. })));
    }
    let done = echo.calls.load(Ordering::Relaxed);
    assert!((1..100).contains(&done), "{done} were done");
}

#[tokio::test]
async fn a_stopped_broker_is_unreachable_and_a_room_that_is_not_set_is_not_ready() {
    let (network, echo) = network();
    let peer = network.peer(ONE);
    let refused = peer.call(TWO, PeerService::Records, Bytes::new()).await;
    assert!(matches!(refused, Err(PeerError::Refused { .. })));
    network.stop(TWO);
    assert!(matches!(
        ask(&network).await,
        Err(PeerError::Unreachable { .. })
    ));
    network.serve(TWO, PeerService::Raft, echo);
    assert!(ask(&network).await.is_ok());
}

#[tokio::test]
async fn messages_of_a_stream_arrive_in_order_with_their_parts_joined() {
    let (network, _echo) = network();
    let peer = network.peer(ONE);
    let mut stream = peer
        .open(TWO, PeerService::Raft, Bytes::new())
        .await
        .unwrap();
    let sent = [
        message(b"a", &[b"1", b"", b"2"]),
        message(b"b", &[b""]),
        message(b"c", &[]),
    ];
    for message in sent {
        stream.sender.send(message).await.unwrap();
    }
    stream.sender.finish();
    let mut received = Vec::new();
    while let Some(message) = stream.receiver.next().await.unwrap() {
        received.push(message);
    }
    let expected = [
        message(b"a", &[b"12"]),
        message(b"b", &[]),
        message(b"c", &[]),
    ];
    assert_eq!(received, expected);
}

#[tokio::test]
async fn a_cut_in_either_direction_breaks_a_stream_for_good() {
    let (network, _echo) = network();
    for (from, to) in [(ONE, TWO), (TWO, ONE)] {
        let peer = network.peer(ONE);
        let opened = peer.open(TWO, PeerService::Raft, Bytes::new()).await;
        let mut stream = opened.unwrap();
        let waiting = tokio::spawn(async move {
            let first = stream.receiver.next().await;
            (first, stream)
        });
        tokio::task::yield_now().await;
        network.cut(from, to);
        let (first, mut stream) = waiting.await.unwrap();
        assert!(matches!(first, Err(PeerError::Lost { .. })));
        network.mend_all();
        let sent = stream.sender.send(message(b"late", &[])).await;
        assert!(matches!(sent, Err(PeerError::Lost { .. })));
    }
}

#[tokio::test]
async fn a_dropped_half_is_noticed_at_the_other_end() {
    let (network, _echo) = network();
    let (mut ours, theirs) = stream::pair(&network, ONE, TWO);
    let PeerStream {
        sender,
        mut receiver,
    } = theirs;
    drop(sender);
    assert!(matches!(
        ours.receiver.next().await,
        Err(PeerError::Lost { .. })
    ));
    drop(ours.sender);
    assert!(matches!(receiver.next().await, Err(PeerError::Lost { .. })));
}
