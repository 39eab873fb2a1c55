//! Damaged files keep nobody from what is not damaged.
#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use flumen_client::{BindingConfig, Client, ConsumeError, Message, Name, StartAt, TopicConfig};
use flumen_tests::broker::Broker;

const TOPIC: &str = "damaged";
const RECORDS: u64 = 20;
const VALUE: &[u8] = b"a value to be found in the file of its segment";

fn files_below(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, out);
        } else {
            out.push(path);
        }
    }
}

/// Flips a bit of the first value in a segment file of the topic, and returns the file.
fn damage_one_segment(data: &Path) -> PathBuf {
    let mut files = Vec::new();
    files_below(data, &mut files);
    files.retain(|path| {
        path.extension()
            .is_none_or(|kind| kind != "wal" && kind != "spare")
    });
    files.sort();
    for path in files {
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(VALUE.len()).position(|part| part == VALUE) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("no segment holds the value");
}

async fn read_all(client: &Client) -> (usize, Vec<ConsumeError>) {
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.until_end().build().await.unwrap();
    let (mut count, mut errors) = (0, Vec::new());
    while let Some(received) = consumer.next().await {
        match received {
            Ok(received) => {
                assert_eq!(received.value, VALUE);
                count += 1;
            }
            Err(error) => errors.push(error),
        }
    }
    (count, errors)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partition_is_named_and_the_others_are_read() {
    let mut broker = Broker::start().await;
    let client = broker.client().await;
    let config = TopicConfig {
        partitions: 2,
        ..TopicConfig::default()
    };
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    for number in 0..2 * RECORDS {
        let message = Message::new(Bytes::from_static(VALUE)).partition((number % 2) as u32);
        producer.enqueue(message).await.unwrap();
    }
    producer.flush().await.unwrap();
    assert!(broker.stop().success());
    let path = damage_one_segment(&broker.data_dir());
    broker.restart().await;

    let (count, errors) = read_all(&broker.client().await).await;
    assert_eq!(count as u64, RECORDS, "{errors:?}");
    let [
        ConsumeError::Unreadable {
            partition, text, ..
        },
    ] = &errors[..]
    else {
        panic!("one partition cannot be read: {errors:?}");
    };
    assert!(*partition < 2);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(name) && text.contains("at byte"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_plugin_lets_nothing_pass_until_it_is_upgraded() {
    let mut broker = Broker::start().await;
    let client = broker.client().await;
    let admin = client.admin();
    let config = TopicConfig::default();
    admin.create_topic(TOPIC, config).await.unwrap();
    let component = flumen_guests::guest("starts-with");
    let deployed = admin.deploy_plugin("starts-with", None, component.clone());
    deployed.await.unwrap();
    let mut binding = BindingConfig::new(Name::new("starts-with").unwrap());
    binding.config = r#"{"text": "a"}"#.to_owned();
    admin.bind(TOPIC, binding).await.unwrap();
    assert!(broker.stop().success());

    let mut files = Vec::new();
    files_below(&broker.data_dir(), &mut files);
    let kinds = |path: &Path, kind: &str| path.extension().is_some_and(|found| found == kind);
    for path in files {
        if kinds(&path, "wasm") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[100] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        } else if kinds(&path, "cwasm") {
            std::fs::remove_file(path).unwrap();
        }
    }
    broker.restart().await;
    let client = broker.client().await;
    let producer = client.producer::<Bytes>(TOPIC);
    let producer = producer.delivery_timeout(Duration::from_secs(2));
    let producer = producer.build().await.unwrap();
    let kept = Bytes::from_static(VALUE);
    let error = producer.send(kept.clone()).await.unwrap_err();
    assert!(error.to_string().contains("starts-with"), "{error}");

    let admin = client.admin();
    let upgraded = admin.upgrade_plugin("starts-with", None, component);
    upgraded.await.unwrap();
    assert!(producer.send(kept).await.unwrap().offset.is_some());
    let dropped = producer.send(Bytes::from_static(b"b")).await.unwrap();
    assert_eq!(dropped.offset, None);
}
