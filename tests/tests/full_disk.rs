//! A file system that fills up under a broker, and has room again.
//!
//! The file system is a small tmpfs of its own, which needs the right to mount one: where that is
//! missing, the test says so and ends. The same is tested on a simulated disk everywhere.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use flumen_client::{Client, Producer, SendError, StartAt, TopicConfig};
use flumen_tests::{
    broker::{Broker, binary},
    skip::skipped,
    small_disk::SmallDisk,
    wait::DEADLINE,
};

const TOPIC: &str = "full";
const FILE_SYSTEM_BYTES: u64 = 64 << 20;
const BALLAST_BYTES: usize = 24 << 20;
const VALUE_BYTES: usize = 100_000;

async fn producer(client: &Client) -> Producer<Bytes> {
    let builder = client.producer::<Bytes>(TOPIC);
    let builder = builder.delivery_timeout(Duration::from_secs(10));
    builder.build().await.unwrap()
}

/// A broker on a small disk, with the topic.
async fn start(file_system: &SmallDisk) -> Broker {
    let args = [
        "--limits-batch-bytes-max=256KiB",
        "--wal-segment-bytes=1MiB",
        "--wal-bytes-max=8MiB",
        "--shards=1",
    ];
    let broker = Broker::start_in(&file_system.path().join("data"), &args).await;
    let admin = broker.client().await.admin();
    let config = TopicConfig::default();
    admin.create_topic(TOPIC, config).await.unwrap();
    broker
}

async fn send(producer: &Producer<Bytes>, number: u64) -> Result<(), SendError> {
    let mut value = vec![7; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_be_bytes());
    producer.send(Bytes::from(value)).await.map(drop)
}

async fn read_all(client: &Client) -> Vec<u64> {
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.until_end().build().await.unwrap();
    let mut numbers = Vec::new();
    while let Some(received) = consumer.next().await {
        let value = received.unwrap().value;
        assert_eq!(value.len(), VALUE_BYTES);
        numbers.push(u64::from_be_bytes(value[..8].try_into().unwrap()));
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_system_refuses_and_loses_nothing_and_recovers() {
    let Some(file_system) = SmallDisk::mount(FILE_SYSTEM_BYTES) else {
        let test = "a_full_file_system_refuses_and_loses_nothing_and_recovers";
        return skipped(test, "this needs the right to mount a tmpfs");
    };
    let ballast = file_system.fill(BALLAST_BYTES);
    let mut broker = start(&file_system).await;
    let client = broker.client().await;
    let sender = producer(&client).await;

    let mut acknowledged = Vec::new();
    let error = loop {
        let number = acknowledged.len() as u64;
        match send(&sender, number).await {
            Ok(()) => acknowledged.push(number),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 1_000, "the file system never fills up");
    };
    assert!(acknowledged.len() > 50, "{error}");
    assert!(
        !error.is_unknown(),
        "a refusal leaves nothing open: {error}"
    );
    let text = error.to_string();
    assert!(text.contains("space") || text.contains("room"), "{text}");

    // Reading goes on.
    assert_eq!(read_all(&client).await, acknowledged);

    std::fs::remove_file(ballast).unwrap();
    let started = std::time::Instant::now();
    let mut next = acknowledged.len() as u64;
    while let Err(error) = send(&sender, next).await {
        assert!(started.elapsed() < DEADLINE, "no recovery: {error}");
    }
    acknowledged.push(next);
    for _ in 0..20 {
        next += 1;
        send(&sender, next).await.unwrap();
        acknowledged.push(next);
    }
    assert_eq!(read_all(&client).await, acknowledged);

    broker.kill();
    broker.restart().await;
    assert_eq!(read_all(&broker.client().await).await, acknowledged);
    assert!(broker.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_that_waits_for_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let Some(file_system) = SmallDisk::mount(FILE_SYSTEM_BYTES) else {
        let test = "the_command_that_waits_for_a_full_disk_says_so_and_goes_on_when_there_is_room";
        return skipped(test, "this needs the right to mount a tmpfs");
    };
    let ballast = file_system.fill(BALLAST_BYTES);
    let broker = start(&file_system).await;
    let mut command = Command::new(binary())
        .args(["produce", TOPIC, "--profile"])
        .arg(broker.data_dir().join("client.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = command.stdin.take().unwrap();
    let line = [vec![b'x'; VALUE_BYTES], vec![b'\n']].concat();
    // More than fits while the ballast is there, and less than fits without it.
    let lines = (FILE_SYSTEM_BYTES as usize - BALLAST_BYTES) / VALUE_BYTES;
    let writing = std::thread::spawn(move || {
        for _ in 0..lines {
            stdin.write_all(&line).unwrap();
        }
    });
    let mut stderr = BufReader::new(command.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("trying again: ") {
        let read = stderr.read_line(&mut said).unwrap();
        assert!(read > 0, "it waited for nothing: {said}");
    }
    assert!(said.contains("space") || said.contains("room"), "{said}");
    std::fs::remove_file(ballast).unwrap();
    writing.join().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    let output = command.wait_with_output().unwrap();
    assert!(output.status.success(), "{said}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.starts_with(&format!("{lines} records")),
        "{printed}"
    );
}
