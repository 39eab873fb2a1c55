//! A batch that a plugin refuses fails alone: those behind it are still next.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use flumen_client::{BindingConfig, Client, Message, Name, SendError, TopicConfig};
use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, ProducerSequence, RecordRef},
    error::ErrorCode,
    ids::{Offset, ProducerId},
    message::{ProduceAcks, ProduceBatch, ProduceOpen, ProduceOutcome, StreamOpen},
    topic::TopicName,
};
use flumen_tests::{
    admin::{free_address, get},
    broker::Broker,
    raw::RawClient,
};
use flumen_transport::stream::Payload;
use futures_util::future::join_all;

const TOPIC: &str = "checked";
const PLUGIN: &str = "json-filter";

/// Refuses what is no JSON, and drops what is below 5.
const KEEPS_FIVE_AND_MORE: &str = r#"{"field": "n", "op": ">=", "value": 5}"#;

async fn bind(client: &Client, config: &str) {
    let mut binding = BindingConfig::new(Name::new(PLUGIN).unwrap());
    binding.config = config.to_owned();
    binding.timeout_ms = 10_000;
    client.admin().bind(TOPIC, binding).await.unwrap();
}

async fn broker_with_filter(args: &[&str]) -> (Broker, Client) {
    let broker = Broker::start_with(args).await;
    let client = broker.client().await;
    let administrator = client.admin();
    let config = TopicConfig::default();
    administrator.create_topic(TOPIC, config).await.unwrap();
    let filter = flumen_guests::guest(PLUGIN);
    let deployed = administrator.deploy_plugin(PLUGIN, None, filter);
    deployed.await.unwrap();
    bind(&client, KEEPS_FIVE_AND_MORE).await;
    (broker, client)
}

fn batch(sequence: u64, value: &str) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push(&RecordRef::new(1, value.as_bytes())).unwrap();
    let batch = builder.build(Codec::None).unwrap();
    batch.sequenced(ProducerSequence {
        producer_id: ProducerId(77),
        epoch: 0,
        sequence,
    })
}

/// Sends batches on a stream of their own, all before the first answer is read.
async fn produce(broker: &Broker, batches: &[Batch]) -> Vec<ProduceOutcome> {
    let raw = RawClient::connect(&broker.profile().unwrap()).await;
    let open = StreamOpen::Produce(ProduceOpen {
        topic: TopicName::new(TOPIC).unwrap(),
        partition: 0,
    });
    let (mut writer, mut reader) = raw.unwrap().open(open).await.unwrap();
    for batch in batches {
        let payload = Payload::Batch(batch);
        writer.send(&ProduceBatch, payload).await.unwrap();
    }
    let mut outcomes = Vec::new();
    while outcomes.len() < batches.len() {
        let (acks, _) = reader.next::<ProduceAcks>().await.unwrap().unwrap();
        outcomes.extend(acks.outcomes);
    }
    outcomes
}

async fn produce_one(broker: &Broker, sequence: u64, value: &str) -> ProduceOutcome {
    produce(broker, &[batch(sequence, value)]).await.remove(0)
}

fn assert_rejected(outcome: &ProduceOutcome) {
    assert_eq!(outcome.as_ref().unwrap_err().code, ErrorCode::Rejected);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_behind_a_rejected_batch_are_acknowledged_at_once() {
    let (broker, _client) = broker_with_filter(&[]).await;
    let batches: Vec<_> = (0..100)
        .map(|at| match at {
            0 | 40 => batch(at, "junk"),
            at => batch(at, &format!(r#"{{"n": {}}}"#, at + 5)),
        })
        .collect();
    let mut next = 0;
    for (at, outcome) in produce(&broker, &batches).await.into_iter().enumerate() {
        if matches!(at, 0 | 40) {
            assert_rejected(&outcome);
        } else {
            assert_eq!(outcome.unwrap().base_offset, Some(Offset(next)), "{at}");
            next += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sent_again_is_what_it_was_the_first_time_whatever_plugins_say_now() {
    const BIG: &str = r#"{"n": 7}"#;
    const SMALL: &str = r#"{"n": 1}"#;
    let (mut broker, _client) = broker_with_filter(&[]).await;
    let values = [BIG, "junk", SMALL, BIG];
    let batches: Vec<_> = (0..).zip(values).map(|(at, v)| batch(at, v)).collect();
    let first = produce(&broker, &batches).await;
    assert_eq!(first[0].as_ref().unwrap().base_offset, Some(Offset(0)));
    assert_rejected(&first[1]);
    assert_eq!(first[2].as_ref().unwrap().stored, 0);
    assert_eq!(first[3].as_ref().unwrap().base_offset, Some(Offset(1)));

    // The same plugin, also after a crash.
    broker.kill();
    broker.restart().await;
    assert_rejected(&produce_one(&broker, 1, "junk").await);

    let client = broker.client().await;
    // A plugin that refuses what was taken: it is stored all the same.
    client.admin().unbind(TOPIC, PLUGIN).await.unwrap();
    bind(&client, r#"{"field": "n", "op": "==", "value": "text"}"#).await;
    let stored = produce_one(&broker, 3, BIG).await.unwrap();
    assert_eq!((stored.base_offset, stored.stored), (Some(Offset(1)), 1));
    assert!(stored.duplicate);

    // No plugin any more: what was refused is not stored.
    client.admin().unbind(TOPIC, PLUGIN).await.unwrap();
    assert_rejected(&produce_one(&broker, 1, "junk").await);
    let next = produce_one(&broker, 4, "junk").await.unwrap();
    assert_eq!(next.base_offset, Some(Offset(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_with_many_batches_in_flight_never_gets_out_of_sequence() {
    const MESSAGES: usize = 300;
    const JUNK_EVERY: usize = 50;
    let admin = free_address();
    let (_broker, client) = broker_with_filter(&[&format!("--admin={admin}")]).await;
    let producer = client.producer::<Bytes>(TOPIC).batch_records(1);
    let producer = producer.build().await.unwrap();
    let sends = (0..MESSAGES).map(|at| {
        let value = if at % JUNK_EVERY == 7 {
            Bytes::from_static(b"junk")
        } else {
            Bytes::from(format!(r#"{{"n": {}}}"#, at + 5))
        };
        producer.send(Message::new(value))
    });
    let mut stored = 0;
    for (at, sent) in join_all(sends).await.into_iter().enumerate() {
        if at % JUNK_EVERY == 7 {
            let error = sent.unwrap_err();
            assert!(matches!(error, SendError::Rejected { .. }), "{error}");
        } else {
            assert_eq!(sent.unwrap().offset, Some(Offset(stored)), "{at}");
            stored += 1;
        }
    }
    let metrics = get(admin, "/metrics");
    let errors: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("flumen_produce_errors_total"))
        .collect();
    let rejected = MESSAGES / JUNK_EVERY;
    let expected = format!(r#"flumen_produce_errors_total{{code="Rejected"}} {rejected}"#);
    assert_eq!(errors, [expected]);
}
