//! Connections that break, and brokers that come back.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flumen_transport::tuning::PEER_IDLE_TIMEOUT;
use tokio::{net::UdpSocket, runtime::Runtime, time::Instant};

use super::{super::*, Authority, LONG, ONE, Room, TWO, TestBroker, ask, open, pair};

/// Passes packets on between one broker and another, unless it is told not to.
struct Relay {
    address: SocketAddr,
    there: Arc<AtomicBool>,
    back: Arc<AtomicBool>,
}

impl Relay {
    async fn to(broker: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let behind = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        behind.connect(broker).await.unwrap();
        let there = Arc::new(AtomicBool::new(true));
        let back = Arc::new(AtomicBool::new(true));
        let address = front.local_addr().unwrap();
        let passes = (Arc::clone(&there), Arc::clone(&back));
        tokio::spawn(async move {
            let mut caller = None;
            let (mut from_front, mut from_behind) = (vec![0; 65_536], vec![0; 65_536]);
            loop {
                tokio::select! {
                    received = front.recv_from(&mut from_front) => {
                        let Ok((len, from)) = received else { continue };
                        caller = Some(from);
                        if passes.0.load(Ordering::Relaxed) {
                            let _ = behind.send(&from_front[..len]).await;
                        }
                    }
                    received = behind.recv(&mut from_behind) => {
                        let (Ok(len), Some(caller)) = (received, caller) else { continue };
                        if passes.1.load(Ordering::Relaxed) {
                            let _ = front.send_to(&from_behind[..len], caller).await;
                        }
                    }
                }
            }
        });
        Self {
            address,
            there,
            back,
        }
    }

    fn pass(&self, there: bool, back: bool) {
        self.there.store(there, Ordering::Relaxed);
        self.back.store(back, Ordering::Relaxed);
    }
}

/// Asks until there is an answer.
async fn ask_until_answered(broker: &TestBroker, to: BrokerId) -> Duration {
    let started = Instant::now();
    while ask(broker, to, b"again").await.is_err() {
        assert!(started.elapsed() < LONG, "nobody answers");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_loses_what_is_under_way_then_nothing_is_sent_and_mended_it_goes_on() {
    let (one, two) = pair().await;
    let relay = Relay::to(two.address).await;
    one.peers
        .set_members(vec![(TWO, relay.address.to_string())]);
    for (there, back) in [(false, false), (false, true), (true, false)] {
        ask_until_answered(&one, TWO).await;
        let mut stream = open(&one, TWO).await;
        stream.receiver.next().await.unwrap();
        relay.pass(there, back);
        let cut = Instant::now();
        let lost = ask(&one, TWO, b"sleep").await;
        assert!(matches!(lost, Err(PeerError::Lost { .. })), "{lost:?}");
        assert!(cut.elapsed() < 3 * PEER_IDLE_TIMEOUT, "{:?}", cut.elapsed());
        let broken = stream.receiver.next().await;
        assert!(matches!(broken, Err(PeerError::Lost { .. })), "{broken:?}");
        let unreachable = ask(&one, TWO, b"").await;
        assert!(matches!(unreachable, Err(PeerError::Unreachable { .. })));
        // From now on, nobody waits for an attempt to fail: a hundred who did would wait for a
        // hundred seconds. A busy machine may hold up a few.
        let at_once = Instant::now();
        for _ in 0..100 {
            assert!(ask(&one, TWO, b"").await.is_err());
        }
        let elapsed = at_once.elapsed();
        assert!(elapsed < 3 * PEER_IDLE_TIMEOUT, "{elapsed:?}");
        relay.pass(true, true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_killed_is_found_again_when_it_is_back() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    // In a runtime of its own, so that it can go without a word.
    let runtime = Runtime::new().unwrap();
    let guard = runtime.enter();
    let two = TestBroker::start(&authority, TWO);
    drop(guard);
    two.serve(Room::default());
    one.meet(&two);
    ask(&one, TWO, b"").await.unwrap();
    let waiting = tokio::spawn(one.peers.call(
        TWO,
        PeerService::Raft,
        Bytes::from_static(b"sleep"),
    ));
    tokio::task::yield_now().await;
    let address = two.address;
    drop(two);
    runtime.shutdown_background();
    // The address is free once the first life is really over.
    while std::net::UdpSocket::bind(address).is_err() {
        tokio::task::yield_now().await;
    }
    let two = TestBroker::start_at(&authority, TWO, address);
    two.serve(Room::default());
    two.peers.set_members(vec![one.member()]);
    let found_after = ask_until_answered(&one, TWO).await;
    // The new life ends the connections of the old one at the first packet.
    assert!(found_after < PEER_IDLE_TIMEOUT, "{found_after:?}");
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_moved_is_found_at_its_new_address() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let two = TestBroker::start(&authority, TWO);
    two.serve(Room::default());
    one.meet(&two);
    ask(&one, TWO, b"").await.unwrap();
    two.peers.shutdown().await;
    let moved = TestBroker::start(&authority, TWO);
    moved.serve(Room::default());
    one.meet(&moved);
    ask_until_answered(&one, TWO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_says_so_and_takes_no_more() {
    let (one, two) = pair().await;
    ask(&one, TWO, b"").await.unwrap();
    ask(&two, ONE, b"").await.unwrap();
    two.peers.shutdown().await;
    let error = ask(&one, TWO, b"").await.unwrap_err();
    assert!(error.to_string().contains("stopping"), "{error}");
    let error = ask(&two, ONE, b"").await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
}
