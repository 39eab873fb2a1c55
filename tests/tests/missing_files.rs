//! Files that somebody has removed are named at the start; nothing is made anew in their place.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flumen_client::{Client, StartAt, TopicConfig};
use flumen_tests::{broker::Broker, wait::until};

const TOPIC: &str = "kept";
const RECORDS: usize = 100;

async fn send(client: &Client) {
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    for _ in 0..RECORDS {
        producer.enqueue(Bytes::from_static(b"x")).await.unwrap();
    }
    producer.flush().await.unwrap();
}

async fn count(client: &Client) -> usize {
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.until_end().build().await.unwrap();
    let mut count = 0;
    while let Some(received) = consumer.next().await {
        received.unwrap();
        count += 1;
    }
    count
}

async fn filled() -> Broker {
    let broker = Broker::start_with(&["--shards=1"]).await;
    let client = broker.client().await;
    let config = TopicConfig::default();
    client.admin().create_topic(TOPIC, config).await.unwrap();
    send(&client).await;
    broker
}

/// Starts the broker, which must refuse, and returns what it says.
fn refusal(broker: &mut Broker) -> String {
    let before = broker.log().len();
    broker.spawn();
    assert!(!broker.wait_for_exit().success());
    broker.log()[before..].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_ahead_log_that_is_gone_is_missed() {
    let mut broker = filled().await;
    broker.kill();
    let wal = broker.data_dir().join("wal");
    let elsewhere = broker.data_dir().with_file_name("wal.elsewhere");
    std::fs::rename(&wal, &elsewhere).unwrap();
    let said = refusal(&mut broker);
    assert!(
        said.contains("write-ahead log in") && said.contains("is gone"),
        "{said}"
    );

    // An empty directory, such as one where nothing is mounted, is as bad.
    std::fs::create_dir(&wal).unwrap();
    let said = refusal(&mut broker);
    assert!(said.contains("is gone"), "{said}");

    std::fs::remove_dir(&wal).unwrap();
    std::fs::rename(&elsewhere, &wal).unwrap();
    broker.restart().await;
    assert_eq!(count(&broker.client().await).await, RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_gone_is_missed() {
    let mut broker = filled().await;
    // A stop in order takes checkpoints, and forgets the entries before them.
    assert!(broker.stop().success());
    let shards = broker.data_dir().join("shards");
    for name in ["shard-1.checkpoint", "catalog.checkpoint"] {
        let path = shards.join(name);
        let elsewhere = shards.join(format!("{name}.elsewhere"));
        std::fs::rename(&path, &elsewhere).unwrap();
        let before = broker.log().len();
        if broker.try_restart().await {
            // Not yet forgotten: the log still holds every entry, and nothing is missing.
            assert_eq!(count(&broker.client().await).await, RECORDS);
            assert!(broker.stop().success());
        } else {
            let said = &broker.log()[before..];
            assert!(
                said.contains("checkpoint") && said.contains("missing"),
                "{said}"
            );
            std::fs::rename(&elsewhere, &path).unwrap();
        }
    }
    broker.restart().await;
    assert_eq!(count(&broker.client().await).await, RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_gone_is_missed_with_what_to_do() {
    let mut broker = filled().await;
    assert!(broker.stop().success());
    let topics = std::fs::read_dir(broker.data_dir().join("log")).unwrap();
    let files = topics.flat_map(|topic| std::fs::read_dir(topic.unwrap().path()).unwrap());
    let mut paths = files.map(|file| file.unwrap().path());
    let path = paths
        .find(|path| path.extension().is_some_and(|kind| kind == "segment"))
        .unwrap();
    let elsewhere = path.with_extension("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    let said = refusal(&mut broker);
    let name = path.to_str().unwrap();
    for part in [
        name,
        "is missing",
        "restore the file",
        "flumen cluster remove",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }

    std::fs::rename(&elsewhere, &path).unwrap();
    broker.restart().await;
    assert_eq!(count(&broker.client().await).await, RECORDS);
}

/// The files in a directory, by name.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_removed_under_a_running_broker_are_named_and_made_up_for() {
    let mut broker = filled().await;
    let client = broker.client().await;
    for dir in ["wal", "shards"] {
        let dir = broker.data_dir().join(dir);
        // A checkpoint is there once one was taken.
        assert!(broker.stop().success());
        broker.restart().await;
        send(&client).await;
        let before = files(&dir);
        let logged = broker.log().len();
        std::fs::remove_dir_all(&dir).unwrap();
        until(
            "the broker names the file and goes on without it",
            || async {
                let said = broker.log()[logged..].to_owned();
                let is_named = before.iter().any(|path| {
                    let path = path.to_str().unwrap();
                    said.lines()
                        .any(|line| line.contains(path) && line.contains("is gone"))
                });
                let healthy = client.admin().status().await.unwrap().degraded.is_none();
                let is_checkpoint =
                    |path: &&PathBuf| path.extension().is_some_and(|end| end == "checkpoint");
                let mut checkpoints = before.iter().filter(is_checkpoint);
                let are_back = checkpoints.all(|path| path.exists());
                is_named && healthy && are_back && !files(&dir).is_empty()
            },
        )
        .await;
        send(&client).await;
    }
    broker.kill();
    broker.restart().await;
    assert_eq!(count(&broker.client().await).await, 5 * RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_is_known_by_is_missed_and_never_made_anew() {
    let mut broker = filled().await;
    broker.kill();
    for name in ["broker.toml", "tls", "tls/ca.key", "tokens"] {
        let path = broker.data_dir().join(name);
        let elsewhere = broker.data_dir().with_file_name("elsewhere");
        std::fs::rename(&path, &elsewhere).unwrap();
        let said = refusal(&mut broker);
        assert!(
            said.contains(path.to_str().unwrap()) && said.contains("is missing"),
            "{name}: {said}"
        );
        assert!(!path.exists(), "{name} was made anew");
        std::fs::rename(&elsewhere, &path).unwrap();
    }
    broker.restart().await;
    assert_eq!(count(&broker.client().await).await, RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_is_known_by_is_named_when_it_is_damaged() {
    let mut broker = filled().await;
    broker.kill();
    for name in [
        "version",
        "broker.toml",
        "identity.made",
        "tokens",
        "tls/ca.pem",
        "tls/ca.key",
    ] {
        let path = broker.data_dir().join(name);
        let whole = std::fs::read(&path).unwrap();
        let no_text = [&[0xff, 0xfe], &whole[..]].concat();
        for damaged in [&[], &whole[whole.len() / 2..], &no_text] {
            std::fs::write(&path, damaged).unwrap();
            let said = refusal(&mut broker);
            assert!(
                said.contains(path.to_str().unwrap()) && said.contains("put"),
                "{name}: {said}"
            );
            assert!(!said.contains("panicked"), "{name}: {said}");
            assert_eq!(std::fs::read(&path).unwrap(), damaged, "{name}");
        }
        std::fs::write(&path, whole).unwrap();
    }
    broker.restart().await;
    assert_eq!(count(&broker.client().await).await, RECORDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_made_anew_is_made_anew_when_it_is_damaged() {
    let mut broker = filled().await;
    broker.kill();
    let damaged = ["client.toml", "tls/broker.pem", "tls/broker.key"];
    let paths = damaged.map(|name| broker.data_dir().join(name));
    let profile = std::fs::read_to_string(&paths[0]).unwrap();
    for path in &paths {
        let mut bytes = std::fs::read(path).unwrap();
        if path.ends_with("client.toml") {
            bytes.push(0xff);
        } else {
            bytes.truncate(bytes.len() / 2);
        }
        std::fs::write(path, bytes).unwrap();
    }
    broker.restart().await;
    assert_eq!(count(&broker.client().await).await, RECORDS);
    for path in &paths {
        let name = path.to_str().unwrap();
        assert!(broker.log().contains(name), "{name}: {}", broker.log());
    }
    // The same authority, and the same token.
    assert_eq!(std::fs::read_to_string(&paths[0]).unwrap(), profile);
}
