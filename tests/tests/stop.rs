//! A broker that is asked to stop does not wait for clients that have nothing under way.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use flumen_client::{Client, ConnectError, Profile, StartAt, TopicConfig};
use flumen_protocol::{
    batch::{BatchBuilder, Codec, RecordRef},
    frame::append_head,
    message::{ProduceAcks, ProduceBatch, ProduceOpen, StreamOpen},
};
use flumen_tests::{broker::Broker, raw::RawClient};
use flumen_transport::{
    quinn::SendStream,
    stream::{FrameReader, REPLY_LIMITS},
};
use rustix::process::Signal;

const TOPIC: &str = "stop";

/// Far below the default of `shutdown_grace`, 10 s, far above what it takes.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn idle_producers_and_consumers_do_not_hold_up_a_stop_and_go_on_after_it() {
    let mut broker = Broker::start().await;
    let client = broker.client().await;
    let config = TopicConfig::default();
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    producer.send(Bytes::from_static(b"before")).await.unwrap();
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.build().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().value, "before");

    let started = Instant::now();
    assert!(broker.stop().success());
    let took = started.elapsed();
    assert!(took < AT_ONCE, "stopping took {took:?}:\n{}", broker.log());

    broker.restart().await;
    producer.send(Bytes::from_static(b"after")).await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().value, "after");
}

/// Sends a batch, and the beginning of another one, which the broker waits for when it stops.
async fn begin_a_batch(raw: &RawClient) -> SendStream {
    let open = StreamOpen::Produce(ProduceOpen {
        topic: TOPIC.parse().unwrap(),
        partition: 0,
    });
    let mut builder = BatchBuilder::new();
    builder.push(&RecordRef::new(1, b"whole")).unwrap();
    let batch = builder.build(Codec::None).unwrap();
    let mut frames = BytesMut::new();
    append_head(&mut frames, &open, 0);
    append_head(&mut frames, &ProduceBatch, batch.encoded_len());
    frames.extend_from_slice(&batch.header().encode());
    frames.extend_from_slice(batch.body());
    append_head(&mut frames, &ProduceBatch, batch.encoded_len());
    let (mut send, receive) = raw.connection.open_bi().await.unwrap();
    send.write_all(&frames).await.unwrap();
    let mut reader = FrameReader::new(receive, REPLY_LIMITS);
    let (acks, _) = reader.next::<ProduceAcks>().await.unwrap().unwrap();
    acks.outcomes[0].as_ref().unwrap();
    send
}

async fn connect(profile: &Profile, timeout: Duration) -> Result<Client, ConnectError> {
    let builder = Client::builder().profile(profile.clone());
    builder.connect_timeout(timeout).connect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_while_a_broker_stops_is_served_by_the_one_that_follows() {
    let mut broker = Broker::start_with(&["--shutdown-grace=3s"]).await;
    let profile = broker.profile().unwrap();
    let client = broker.client().await;
    let config = TopicConfig::default();
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let raw = RawClient::connect(&profile).await.unwrap();
    let _unfinished = begin_a_batch(&raw).await;
    broker.signal(Signal::TERM);

    // Who has little time is told why.
    let patience = Duration::from_millis(200);
    let error = loop {
        match connect(&profile, patience).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("stopping"), "{error}");

    // Who has more time gets through.
    let connecting = {
        let profile = profile.clone();
        tokio::spawn(async move { connect(&profile, Duration::from_secs(30)).await })
    };
    let stopping = tokio::task::spawn_blocking(move || {
        assert!(broker.wait_for_exit().success());
        broker
    });
    let mut broker = stopping.await.unwrap();
    broker.restart().await;
    let client = connecting.await.unwrap().unwrap();
    let topics = client.admin().list_topics().await.unwrap();
    assert_eq!(topics.len(), 1);
}
