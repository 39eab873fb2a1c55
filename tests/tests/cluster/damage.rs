//! Files of a broker that are not what was written to them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flumen_client::StartAt;
use flumen_tests::{cluster::Cluster, load::Load, wait::until};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_gets_what_its_damaged_files_held_from_the_others_and_nobody_notices() {
    let mut cluster = Cluster::start(3).await;
    for index in 0..3 {
        let topic = format!("damaged-{index}");
        let load = Load::start(&cluster, &topic).await;
        assert!(cluster.brokers[index].stop().success());
        load.until_progress().await;
        let logs = cluster.brokers[index].data_dir().join("log");
        let segments = files(&logs.join((index + 1).to_string()), "segment");
        assert!(segments.len() >= 6, "{segments:?}");
        for (at, path) in segments.iter().enumerate() {
            damage(path, at);
        }
        cluster.brokers[index].restart().await;
        cluster.until_healthy().await;
        load.until_progress().await;
        // Whoever reads from the beginning comes by the damage, if the broker leads by then.
        read_all(&cluster, &topic).await;
        // Every copy is read, on its broker: what is damaged is found.
        load.finish(&cluster, 3).await.assert_no_send_failed();
        until("all is repaired", || async {
            files(&logs, "damaged").is_empty()
        })
        .await;
    }
}

/// Removes the file, cuts it, or flips a bit of it, in turn.
fn damage(path: &Path, way: usize) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    match way % 3 {
        0 => return fs::remove_file(path).unwrap(),
        1 => bytes.truncate(middle),
        _ => bytes[middle] ^= 1,
    }
    fs::write(path, bytes).unwrap();
}

async fn read_all(cluster: &Cluster, topic: &str) {
    let client = cluster.client().await;
    let consumer = client.consumer::<Bytes>(topic).from(StartAt::Beginning);
    let mut consumer = consumer.until_end().build().await.unwrap();
    while let Some(received) = consumer.next().await {
        received.unwrap();
    }
    client.close().await;
}

/// The files below a directory whose names end so, in order.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|kind| kind == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}
