//! Who is not let in among the brokers is told why, and named in the log.
#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, sync::Arc};

use flumen_client::Profile;
use flumen_protocol::{
    ALPN_CLIENT, ALPN_PEER,
    error::ErrorCode,
    ids::BrokerId,
    join::Enrolment,
    message::{BrokerInfo, Request},
};
use flumen_tests::{broker::Broker, raw::RawClient, wait::until};
use flumen_transport::{endpoint, quinn::ClientConfig, tls};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_brokers_protocol_without_a_certificate_is_refused_by_name() {
    let broker = Broker::start().await;
    let profile = broker.profile().unwrap();
    let stranger = RawClient::connect_as_stranger(&profile, ALPN_PEER)
        .await
        .unwrap();
    let closed = stranger.connection.closed().await.to_string();
    assert!(closed.contains("it shows no certificate"), "{closed}");
    assert_logged(&broker, &["refused", "from=127.0.0.1:", "no certificate"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_certificate_is_refused_by_name() {
    let broker = Broker::start().await;
    let profile = broker.profile().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let identity = tls::Identity {
        cert_pem: &key.cert.pem(),
        key_pem: &key.signing_key.serialize_pem(),
    };
    assert!(is_refused(&profile, identity).await);
    let words = ["refused", "from=127.0.0.1:", "none of this cluster"];
    assert_logged(&broker, &words).await;
}

/// Whether a connection as a broker ends, whatever it does.
async fn is_refused(profile: &Profile, identity: tls::Identity<'_>) -> bool {
    let contents = profile.contents();
    let address: SocketAddr = contents.brokers[0].parse().unwrap();
    let crypto = tls::client_config(&contents.ca, Some(identity), ALPN_PEER).unwrap();
    let config = ClientConfig::new(Arc::new(crypto));
    let endpoint = endpoint::client(address).unwrap();
    let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    match connecting.await {
        Ok(connection) => {
            connection.closed().await;
            true
        }
        Err(_) => true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_wrong_token_is_refused_by_name_and_learns_nothing() {
    let broker = Broker::start().await;
    let profile = broker.profile().unwrap();
    let stranger = RawClient::connect_as_stranger(&profile, ALPN_CLIENT)
        .await
        .unwrap();
    let enrolment = Enrolment {
        cluster: 1,
        token_id: 2,
        secret: [3; 32],
        broker: BrokerInfo {
            id: BrokerId(4),
            address: "127.0.0.1:5".to_owned(),
            zone: None,
        },
        public_key: Vec::new(),
        hosts: Vec::new(),
        version: "0.1.0".to_owned(),
    };
    let reply = stranger.request(Request::Enrol(Box::new(enrolment))).await;
    let error = reply.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Unauthenticated);
    // It has no credential, and got none.
    let reply = stranger.request(Request::ListTopics).await;
    assert_eq!(reply.unwrap().unwrap_err().code, ErrorCode::Unauthenticated);
    let words = ["wants to join is refused", "from=127.0.0.1:", "broker=4"];
    assert_logged(&broker, &words).await;
}

/// Waits until one line of the broker's log holds all of `words`.
async fn assert_logged(broker: &Broker, words: &[&str]) {
    until("the log names it", async || {
        let log = broker.log();
        log.lines()
            .any(|line| line.contains("WARN") && words.iter().all(|word| line.contains(word)))
    })
    .await;
}
