//! Administrative calls.

use std::time::Duration;

use flumen_client::{Client, ErrorCode, RequestError, TopicConfig};

use crate::broker::Broker;

/// A client that soon takes a request for lost.
async fn impatient_client(broker: &Broker) -> Client {
    let builder = broker.builder();
    let builder = builder.request_timeout(Duration::from_millis(200));
    builder.connect().await.unwrap()
}

#[tokio::test]
async fn topics_are_made_listed_and_deleted() {
    let broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    let config = TopicConfig {
        partitions: 3,
        ..TopicConfig::default()
    };
    admin.create_topic("orders", config.clone()).await.unwrap();
    let topics = admin.list_topics().await.unwrap();
    assert_eq!(topics.len(), 1);
    assert_eq!(
        (topics[0].name.as_str(), &topics[0].config),
        ("orders", &config)
    );
    let error = admin.create_topic("orders", config).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TopicExists));
    assert!(!error.is_unknown());
    assert!(
        !admin
            .ensure_topic("orders", TopicConfig::default())
            .await
            .unwrap()
    );
    assert!(
        admin
            .ensure_topic("bills", TopicConfig::default())
            .await
            .unwrap()
    );
    admin.delete_topic("bills").await.unwrap();
    admin.delete_topic("orders").await.unwrap();
    assert!(admin.list_topics().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_sent() {
    let broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    let none = TopicConfig {
        partitions: 0,
        ..TopicConfig::default()
    };
    let error = admin.create_topic("orders", none).await.unwrap_err();
    assert!(matches!(error, RequestError::TopicConfig(_)));
    let error = admin.delete_topic("a/b").await.unwrap_err();
    assert!(matches!(error, RequestError::Name(_)));
}

#[tokio::test]
async fn the_bytes_of_a_plugin_travel_and_a_refusal_brings_the_reason() {
    let broker = Broker::start();
    let client = broker.client().await;
    let component = vec![0; 300_000];
    let error = client.admin().deploy_plugin("p", None, component).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidPlugin));
    assert!(error.to_string().contains("300000"), "{error}");
}

#[tokio::test]
async fn a_request_is_repeated_while_the_broker_says_it_may_succeed_later() {
    let broker = Broker::start();
    let client = impatient_client(&broker).await;
    let error = client.admin().status().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unavailable));
}

#[tokio::test]
async fn what_a_broker_knows_of_an_unclear_outcome_is_told_in_its_own_words() {
    let broker = Broker::start();
    let client = broker.client().await;
    let error = client.admin().rebalance().await.unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.to_string(), "it is noted, but not by all");
}

#[tokio::test]
async fn a_question_without_an_answer_leaves_nothing_open_and_a_change_does() {
    let broker = Broker::start();
    let client = impatient_client(&broker).await;
    broker.go_mute(true);
    let error = client.admin().list_topics().await.unwrap_err();
    assert!(matches!(error, RequestError::NoAnswer { .. }), "{error}");
    assert!(!error.is_unknown());
    let error = client.admin().delete_topic("t").await.unwrap_err();
    assert!(matches!(error, RequestError::TimedOut { .. }), "{error}");
    assert!(error.is_unknown());
    // Asked for again, it would undo itself.
    let error = client.admin().roll_back_plugin("p").await.unwrap_err();
    assert!(matches!(error, RequestError::TimedOut { .. }), "{error}");
    assert!(error.is_unknown());
}
