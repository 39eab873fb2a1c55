//! What the admin address tells is what happened.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use flumen_client::{BindingConfig, ErrorPolicy, Name, StartAt, TopicConfig};
use flumen_tests::{
    admin::{free_address, get},
    broker::Broker,
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
    for path in ["/healthz", "/readyz"] {
        assert!(get(admin, path).starts_with("HTTP/1.0 200"), "{path}");
    }
    assert!(get(admin, "/absent").starts_with("HTTP/1.0 404"));
}
