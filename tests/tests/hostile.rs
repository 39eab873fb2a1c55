//! Clients that break the protocol, never read, or open streams without end cost a bounded
//! amount and hurt nobody else.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use flumen_client::{Client, Message, TopicConfig};
use flumen_protocol::{
    ALPN_CLIENT,
    batch::{Batch, BatchBuilder, Codec, RecordRef},
    error::ErrorCode,
    message::{ConsumeOpen, ProduceAcks, ProduceBatch, ProduceOpen, Request, StartAt, StreamOpen},
};
use flumen_tests::{broker::Broker, raw::RawClient};
use flumen_transport::{quinn::ConnectionError, stream::Payload};

const TOPIC: &str = "orders";

async fn broker_with_topic(args: &[&str]) -> (Broker, Client) {
    let broker = Broker::start_with(args).await;
    let client = broker.client().await;
    let admin = client.admin();
    admin
        .create_topic(TOPIC, TopicConfig::default())
        .await
        .unwrap();
    (broker, client)
}

/// The broker still serves a well-behaved client, promptly.
async fn assert_serves(client: &Client) {
    let work = async {
        let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
        producer
            .send(Message::new(Bytes::from("still there?")))
            .await
            .unwrap();
    };
    tokio::time::timeout(Duration::from_secs(10), work)
        .await
        .expect("the broker serves others within 10 s");
}

fn produce_open() -> StreamOpen {
    StreamOpen::Produce(ProduceOpen {
        topic: TOPIC.parse().unwrap(),
        partition: 0,
    })
}

fn batch_of(bytes: usize) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push(&RecordRef::new(1, &vec![7; bytes])).unwrap();
    builder.build(Codec::None).unwrap()
}

/// Resident memory of a process, in bytes.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_a_stream_ends_that_stream_alone() {
    let (broker, client) = broker_with_topic(&[]).await;
    let raw = RawClient::connect(&broker.profile().unwrap())
        .await
        .unwrap();
    for length in [1_usize, 7, 8, 9, 64, 4096, 100_000] {
        let garbage: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        let (mut send, mut receive) = raw.connection.open_bi().await.unwrap();
        // The broker may well stop the stream before all is written.
        let _ = send.write_all(&garbage).await;
        let _ = send.finish();
        let ended = receive.read_to_end(1 << 20);
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        assert!(ended.is_ok(), "a stream of {length} bytes of garbage hangs");
    }
    raw.request(Request::ListTopics).await.unwrap().unwrap();
    assert_serves(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_batch_is_refused_and_the_next_one_is_taken() {
    let (broker, _client) = broker_with_topic(&[]).await;
    let raw = RawClient::connect(&broker.profile().unwrap())
        .await
        .unwrap();
    let (mut writer, mut reader) = raw.open(produce_open()).await.unwrap();
    let good = batch_of(100).to_bytes();
    let mut damaged = good.to_vec();
    damaged[150] ^= 1;
    for bytes in [damaged.into(), good] {
        let payload = Payload::Bytes(&bytes);
        writer.send(&ProduceBatch, payload).await.unwrap();
    }
    let mut outcomes = Vec::new();
    while outcomes.len() < 2 {
        let (acks, _) = reader.next::<ProduceAcks>().await.unwrap().unwrap();
        outcomes.extend(acks.outcomes);
    }
    let refused = outcomes[0].as_ref().unwrap_err();
    assert_eq!(refused.code, ErrorCode::CorruptBatch);
    assert!(!refused.retryable);
    assert_eq!(outcomes[1].as_ref().unwrap().stored, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_nothing_and_is_sent_away() {
    let (broker, client) = broker_with_topic(&["--limits-authentication-timeout", "500ms"]).await;
    let profile = broker.profile().unwrap();
    let stranger = RawClient::connect_as_stranger(&profile, ALPN_CLIENT)
        .await
        .unwrap();
    let refused = stranger
        .request(Request::ListTopics)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unauthenticated);
    let (_writer, mut reader) = stranger.open(produce_open()).await.unwrap();
    let (acks, _) = reader.next::<ProduceAcks>().await.unwrap().unwrap();
    let refused = acks.outcomes[0].as_ref().unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unauthenticated);
    let closed = tokio::time::timeout(Duration::from_secs(10), stranger.connection.closed());
    let closed = closed.await.expect("the stranger is sent away in time");
    assert!(
        matches!(closed, ConnectionError::ApplicationClosed(_)),
        "{closed}"
    );

    let mut contents = profile.contents().clone();
    contents.token = Some("0".repeat(64));
    let wrong = contents.into();
    assert!(RawClient::connect(&wrong).await.is_err(), "a wrong token");
    assert!(
        !broker.log().contains(&"0".repeat(64)),
        "no token in the log"
    );
    assert_serves(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_version_is_refused_during_the_handshake() {
    let (broker, client) = broker_with_topic(&[]).await;
    let profile = broker.profile().unwrap();
    let error = RawClient::connect_as_stranger(&profile, b"flumen/9")
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("error 120"), "{error:#}");
    assert_serves(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_never_read_cost_a_bounded_amount() {
    const CONSUMERS: usize = 8;
    let (broker, client) = broker_with_topic(&[]).await;
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    let value = Bytes::from(vec![7; 64 * 1024]);
    for _ in 0..1024 {
        producer.enqueue(Message::new(value.clone())).await.unwrap();
    }
    producer.flush().await.unwrap();
    let before = resident_bytes(broker.pid());
    let open = StreamOpen::Consume(ConsumeOpen {
        topic: TOPIC.parse().unwrap(),
        topic_id: None,
        partitions: vec![(0, StartAt::Beginning)],
    });
    let mut idle = Vec::new();
    for _ in 0..CONSUMERS {
        let raw = RawClient::connect(&broker.profile().unwrap())
            .await
            .unwrap();
        let stream = raw.open(open.clone()).await.unwrap();
        idle.push((raw, stream));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_serves(&client).await;
    // A connection may hold its send window (16 MiB), a turn, and its own structures.
    let grown = resident_bytes(broker.pid()).saturating_sub(before);
    let bound = CONSUMERS as u64 * 24 * 1024 * 1024;
    assert!(
        grown < bound,
        "{grown} bytes for {CONSUMERS} consumers that do not read"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_end_stop_at_the_limit() {
    const LIMIT: usize = 100;
    let (broker, client) = broker_with_topic(&["--limits-streams-per-connection-max", "100"]).await;
    let raw = RawClient::connect(&broker.profile().unwrap())
        .await
        .unwrap();
    let patience = Duration::from_millis(500);
    let mut held = Vec::new();
    while let Ok(opened) = tokio::time::timeout(patience, raw.open(produce_open())).await {
        held.push(opened.unwrap());
        assert!(held.len() <= LIMIT, "a stream beyond the limit was opened");
    }
    assert!(
        held.len() > LIMIT / 2,
        "only {} streams could be opened",
        held.len()
    );
    assert_serves(&client).await;
    drop(held);
    let again = tokio::time::timeout(Duration::from_secs(10), raw.connection.open_bi());
    assert!(again.await.is_ok(), "ended streams make room for new ones");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_announced_and_never_sent_do_not_hold_up_others() {
    let (broker, client) = broker_with_topic(&["--limits-inflight-bytes-max", "64MiB"]).await;
    let large = batch_of(8 * 1000 * 1000);
    let mut held = Vec::new();
    for _ in 0..8 {
        let raw = RawClient::connect(&broker.profile().unwrap())
            .await
            .unwrap();
        for _ in 0..8 {
            let (send, _receive) = raw.connection.open_bi().await.unwrap();
            let mut writer = flumen_transport::stream::FrameWriter::new(send);
            writer.push(&produce_open(), Payload::None);
            writer.push(&ProduceBatch, Payload::Batch(&large));
            // Starts to send, and gives up half-way: the frame stays unfinished.
            let _ = tokio::time::timeout(Duration::from_millis(2), writer.flush()).await;
            held.push((writer, raw.connection.clone()));
        }
    }
    assert_serves(&client).await;
}
