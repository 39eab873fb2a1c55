//! What the admin address tells is what happened.
#![allow(clippy::unwrap_used)]

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use flumen_client::{BindingConfig, ErrorPolicy, Name, StartAt, TopicConfig};
use flumen_tests::{
    admin::{free_address, get},
    broker::Broker,
    wait::until,
};

const TOPIC: &str = "measured";

#[tokio::test(flavor = "multi_thread")]
async fn records_bytes_syncs_and_plugin_calls_are_counted() {
    let admin = free_address();
    let broker = Broker::start_with(&[&format!("--admin={admin}")]).await;
    let client = broker.client().await;
    let administrator = client.admin();
    let config = TopicConfig::default();
    administrator.create_topic(TOPIC, config).await.unwrap();
    let filter = flumen_guests::guest("json-filter");
    let deployed = administrator.deploy_plugin("json-filter", None, filter);
    deployed.await.unwrap();
    let mut binding = BindingConfig::new(Name::new("json-filter").unwrap());
    binding.config = r#"{"field": "n", "op": ">=", "value": 5}"#.to_owned();
    binding.on_error = ErrorPolicy::Drop;
    administrator.bind(TOPIC, binding).await.unwrap();

    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    for n in 0..10 {
        let value = Bytes::from(format!(r#"{{"n": {n}}}"#));
        producer.enqueue(value).await.unwrap();
    }
    producer.enqueue(Bytes::from_static(b"junk")).await.unwrap();
    producer.flush().await.unwrap();
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.until_end().build().await.unwrap();
    let mut consumed = 0;
    while let Some(received) = consumer.next().await {
        received.unwrap();
        consumed += 1;
    }
    assert_eq!(consumed, 5);

    let metrics = get(admin, "/metrics");
    assert!(metrics.starts_with("HTTP/1.0 200"), "{metrics}");
    for line in [
        r#"flumen_produced_records_total{topic="measured"} 5"#,
        r#"flumen_consumed_records_total{topic="measured"} 5"#,
        r#"flumen_plugin_records_total{topic="measured",plugin="json-filter"} 11"#,
        r#"flumen_plugin_failures_total{topic="measured",plugin="json-filter"} 0"#,
        r#"flumen_plugin_failed_records_total{topic="measured",plugin="json-filter"} 1"#,
        "flumen_topics 1",
        "flumen_partitions 1",
        "flumen_degraded 0",
        // A broker that is alone leads all, and lacks nothing.
        "flumen_cluster_brokers_connected 0",
        "flumen_cluster_shards_led 16",
        "flumen_cluster_lag_entries 0",
        "flumen_cluster_lag_records 0",
        "flumen_cluster_lag_bytes 0",
        "flumen_cluster_damaged_shards 0",
        "flumen_cluster_snapshots_sent_total 0",
        "flumen_cluster_snapshots_received_total 0",
        "flumen_cluster_transfer_sent_bytes_total 0",
        "flumen_cluster_transfer_received_bytes_total 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    for counter in ["flumen_wal_syncs_total", "flumen_wal_written_bytes_total"] {
        let line = metrics.lines().find(|line| line.starts_with(counter));
        let value: f64 = line.unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        assert!(value > 0.0, "{counter}");
    }
    assert!(metrics.contains("topic=\"measured\""));
    administrator.delete_topic(TOPIC).await.unwrap();
    until("nothing tells of the topic any more", || async {
        !get(admin, "/metrics").contains("topic=\"measured\"")
    })
    .await;
    for path in ["/healthz", "/readyz"] {
        assert!(get(admin, path).starts_with("HTTP/1.0 200"), "{path}");
    }
    assert!(get(admin, "/absent").starts_with("HTTP/1.0 404"));
}

/// Whether the admin address is served, and its broker ready.
fn is_ready(admin: SocketAddr) -> bool {
    TcpStream::connect(admin).is_ok() && get(admin, "/readyz").starts_with("HTTP/1.0 200")
}

/// The value of the line that begins with `name`, if it is there.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_tell_of_each_other_of_what_they_lead_and_of_elections() {
    let admins = [free_address(), free_address()];
    let [admin, other] = admins.map(|address| format!("--admin={address}"));
    let founder = Broker::start_with(&["--shards=4", &admin]).await;
    let client = founder.client().await;
    let ttl = Duration::from_mins(10);
    let token = client.admin().create_join_token(ttl).await.unwrap();
    let mut joined = Broker::start_with(&["--join", &token, &other]).await;
    until("both are ready", || async {
        admins.into_iter().all(is_ready)
    })
    .await;
    let scraped = || admins.map(|address| get(address, "/metrics"));
    until(
        "each leads half of the shards and is near the other",
        || async {
            scraped().iter().all(|metrics| {
                value(metrics, "flumen_cluster_brokers_connected ") == Some(1.0)
                    && value(metrics, "flumen_cluster_shards_led ") == Some(2.0)
                    && value(metrics, "flumen_cluster_round_trip_seconds{")
                        .is_some_and(|it| it > 0.0)
            })
        },
    )
    .await;
    let [at_founder, _] = scraped();
    assert!(value(&at_founder, "flumen_cluster_term ").unwrap() > 0.0);
    assert!(value(&at_founder, "flumen_cluster_elections_total ").is_some());

    joined.kill();
    until(
        "who is gone is not counted, and leaves no time behind",
        || async {
            let metrics = get(admins[0], "/metrics");
            value(&metrics, "flumen_cluster_brokers_connected ") == Some(0.0)
                && value(&metrics, "flumen_cluster_round_trip_seconds{").is_none()
        },
    )
    .await;
    // Of two brokers one votes on the catalog: the founder goes on, and is ready.
    assert!(get(admins[0], "/readyz").starts_with("HTTP/1.0 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_a_leader_of_the_catalog_is_not_ready_and_says_why() {
    let mut founder = Broker::start_with(&["--shards=2"]).await;
    let client = founder.client().await;
    let ttl = Duration::from_mins(10);
    let token = client.admin().create_join_token(ttl).await.unwrap();
    let admin = free_address();
    let joined = Broker::start_with(&["--join", &token, &format!("--admin={admin}")]).await;
    until("the broker that has joined is ready", || async {
        is_ready(admin)
    })
    .await;
    founder.kill();
    until("it is not ready, and says why", || async {
        let answer = get(admin, "/readyz");
        answer.starts_with("HTTP/1.0 503") && answer.contains("which alone votes on the catalog")
    })
    .await;
    // A restart helps nobody.
    assert!(get(admin, "/healthz").starts_with("HTTP/1.0 200"));
    founder.restart().await;
    until("it is ready again", || async { is_ready(admin) }).await;
    drop(joined);
}
