//! Consumers that are read from a broker which clients reach and the other brokers do not.

use flumen_client::{Consumer, Raw, SetbackWatch};
use tokio::time::timeout;

use crate::broker::{Broker, PATIENCE, cluster::Cluster, eventually};

async fn next_text(consumer: &mut Consumer<Raw>) -> Option<String> {
    let next = timeout(PATIENCE, consumer.next()).await;
    let message = next.expect("it goes on")?.unwrap();
    Some(String::from_utf8(message.value.to_vec()).unwrap())
}

fn append(cluster: &Cluster, values: &[&str]) {
    for value in values {
        cluster.brokers[0].append("t", 0, "", &[value.as_bytes()]);
    }
}

#[tokio::test]
async fn a_copy_that_is_cut_off_does_not_keep_a_consumer_from_the_end_that_others_know() {
    let cluster = Cluster::start(3).await;
    append(&cluster, &["0", "1", "2"]);
    cluster.set_behind(1, 2);
    cluster.isolate(1);
    // The one that is cut off is asked first, whatever is asked.
    let client = cluster.builder(&[1]).zone("1").connect().await.unwrap();
    let consumer = client.consumer::<Raw>("t").until_end().build();
    let mut consumer = consumer.await.unwrap();
    for expected in ["0", "1", "2"] {
        assert_eq!(next_text(&mut consumer).await.as_deref(), Some(expected));
    }
    assert_eq!(next_text(&mut consumer).await, None);
}

#[tokio::test]
async fn an_old_leader_that_is_cut_off_is_left_for_the_new_one() {
    for stops_at_end in [false, true] {
        let cluster = Cluster::start(3).await;
        append(&cluster, &["0", "1"]);
        cluster.isolate(0);
        cluster.elect(Some(2));
        cluster.set_behind(0, 1);
        let client = cluster.builder(&[0]).connect().await.unwrap();
        let mut builder = client.consumer::<Raw>("t");
        if stops_at_end {
            builder = builder.until_end();
        }
        let mut consumer = builder.build().await.unwrap();
        for expected in ["0", "1"] {
            assert_eq!(next_text(&mut consumer).await.as_deref(), Some(expected));
        }
        if stops_at_end {
            assert_eq!(next_text(&mut consumer).await, None);
        }
        eventually("the new leader is read", || {
            cluster.brokers[2].readers() > 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_broker_that_is_cut_off_while_it_is_read_is_left_for_one_that_goes_on() {
    for zone in [None, Some("1")] {
        let cluster = Cluster::start(3).await;
        append(&cluster, &["0"]);
        let mut builder = cluster.builder(&[0, 1]);
        if let Some(zone) = zone {
            builder = builder.zone(zone);
        }
        let client = builder.connect().await.unwrap();
        let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
        assert_eq!(next_text(&mut consumer).await.as_deref(), Some("0"));
        let read = usize::from(zone.is_some());
        assert_eq!(cluster.brokers[read].readers(), 1);
        cluster.isolate(read);
        cluster.elect(Some(2));
        cluster.set_behind(read, 1);
        append(&cluster, &["1"]);
        assert_eq!(next_text(&mut consumer).await.as_deref(), Some("1"));
        eventually("all is well", || consumer.setback().is_none()).await;
    }
}

#[tokio::test]
async fn a_broker_that_is_cut_off_while_nobody_leads_is_told_of_until_somebody_does() {
    let cluster = Cluster::start(3).await;
    append(&cluster, &["0"]);
    let client = cluster.client().await;
    let mut consumer = client.consumer::<Raw>("t").build().await.unwrap();
    assert_eq!(next_text(&mut consumer).await.as_deref(), Some("0"));
    cluster.elect(None);
    cluster.isolate(0);
    let address = cluster.address(0);
    eventually("it is told of", || {
        let setback = consumer.setback();
        setback.is_some_and(|setback| setback.reason.contains(&address))
    })
    .await;
    cluster.elect(Some(1));
    append(&cluster, &["1"]);
    assert_eq!(next_text(&mut consumer).await.as_deref(), Some("1"));
    eventually("the new leader is read", || {
        cluster.brokers[1].readers() > 0 && consumer.setback().is_none()
    })
    .await;
}

#[tokio::test]
async fn an_end_that_is_not_known_stays_told_while_records_come() {
    let cluster = Cluster::start(3).await;
    append(&cluster, &["0"]);
    cluster.elect(None);
    let client = cluster.client().await;
    let consumer = client.consumer::<Raw>("t").until_end().build();
    let mut consumer = consumer.await.unwrap();
    let setback = |consumer: &Consumer<Raw>| {
        let setback = consumer.setback();
        setback.filter(|setback| setback.reason.contains("ends is not known"))
    };
    eventually("the end is waited for", || setback(&consumer).is_some()).await;
    let since = setback(&consumer).unwrap().since;
    assert_eq!(next_text(&mut consumer).await.as_deref(), Some("0"));
    let asked = cluster.descriptions();
    eventually("several were asked for it once more", || {
        cluster.descriptions() >= asked + 8
    })
    .await;
    assert_eq!(setback(&consumer).map(|setback| setback.since), Some(since));
    cluster.elect(Some(0));
    eventually("it is known, and nothing is told any more", || {
        consumer.setback().is_none()
    })
    .await;
    assert_eq!(next_text(&mut consumer).await, None);
}

#[tokio::test]
async fn what_a_consumer_waits_for_is_told_before_it_has_started() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let client = broker.client().await;
    let builder = client.consumer::<Raw>("t");
    let watch = builder.setbacks();
    assert_eq!(watch.setback(), None);
    broker.go_mute(true);
    let building = tokio::spawn(builder.build());
    let reason = |watch: &SetbackWatch| watch.setback().map(|setback| setback.reason);
    eventually("nobody knows the topic", || {
        reason(&watch).is_some_and(|reason| reason.contains("no broker has said yet"))
    })
    .await;
    let since = watch.setback().unwrap().since;
    // The request for the topic is answered, and the stream, which comes after it, is not.
    broker.stall_readers(true);
    broker.go_mute(false);
    eventually("the broker does not say where it starts", || {
        reason(&watch).is_some_and(|reason| reason.contains("where partition 0 starts"))
    })
    .await;
    assert_eq!(watch.setback().unwrap().since, since);
    broker.stall_readers(false);
    let consumer = timeout(PATIENCE, building).await.expect("it starts");
    let consumer = consumer.unwrap().unwrap();
    assert_eq!(consumer.setback(), None);
    // Nor is anything told of one that nobody waits for any more.
    broker.go_mute(true);
    let builder = client.consumer::<Raw>("t");
    let watch = builder.setbacks();
    let building = tokio::spawn(builder.build());
    eventually("another one is built", || watch.setback().is_some()).await;
    building.abort();
    assert!(building.await.is_err());
    assert_eq!(watch.setback(), None);
}
