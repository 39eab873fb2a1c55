//! Damaged files keep nobody from what is not damaged.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use bytes::Bytes;
use flumen_client::{Client, ConsumeError, Message, StartAt, TopicConfig};
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
