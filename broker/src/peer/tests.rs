//! The network of brokers over real QUIC on loopback.

mod broken;
mod refused;
mod support;

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use flumen_protocol::ids::BrokerId;
use tokio::time::timeout;

use self::support::{Authority, Room, TestBroker, message, pair};
use super::*;

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);

/// Longer than anything here may take, on a busy machine.
const LONG: Duration = Duration::from_secs(30);

async fn ask(
    broker: &TestBroker,
    to: BrokerId,
    request: &'static [u8],
) -> Result<Bytes, PeerError> {
    let request = Bytes::from_static(request);
    let call = broker.peers.call(to, PeerService::Raft, request);
    timeout(LONG, call).await.expect("a call ends")
}

async fn open(broker: &TestBroker, to: BrokerId) -> PeerStream {
    let head = Bytes::from_static(b"head");
    let opened = broker.peers.open(to, PeerService::Records, head).await;
    opened.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_answer_each_others_calls() {
    let (one, two) = pair().await;
    assert_eq!(ask(&one, TWO, b"hello").await.unwrap(), "hello");
    assert_eq!(ask(&two, ONE, b"").await.unwrap(), "");
    let refused = ask(&one, TWO, b"refuse").await;
    assert_eq!(refused, Err(PeerError::refused(TWO, "as was asked")));
    assert!(one.peers.round_trip(TWO).unwrap() > Duration::ZERO);
    assert_eq!(one.peers.round_trip(BrokerId(3)), None);
    assert!(matches!(
        ask(&one, BrokerId(3), b"").await,
        Err(PeerError::Unreachable { .. })
    ));
    assert!(matches!(
        ask(&one, ONE, b"").await,
        Err(PeerError::Unreachable { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn to_ask_who_is_at_an_address_breaks_no_connection() {
    const TIMES: usize = 3;
    let (one, two) = pair().await;
    ask(&one, TWO, b"connect").await.unwrap();
    let call = Bytes::from_static(b"sleep");
    let slow = tokio::spawn(one.peers.call(TWO, PeerService::Raft, call));
    for _ in 0..TIMES {
        let address = two.address.to_string();
        let who = one.peers.shared.dialer.who_is_at(&address).await;
        assert_eq!(who, Ok(TWO));
    }
    let left = two.until_only_the_first_is_left(1 + TIMES);
    timeout(LONG, left).await.expect("they are closed");
    assert_eq!(ask(&one, TWO, b"quick").await.unwrap(), "quick");
    assert!(!slow.is_finished(), "{:?}", slow.await);
    slow.abort();
    assert!(one.peers.reaches(&two.address.to_string()));
    assert!(!one.peers.reaches(&one.address.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_tried_without_a_connection_being_broken_and_only_the_broker_meant_counts() {
    let (one, two) = pair().await;
    ask(&one, TWO, b"connect").await.unwrap();
    let call = Bytes::from_static(b"sleep");
    let slow = tokio::spawn(one.peers.call(TWO, PeerService::Raft, call));
    let its_own = two.address.to_string();
    assert_eq!(one.peers.try_address(TWO, &its_own).await, Ok(()));
    let another = one.peers.try_address(BrokerId(3), &its_own).await;
    assert!(
        another.clone().unwrap_err().contains("it is broker 2"),
        "{another:?}"
    );
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = nobody.local_addr().unwrap().to_string();
    let silent = one.peers.try_address(TWO, &nobody).await;
    assert!(silent.clone().unwrap_err().contains(&nobody), "{silent:?}");
    assert_eq!(ask(&one, TWO, b"quick").await.unwrap(), "quick");
    assert!(!slow.is_finished(), "{:?}", slow.await);
    slow.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_call_holds_up_no_other_and_a_broken_handler_is_no_silence() {
    let (one, _two) = pair().await;
    let slow = tokio::spawn(
        one.peers
            .call(TWO, PeerService::Raft, Bytes::from_static(b"sleep")),
    );
    assert_eq!(ask(&one, TWO, b"quick").await.unwrap(), "quick");
    assert!(!slow.is_finished());
    slow.abort();
    let broken = ask(&one, TWO, b"panic").await;
    assert!(matches!(broken, Err(PeerError::Refused { .. })));
    assert_eq!(ask(&one, TWO, b"quick").await.unwrap(), "quick");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_made_at_once_share_packets() {
    const CALLS: u64 = 1_000;
    let (one, two) = pair().await;
    ask(&one, TWO, b"connect").await.unwrap();
    let before = two.packets_received();
    let calls = (0..CALLS).map(|number| {
        let request = Bytes::copy_from_slice(&number.to_le_bytes());
        one.peers.call(TWO, PeerService::Raft, request)
    });
    let replies = futures_util::future::join_all(calls).await;
    for (number, reply) in (0..CALLS).zip(replies) {
        assert_eq!(reply.unwrap(), &number.to_le_bytes()[..]);
    }
    let packets = two.packets_received() - before;
    assert!(packets < CALLS / 10, "{packets} packets");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_calls_are_taken_up_to_the_limit_on_both_sides() {
    let (one, _two) = pair().await;
    let largest = Bytes::from(vec![7; CALL_BYTES_MAX]);
    let calls = (0..3).map(|_| one.peers.call(TWO, PeerService::Raft, largest.clone()));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.unwrap(), largest);
    }
    let too_large = Bytes::from(vec![7; CALL_BYTES_MAX + 1]);
    let refused = one.peers.call(TWO, PeerService::Raft, too_large).await;
    assert!(matches!(refused, Err(PeerError::Refused { .. })));
    let refused = ask(&one, TWO, b"long reply").await;
    assert!(matches!(refused, Err(PeerError::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_stream_arrive_in_order_and_whole() {
    let (one, _two) = pair().await;
    let mut stream = open(&one, TWO).await;
    let large = Bytes::from(vec![3; 20 * 1024 * 1024]);
    let sent = [
        message(
            b"a",
            vec![
                Bytes::from_static(b"1"),
                Bytes::new(),
                Bytes::from_static(b"2"),
            ],
        ),
        message(b"", vec![]),
        message(b"c", vec![large.clone(), Bytes::from_static(b"end")]),
    ];
    let sender = tokio::spawn(async move {
        for message in sent {
            stream.sender.send(message).await.unwrap();
        }
        stream.sender.finish();
        stream.sender
    });
    let first = stream.receiver.next().await.unwrap().unwrap();
    // The room says first what it was opened with.
    assert_eq!(first, message(b"head", vec![]));
    let first = stream.receiver.next().await.unwrap().unwrap();
    assert_eq!(first, message(b"a", vec![Bytes::from_static(b"12")]));
    let second = stream.receiver.next().await.unwrap().unwrap();
    assert_eq!(second, message(b"", vec![]));
    let third = stream.receiver.next().await.unwrap().unwrap();
    assert_eq!(third.head, "c");
    assert_eq!(third.parts, [Bytes::from([&large[..], b"end"].concat())]);
    assert_eq!(stream.receiver.next().await, Ok(None));
    sender.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_the_stream_goes_on() {
    let (one, _two) = pair().await;
    let mut stream = open(&one, TWO).await;
    let half = Bytes::from(vec![0; MESSAGE_BYTES_MAX / 2]);
    let refused = stream
        .sender
        .send(message(b"x", vec![half.clone(), half]))
        .await;
    assert!(matches!(refused, Err(PeerError::Refused { .. })));
    stream.sender.send(message(b"y", vec![])).await.unwrap();
    assert_eq!(stream.receiver.next().await.unwrap().unwrap().head, "head");
    assert_eq!(stream.receiver.next().await.unwrap().unwrap().head, "y");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_hold_up_no_calls() {
    // More than fit into the window of a connection as clients have it, each nearly what one takes.
    const STREAMS: usize = 8;
    const MESSAGES: usize = 7;
    let (one, _two) = pair().await;
    let mut sending = Vec::new();
    for _ in 0..STREAMS {
        let head = Bytes::from_static(b"stall");
        let opened = one.peers.open(TWO, PeerService::Records, head).await;
        let mut stream = opened.unwrap();
        let sends = tokio::spawn(async move {
            for _ in 0..MESSAGES {
                let message = message(b"entries", vec![vec![0; 1024 * 1024].into()]);
                stream.sender.send(message).await.unwrap();
            }
            stream
        });
        sending.push(sends);
    }
    while !sending.iter().all(tokio::task::JoinHandle::is_finished) {
        assert_eq!(ask(&one, TWO, b"heartbeat").await.unwrap(), "heartbeat");
    }
    assert_eq!(ask(&one, TWO, b"heartbeat").await.unwrap(), "heartbeat");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_shard_that_there_may_be_has_a_stream_that_stays() {
    const STREAMS: usize = 1025;
    let (one, _two) = pair().await;
    let opening = async {
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let mut stream = open(&one, TWO).await;
            assert_eq!(stream.receiver.next().await.unwrap().unwrap().head, "head");
            streams.push(stream);
        }
        streams
    };
    timeout(LONG, opening).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_half_is_noticed_at_the_other_end() {
    let (one, two) = pair().await;
    let mut stream = open(&one, TWO).await;
    stream.receiver.next().await.unwrap();
    drop(stream.sender);
    // The room ends with what it cannot read any more, and drops its own half.
    assert!(matches!(
        stream.receiver.next().await,
        Err(PeerError::Lost { .. })
    ));
    assert!(two.room.streams_broken.load(Ordering::Acquire) == 1);

    let PeerStream {
        mut sender,
        receiver,
    } = open(&one, TWO).await;
    drop(receiver);
    let sending = async {
        while sender.send(message(b"more", vec![])).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, sending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_whole_although_the_receiver_was_interrupted() {
    let (one, _two) = pair().await;
    let mut stream = open(&one, TWO).await;
    let large = Bytes::from(vec![1; 4 * 1024 * 1024]);
    let sent = large.clone();
    let mut sender = stream.sender;
    let sending = tokio::spawn(async move {
        sender.send(message(b"large", vec![sent])).await.unwrap();
        sender
    });
    let mut received = Vec::new();
    while received.len() < 2 {
        let interrupted = timeout(Duration::from_micros(50), stream.receiver.next()).await;
        if let Ok(next) = interrupted {
            received.push(next.unwrap().unwrap());
        }
    }
    assert_eq!(received[1], message(b"large", vec![large]));
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_does_not_serve_yet_says_so() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let two = TestBroker::start(&authority, TWO);
    one.meet(&two);
    let refused = ask(&one, TWO, b"").await.unwrap_err();
    assert!(refused.to_string().contains("not ready"), "{refused}");
    let mut stream = open(&one, TWO).await;
    let refused = stream.receiver.next().await.unwrap_err();
    assert!(matches!(refused, PeerError::Refused { .. }), "{refused}");
    let room = Room::default();
    two.serve(room);
    assert_eq!(ask(&one, TWO, b"now").await.unwrap(), "now");
}
