//! Topics and partitions of which one broker asks another.

use super::*;
use crate::plugins::SideBatch;

/// Two brokers, each of which leads a shard that it alone has, and a topic with partitions in both.
async fn pair_with_topic(one: &Path, two: &Path, name: &TopicName) -> (Broker, Broker, Arc<Topic>) {
    let (founder, joined) = pair(one, two).await;
    eventually("each broker has one shard of its own", || {
        [&founder, &joined].into_iter().all(|broker| {
            let shards = &broker.node().shards;
            let own = shards.all_data();
            let leads = |shard: &crate::shard::DataShard| {
                let view = shard.group().view();
                view.leads && view.voters.iter().eq([&shards.broker()])
            };
            own.len() == 1 && own.iter().all(leads)
        })
    })
    .await;
    let request = Request::CreateTopic {
        name: name.clone(),
        config: TopicConfig {
            partitions: 4,
            ..TopicConfig::default()
        },
    };
    let created = founder.node().answer(request, Bytes::new()).await;
    assert!(created.is_ok(), "{created:?}");
    let topic = founder.node().topics.find(name).await.unwrap();
    eventually("each broker knows of both leaders", || {
        [&founder, &joined].into_iter().all(|broker| {
            let led = broker.node().topics.by_leader(&topic);
            led.len() == 2 && !led.contains_key(&None)
        })
    })
    .await;
    (founder, joined, topic)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_plugins_send_to_another_broker_gets_there_in_order_whether_anybody_waits_or_not() {
    const BATCHES: u64 = 100;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = topic("orders");
    let (founder, joined, topic) = pair_with_topic(one.path(), two.path(), &name).await;
    let led = joined.node().topics.by_leader(&topic);
    let index = led[&Some(joined.node().shards.broker())][0];
    let beside = founder.node().topics.beside(index);
    for number in 0..BATCHES {
        let batch = crate::shards::tests::batch(&[&number.to_le_bytes()]);
        let topic = name.clone();
        let prepared = beside.prepare(vec![SideBatch { topic, batch }]).await;
        for prepared in prepared.unwrap() {
            drop(beside.send(prepared, Arc::new(())));
        }
    }
    drop(beside);
    let partition = PartitionId {
        topic: topic.id,
        index,
    };
    let reader = joined.node().shards.data_of(partition).unwrap();
    let reader = reader.reader(partition).unwrap();
    eventually("all of it has arrived", || {
        reader.end_offset() == Offset(BATCHES)
    })
    .await;
    let expected = (0..BATCHES).map(|number| number.to_le_bytes().to_vec());
    assert!(
        crate::shards::tests::values(&reader)
            .into_iter()
            .eq(expected)
    );
    founder.stop().await;
    joined.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_broker_knows_where_partitions_end_whose_leader_can_be_asked() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = topic("orders");
    let (founder, joined, topic) = pair_with_topic(one.path(), two.path(), &name).await;
    let mut expected = BTreeMap::new();
    for index in 0..4 {
        let partition = PartitionId {
            topic: topic.id,
            index,
        };
        for _ in 0..=index {
            let record = crate::shards::tests::batch(&[b"order"]);
            let appended = founder
                .node()
                .shards
                .append_at_leader(partition, vec![record]);
            appended.await.unwrap();
        }
        expected.insert(index, Offset(u64::from(index) + 1));
    }
    let wanted: BTreeSet<_> = expected.keys().copied().chain([9]).collect();
    for broker in [&founder, &joined] {
        let ends = broker.node().ends(&name, wanted.clone()).await.unwrap();
        assert_eq!(ends, expected);
    }
    let led = joined.node().topics.by_leader(&topic);
    let elsewhere = &led[&Some(joined.node().shards.broker())];
    joined.stop().await;
    let ends = founder.node().ends(&name, wanted).await.unwrap();
    expected.retain(|index, _| !elsewhere.contains(index));
    assert_eq!(ends, expected);
    // Those whose leader is gone keep nobody from hearing of the others.
    let request = Request::DescribeTopic { name };
    let described = match founder.node().answer(request, Bytes::new()).await {
        Ok(Response::Topic(described)) => described,
        other => panic!("{other:?}"),
    };
    assert_eq!(described.partitions.len(), 4);
    for partition in described.partitions {
        let end = partition.extent.map(|extent| extent.end_offset);
        assert_eq!(end, expected.get(&partition.index).copied());
    }
    founder.stop().await;
}

fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

async fn create(broker: &Broker, name: &str) {
    // In the catalog alone: shards may move to the broker that has just come.
    let catalog = &broker.node().catalog;
    let made = catalog.create_topic(topic(name), TopicConfig::default());
    made.await.unwrap();
}

/// Waits until a broker has heard of a topic that another one has made.
async fn known(broker: &Broker, name: &str) {
    eventually("the other one knows the topic, too", || {
        let state = broker.node().catalog.snapshot();
        state.topic(&topic(name)).is_ok()
    })
    .await;
}

async fn ask(broker: &Broker, name: &str) -> Reply {
    let topics = vec![topic(name)];
    let request = Request::Metadata { topics };
    broker.node().answer(request, Bytes::new()).await
}

fn names(reply: Reply) -> Vec<String> {
    match reply {
        Ok(Response::Metadata(metadata)) => {
            let topics = metadata.topics.iter();
            topics.map(|topic| topic.name.to_string()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_starts_behind_and_alone_denies_nothing_and_takes_no_records() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    create(&founder, "before").await;
    known(&joined, "before").await;
    joined.stop().await;
    create(&founder, "meanwhile").await;
    founder.stop().await;

    // Of two brokers, one votes on the catalog: the founder.
    let joined = start_again(two.path()).await.unwrap();
    assert_eq!(names(ask(&joined, "before").await), ["before"]);
    let listed = joined.node().answer(Request::ListTopics, Bytes::new());
    let unsure = [
        (
            ask(&joined, "meanwhile").await.map(drop),
            ErrorCode::NoMajority,
        ),
        (listed.await.map(drop), ErrorCode::NoMajority),
        (
            joined.node().ready_for_records().await,
            ErrorCode::Unavailable,
        ),
    ];
    for (outcome, code) in unsure {
        let error = outcome.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.retryable, "{error}");
    }

    joined.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_cannot_be_made_with_their_topic_are_made_when_their_shards_are_back() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    let me = founder.node().shards.broker();
    let shards = &founder.node().shards;
    let moved = async {
        let elsewhere = |shard: &flumen_protocol::message::ShardMetadata| {
            shard.leader.is_some_and(|leader| leader != me)
        };
        while !shards.located().iter().any(elsewhere) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, moved).await.expect("a shard moves");
    joined.stop().await;
    let config = TopicConfig {
        partitions: 8,
        ..TopicConfig::default()
    };
    let name: TopicName = "orders".parse().unwrap();
    let topics = &founder.node().topics;
    let error = topics.create(name.clone(), config).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout, "{error:?}");
    assert!(
        error.text.contains("not all of its partitions"),
        "{error:?}"
    );

    let joined = start_again(two.path()).await.unwrap();
    let id = founder.node().catalog.snapshot().topic(&name).unwrap().id;
    let made = async {
        let partitions = (0..8).map(|index| PartitionId { topic: id, index });
        let exists = |partition: PartitionId| {
            let nodes = [founder.node(), joined.node()];
            nodes.iter().any(|node| {
                let replica = node.shards.data_of(partition);
                replica.is_some_and(|replica| replica.reader(partition).is_some())
            })
        };
        while !partitions.clone().all(exists) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, made).await.expect("the partitions are made");
    joined.stop().await;
    founder.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_a_leader_of_the_catalog_has_not_made_are_made_by_the_next_one() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (founder, joined) = pair(dirs[0].path(), dirs[1].path()).await;
    let third = join(&founder, dirs[2].path()).await;
    let shards: Vec<_> = [&founder, &joined, &third]
        .map(|broker| broker.node().shards.clone())
        .into();
    eventually("all three have a vote on everything", || {
        let groups = |shards: &Shards| {
            let data = shards.all_data();
            let views = data.iter().map(|shard| shard.group().view());
            views.chain([shards.catalog().group().view()]).collect()
        };
        shards.iter().map(groups).all(|views: Vec<_>| {
            let is_settled = |view: &GroupView| view.voters.len() == 3 && !view.changing;
            views.len() == 3 && views.iter().all(is_settled)
        })
    })
    .await;
    create(&founder, "orders").await;
    let leader = shards[0].leader_of(CATALOG_SHARD).unwrap();
    let (leading, others): (Vec<_>, Vec<_>) = [founder, joined, third]
        .into_iter()
        .partition(|broker| broker.node().shards.broker() == leader);
    for broker in leading {
        broker.stop().await;
    }
    eventually("the others have the partition", || {
        others.iter().all(|broker| {
            let node = broker.node();
            let state = node.catalog.snapshot();
            state.topic(&topic("orders")).is_ok_and(|topic| {
                let (topic, index) = (topic.id, 0);
                let partition = PartitionId { topic, index };
                let replica = node.shards.data_of(partition);
                replica.is_some_and(|replica| replica.reader(partition).is_some())
            })
        })
    })
    .await;
    for broker in others {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_starts_behind_tells_of_partitions_that_were_added_meanwhile() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    create(&founder, "grows").await;
    known(&joined, "grows").await;
    joined.stop().await;
    let changes = TopicChanges {
        partitions: Some(3),
        ..TopicChanges::default()
    };
    let catalog = &founder.node().catalog;
    catalog.alter_topic(topic("grows"), changes).await.unwrap();

    let joined = start_again(two.path()).await.unwrap();
    let reply = ask(&joined, "grows").await;
    let Ok(Response::Metadata(metadata)) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(metadata.topics[0].shards.len(), 3);
    joined.stop().await;
    founder.stop().await;
}
