//! Who is not let in.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use flumen_protocol::ALPN_PEER;
use flumen_transport::{
    endpoint,
    quinn::{ClientConfig, VarInt},
    stream::{FrameWriter, Payload},
};
use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::{
    super::*, Authority, LONG, ONE, Room, TWO, TestBroker, ask, pair, support::endpoint_of,
};

fn any_port() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
}

#[track_caller]
fn assert_unreachable(outcome: Result<Bytes, PeerError>, because: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(because), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_no_member_is_refused_and_told_so() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let two = TestBroker::start(&authority, TWO);
    two.serve(Room::default());
    one.peers.set_members(vec![two.member()]);
    two.peers.set_starting(true);
    assert_unreachable(ask(&one, TWO, b"").await, "just started");
    two.peers.set_starting(false);
    let mut error = ask(&one, TWO, b"").await.unwrap_err();
    while error.to_string().contains("just started") {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        error = ask(&one, TWO, b"").await.unwrap_err();
    }
    assert_unreachable(Err(error), "broker 1 is no member");
    two.peers.set_members(vec![one.member()]);
    let mut reply = ask(&one, TWO, b"now").await;
    while reply.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        reply = ask(&one, TWO, b"now").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_loses_its_connections_both_ways() {
    let (one, two) = pair().await;
    ask(&one, TWO, b"").await.unwrap();
    ask(&two, ONE, b"").await.unwrap();
    let pending = tokio::spawn(two.peers.call(
        ONE,
        PeerService::Raft,
        Bytes::from_static(b"sleep"),
    ));
    one.peers.set_members(vec![one.member()]);
    assert_unreachable(ask(&one, TWO, b"").await, "no member");
    // Whether it was written before, only the writer knows.
    assert!(pending.await.unwrap().is_err());
    // First it may hear only that the connection was lost.
    let told = async {
        loop {
            match ask(&two, ONE, b"").await {
                Err(error) if error.to_string().contains("no member") => break Err(error),
                _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    };
    let error = timeout(LONG, told).await.unwrap();
    assert_unreachable(error, "no member");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_removed_learns_it_over_a_connection_that_stands_and_over_a_new_one() {
    let (one, two) = pair().await;
    ask(&one, TWO, b"").await.unwrap();
    // No member is not yet removed.
    let mut told = std::pin::pin!(two.peers.removed());
    one.peers.set_members(vec![one.member()]);
    assert!(ask(&two, ONE, b"").await.is_err());
    assert!(told.as_mut().now_or_never().is_none());
    one.peers.set_removed([TWO].into());
    let told = timeout(LONG, async {
        tokio::select! {
            by = told => by,
            () = async {
                loop {
                    let _ = ask(&two, ONE, b"").await;
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            } => unreachable!(),
        }
    });
    assert_eq!(told.await.unwrap(), ONE);

    let (one, two) = pair().await;
    ask(&two, ONE, b"").await.unwrap();
    one.peers.set_removed([TWO].into());
    one.peers.set_members(vec![one.member()]);
    assert_eq!(timeout(LONG, two.peers.removed()).await.unwrap(), ONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_learns_that_it_was_removed_from_who_hangs_up_before_asking_for_anything() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let two = TestBroker::start(&authority, TWO);
    one.meet(&two);
    let credentials = authority.of_broker(ONE);
    let tls = credentials.tls_towards(TWO).unwrap();
    let config = ClientConfig::new(Arc::new(tls));
    let endpoint = endpoint::client(two.address).unwrap();
    let connecting = endpoint.connect_with(config, two.address, "localhost");
    let connection = connecting.unwrap().await.unwrap();
    let code = VarInt::from_u32(wire::CLOSE_REMOVED);
    connection.close(code, b"removed");
    assert_eq!(timeout(LONG, two.peers.removed()).await.unwrap(), ONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_looks_for_others_hears_that_it_was_removed_from_one_that_it_does_not_know() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let two = TestBroker::start(&authority, TWO);
    one.peers.set_removed([TWO].into());
    // The member that it knows is gone.
    let gone = (BrokerId(99), "127.0.0.1:1".to_owned());
    two.peers.set_members(vec![two.member(), gone]);
    let looking = two
        .peers
        .clone()
        .look_for_members(vec![one.address.to_string()]);
    let told = async {
        tokio::select! {
            by = two.peers.removed() => by,
            () = looking => unreachable!(),
        }
    };
    assert_eq!(timeout(LONG, told).await.unwrap(), ONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_removed_while_it_is_dialed_is_told_so() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let credentials = authority.of_broker(TWO);
    let two = endpoint_of(&credentials, TWO, any_port(), &[ALPN_PEER]);
    let member = (TWO, two.local_addr().unwrap().to_string());
    one.peers.set_members(vec![one.member(), member]);
    let asked = tokio::spawn(one.peers.call(TWO, PeerService::Raft, Bytes::new()));
    let connection = two.accept().await.unwrap().await.unwrap();
    let (send, _receive) = connection.accept_bi().await.unwrap();
    one.peers.set_removed([TWO].into());
    one.peers.set_members(vec![one.member()]);
    let mut writer = FrameWriter::new(send);
    let hello = wire::Hello::ours();
    writer.send(&hello, Payload::None).await.unwrap();
    let closed = timeout(LONG, connection.closed()).await.unwrap();
    assert!(wire::says_removed(&closed), "{closed}");
    assert!(asked.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_another_authority_are_refused_by_either_side() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let one = TestBroker::start(&ours, ONE);
    let two = TestBroker::start(&theirs, TWO);
    one.meet(&two);
    two.serve(Room::default());
    assert_unreachable(ask(&one, TWO, b"").await, "certificate");

    // It trusts the authority of the others, who do not trust its own.
    let mut credentials = theirs.of_broker(BrokerId(3));
    credentials.authority = ours.of_broker(ONE).authority;
    let three = TestBroker::start_with(credentials, BrokerId(3), any_port());
    three.meet(&one);
    assert_unreachable(ask(&three, ONE, b"").await, "certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_authority_that_names_no_broker_is_refused() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    one.serve(Room::default());
    let uris: [&[&str]; 4] = [
        &[],
        &["https://example.com/"],
        &["flumen://broker/x"],
        &["flumen://broker/2", "flumen://broker/3"],
    ];
    for uris in uris {
        let two = TestBroker::start_with(authority.naming(uris), TWO, any_port());
        one.meet(&two);
        assert_unreachable(ask(&two, ONE, b"").await, "names no broker");
        assert_unreachable(ask(&one, TWO, b"").await, "names no broker");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_broker_at_the_address_is_not_taken_for_the_one_that_was_meant() {
    let (one, two) = pair().await;
    let wrong = vec![(BrokerId(3), two.address.to_string())];
    one.peers.set_members(wrong);
    assert_unreachable(ask(&one, BrokerId(3), b"").await, "it is broker 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_cannot_pass_for_the_one_that_it_calls() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let double = TestBroker::start_with(authority.of_broker(ONE), TWO, any_port());
    double.peers.set_members(vec![one.member()]);
    assert_unreachable(ask(&double, ONE, b"").await, "this broker itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_speaks_another_version_is_told_from_one_that_is_not_there() {
    let authority = Authority::new();
    let one = TestBroker::start(&authority, ONE);
    let alpns: [&[u8]; 2] = [flumen_protocol::ALPN_CLIENT, b"flumen-peer/2"];
    let credentials = authority.of_broker(TWO);
    let two = TestBroker::start_speaking(credentials, TWO, any_port(), &alpns);
    one.meet(&two);
    let reply = ask(&one, TWO, b"").await;
    assert_unreachable(reply, "another version of the protocol between brokers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_certificate_is_closed_with_the_reason() {
    let (one, _two) = pair().await;
    let authority_pem = one.authority_pem.clone();
    let tls =
        flumen_transport::tls::client_config(&authority_pem, None, flumen_protocol::ALPN_PEER);
    let config = flumen_transport::quinn::ClientConfig::new(std::sync::Arc::new(tls.unwrap()));
    let endpoint = flumen_transport::endpoint::client(one.address).unwrap();
    let connecting = endpoint.connect_with(config, one.address, "localhost");
    let connection = connecting.unwrap().await.unwrap();
    let closed = wire::reason_of(&connection.closed().await);
    assert_eq!(closed, "it shows no certificate");
}
