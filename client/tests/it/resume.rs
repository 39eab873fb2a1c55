//! Going on where another consumer stopped.

use std::time::Duration;

use flumen_client::{Client, ConsumeError, Consumer, ConsumerBuilder, Offset, Raw, StartAt};
use tokio::time::timeout;

use crate::broker::{Broker, PATIENCE};

/// A topic whose partition 0 has four records, and a client that soon notices others.
async fn topic() -> (Broker, Client) {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    broker.append("t", 0, "", &[b"0", b"1", b"2", b"3"]);
    let client = broker.builder().metadata_refresh(Duration::from_millis(20));
    let client = client.connect().await.unwrap();
    (broker, client)
}

async fn texts(consumer: &mut Consumer<Raw>, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        let message = timeout(PATIENCE, consumer.next()).await;
        let value = message.expect("a message comes").unwrap().unwrap().value;
        texts.push(String::from_utf8(value.to_vec()).unwrap());
    }
    texts.sort();
    texts
}

/// The positions of a consumer that has read two records.
async fn positions(builder: ConsumerBuilder<Raw>) -> Vec<(u32, Offset)> {
    let mut consumer = builder.build().await.unwrap();
    assert_eq!(texts(&mut consumer, 2).await, ["0", "1"]);
    consumer.positions()
}

#[tokio::test]
async fn a_consumer_that_resumes_reads_partitions_that_came_meanwhile_and_that_come_later() {
    let (broker, client) = topic().await;
    let kept = positions(client.consumer("t")).await;
    broker.grow_topic("t", 2);
    broker.append("t", 1, "", &[b"meanwhile"]);
    let resumed = client.consumer::<Raw>("t").resume(kept);
    let mut consumer = resumed.build().await.unwrap();
    assert_eq!(texts(&mut consumer, 3).await, ["2", "3", "meanwhile"]);
    broker.grow_topic("t", 3);
    broker.append("t", 2, "", &[b"later"]);
    assert_eq!(texts(&mut consumer, 1).await, ["later"]);
}

#[tokio::test]
async fn a_topic_that_was_made_anew_is_not_read_on_at_the_old_offset() {
    let (broker, client) = topic().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    assert_eq!(texts(&mut consumer, 4).await, ["0", "1", "2", "3"]);
    broker.stop();
    broker.delete_topic("t");
    broker.create_topic("t", 1);
    let new: [&[u8]; 6] = [b"a", b"b", b"c", b"d", b"e", b"f"];
    broker.append("t", 0, "", &new);
    broker.resume();
    let error = timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
    let error = error.unwrap_err();
    assert!(
        matches!(error, ConsumeError::TopicReplaced { .. }),
        "{error}"
    );
    assert!(error.is_fatal());
    assert!(consumer.next().await.is_none());
}

#[tokio::test]
async fn partitions_that_a_consumer_does_not_resume_start_where_it_says() {
    let (broker, client) = topic().await;
    let kept = positions(client.consumer("t")).await;
    broker.grow_topic("t", 2);
    broker.append("t", 1, "", &[b"before"]);
    let resumed = client.consumer::<Raw>("t").from(StartAt::End);
    let resumed = resumed.resume(kept).build();
    let mut consumer = resumed.await.unwrap();
    broker.append("t", 1, "", &[b"after"]);
    assert_eq!(texts(&mut consumer, 3).await, ["2", "3", "after"]);
}

#[tokio::test]
async fn with_named_partitions_a_consumer_resumes_these_alone() {
    let (broker, client) = topic().await;
    let kept = positions(client.consumer("t").partition(0, StartAt::Beginning)).await;
    broker.grow_topic("t", 2);
    broker.append("t", 1, "", &[b"no"]);
    let named = client
        .consumer::<Raw>("t")
        .partition(0, StartAt::Beginning)
        .resume(kept)
        .until_end();
    let mut consumer = named.build().await.unwrap();
    assert_eq!(texts(&mut consumer, 2).await, ["2", "3"]);
    assert!(consumer.next().await.is_none());
}
