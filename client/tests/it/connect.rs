//! Connecting, and what is said when that fails.

use std::time::Duration;

use flumen_client::{
    Client, ConnectError, ConsumeError, Raw, RequestError, StartAt, config::TIMEOUT_MAX,
};

use crate::broker::{Broker, PATIENCE, eventually};

#[tokio::test]
async fn a_token_is_shown_and_checked() {
    let broker = Broker::start();
    broker.require_token("secret");
    broker.builder().token("secret").connect().await.unwrap();
    for builder in [broker.builder().token("wrong"), broker.builder()] {
        let error = builder.connect().await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Unauthenticated { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn nothing_that_is_printed_to_find_an_error_shows_the_token() {
    let broker = Broker::start();
    broker.require_token("s3cret");
    broker.create_topic("t", 1);
    let builder = broker.builder().token("s3cret");
    let client = builder.clone().connect().await.unwrap();
    let producer = client.producer::<Raw>("t");
    let printed = [
        format!("{builder:?}"),
        format!("{client:?}"),
        format!("{:?}", client.admin()),
        format!("{:?}", client.consumer::<Raw>("t")),
        format!("{producer:?}"),
        format!("{:?}", producer.build().await.unwrap()),
    ];
    for text in printed {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn a_broker_of_another_authority_is_not_trusted() {
    let broker = Broker::start();
    let other = Broker::start();
    let error = broker.builder().ca(&other.ca).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_next_broker_is_tried_when_one_does_not_answer() {
    let broker = Broker::start();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = Client::builder()
        .brokers([
            format!("localhost:{}", silent.local_addr().unwrap().port()),
            format!("localhost:{}", broker.address.port()),
        ])
        .ca(&broker.ca)
        .connect_timeout(Duration::from_millis(100))
        .connect()
        .await
        .unwrap();
    assert!(client.admin().list_topics().await.unwrap().is_empty());
}

#[tokio::test]
async fn errors_say_which_broker_and_what_to_check() {
    let broker = Broker::start();
    let connect = |address: &str| {
        let builder = Client::builder().brokers([address]).ca(&broker.ca);
        builder.connect_timeout(Duration::from_millis(50)).connect()
    };
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("localhost:{}", silent.local_addr().unwrap().port());
    let text = connect(&address).await.unwrap_err().to_string();
    assert!(
        text.contains(&address) && text.contains("running"),
        "{text}"
    );
    let text = connect("localhost").await.unwrap_err().to_string();
    assert!(text.contains("host:port"), "{text}");
    let none = Client::builder().ca(&broker.ca).connect().await;
    assert!(matches!(none.unwrap_err(), ConnectError::NoBrokers));
    let no_ca = Client::builder().brokers(["localhost:1"]).connect().await;
    assert!(matches!(no_ca.unwrap_err(), ConnectError::Tls { .. }));
}

#[tokio::test]
async fn a_closed_client_lets_the_broker_know() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.close().await;
    broker.all_connections_closed().await;
}

#[tokio::test]
async fn consumers_of_a_closed_client_hand_out_what_they_have_and_end() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    broker.append("t", 0, "", &[b"x"]);
    let client = broker.client().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    let waiting = client.consumer::<Raw>("t").from(StartAt::End).build();
    let mut waiting = waiting.await.unwrap();
    let waiting = tokio::spawn(async move { waiting.next().await });
    eventually("they read", || broker.readers() == 2).await;
    assert_eq!(consumer.next().await.unwrap().unwrap().value, "x");
    client.close().await;
    let ended = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    for ended in [ended.unwrap(), consumer.next().await] {
        let error = ended.unwrap().unwrap_err();
        assert!(matches!(error, ConsumeError::Closed { .. }), "{error}");
        assert!(error.is_fatal());
    }
    assert!(consumer.next().await.is_none());
}

#[tokio::test]
async fn a_connection_that_is_being_made_when_the_client_is_closed_does_not_outlive_it() {
    let broker = Broker::start();
    broker.require_token("secret");
    let builder = broker.builder().token("secret");
    let builder = builder.connect_timeout(3 * PATIENCE);
    let client = builder.connect().await.unwrap();
    // Connections are made, and nothing is said on them.
    broker.go_mute(true);
    broker.kick();
    let admin = client.admin();
    let listing = tokio::spawn(async move { admin.list_topics().await });
    eventually("it connects again", || broker.connections_made() == 2).await;
    client.close().await;
    broker.all_connections_closed().await;
    let listed = tokio::time::timeout(PATIENCE, listing).await.unwrap();
    let error = listed.unwrap().unwrap_err();
    assert!(
        matches!(error, RequestError::Connect(ConnectError::Closed)),
        "{error}"
    );
}

#[tokio::test]
async fn one_connection_serves_all_and_is_made_again_when_it_breaks() {
    let broker = Broker::start();
    broker.create_topic("t", 4);
    let client = broker.client().await;
    let other = client.clone();
    for client in [&client, &other] {
        client.admin().list_topics().await.unwrap();
    }
    assert_eq!(broker.connections_made(), 1);
    broker.kick();
    client.admin().list_topics().await.unwrap();
    assert_eq!(broker.connections_made(), 2);
}

#[tokio::test]
async fn time_outs_are_at_most_what_can_be_told() {
    let broker = Broker::start();
    let too_long = TIMEOUT_MAX + Duration::from_secs(1);
    for builder in [
        broker.builder().connect_timeout(Duration::MAX),
        broker.builder().request_timeout(too_long),
        broker.builder().reconnect_delay(Duration::ZERO, too_long),
    ] {
        let checked = builder.check().unwrap_err();
        assert!(matches!(checked, ConnectError::Timeout { .. }), "{checked}");
        let error = builder.connect().await.unwrap_err();
        assert_eq!(error.to_string(), checked.to_string());
    }
    let longest = broker.builder().connect_timeout(TIMEOUT_MAX);
    let longest = longest.request_timeout(TIMEOUT_MAX);
    longest.connect().await.unwrap();
}
