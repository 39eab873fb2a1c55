//! A producer whose topic is deleted says so, and goes on when the topic is made anew; a consumer
//! ends.
#![allow(clippy::unwrap_used)]

use flumen_client::{
    Client, ErrorCode, Message, Offset, Producer, Raw, SendError, StartAt, TopicConfig, TopicId,
};
use flumen_protocol::message::{ConsumeEvent, ConsumeOpen};
use flumen_tests::{broker::Broker, raw::RawClient};

const TOPIC: &str = "orders";

async fn create(client: &Client, partitions: u32) {
    let config = TopicConfig {
        partitions,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await.unwrap();
}

async fn delete(client: &Client) {
    client.admin().delete_topic(TOPIC).await.unwrap();
}

async fn send(producer: &Producer<Raw>, partition: u32) -> Result<Option<Offset>, SendError> {
    let message = Message::new(Raw::from_static(b"x")).partition(partition);
    producer.send(message).await.map(|receipt| receipt.offset)
}

/// A broker, and a producer that has sent a message to each partition.
async fn started(partitions: u32) -> (Broker, Client, Producer<Raw>) {
    let broker = Broker::start().await;
    let client = broker.client().await;
    create(&client, partitions).await;
    let producer = client.producer::<Raw>(TOPIC).build().await.unwrap();
    for partition in 0..partitions {
        let offset = send(&producer, partition).await.unwrap();
        assert_eq!(offset, Some(Offset(0)));
    }
    (broker, client, producer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_deleted_topic_fails_for_that_reason_and_not_when_its_time_is_up() {
    let (_broker, client, producer) = started(1).await;
    delete(&client).await;
    let error = send(&producer, 0).await.unwrap_err();
    let code = ErrorCode::UnknownTopic;
    assert!(
        matches!(&error, SendError::Refused { code: c, .. } if *c == code),
        "{error}"
    );
    assert!(error.to_string().contains("was deleted"), "{error}");
    create(&client, 1).await;
    assert_eq!(send(&producer, 0).await.unwrap(), Some(Offset(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_goes_on_with_a_topic_that_was_deleted_and_made_anew() {
    let (_broker, client, producer) = started(3).await;
    delete(&client).await;
    create(&client, 2).await;
    for partition in 0..2 {
        let offset = send(&producer, partition).await.unwrap();
        assert_eq!(offset, Some(Offset(0)));
    }
    assert_eq!(producer.partitions(), 2);
    let error = send(&producer, 2).await.unwrap_err();
    assert!(matches!(error, SendError::UnknownPartition(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_partition_that_a_topic_made_anew_lacks_fails_for_that_reason() {
    let (_broker, client, producer) = started(2).await;
    delete(&client).await;
    create(&client, 1).await;
    let error = send(&producer, 1).await.unwrap_err();
    let code = ErrorCode::UnknownPartition;
    assert!(
        matches!(&error, SendError::Refused { code: c, .. } if *c == code),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_is_told_when_its_topic_was_deleted_and_made_anew() {
    let (mut broker, client, _producer) = started(1).await;
    let mut consumer = client.consumer::<Raw>(TOPIC).build().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().offset, Offset(0));
    // While the consumer is away.
    broker.kill();
    broker.restart().await;
    let client = broker.client().await;
    delete(&client).await;
    create(&client, 1).await;
    let error = consumer.next().await.unwrap().unwrap_err();
    assert!(error.is_fatal(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_topic_that_was_made_anew_is_refused_to_who_means_the_one_before() {
    let (broker, client, _producer) = started(1).await;
    delete(&client).await;
    create(&client, 1).await;
    let raw = RawClient::connect(&broker.profile().unwrap()).await;
    let raw = raw.unwrap();
    let now = client.admin().describe_topic(TOPIC).await.unwrap().id;
    for (topic_id, is_taken) in [
        (None, true),
        (Some(now), true),
        (Some(TopicId(now.0 - 1)), false),
        (Some(TopicId(now.0 + 1)), false),
    ] {
        let open = ConsumeOpen {
            topic: TOPIC.parse().unwrap(),
            topic_id,
            partitions: vec![(0, StartAt::Beginning)],
        };
        let (_writer, mut reader) = raw.consume(open).await.unwrap();
        match reader.next::<ConsumeEvent>().await.unwrap() {
            Some((ConsumeEvent::Started(_), _)) => assert!(is_taken, "{topic_id:?}"),
            Some((ConsumeEvent::Failed(error), _)) => {
                assert!(!is_taken, "{error}");
                assert_eq!(error.code, ErrorCode::Unavailable);
            }
            other => panic!("{other:?}"),
        }
    }
}
