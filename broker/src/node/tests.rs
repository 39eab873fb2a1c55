//! Two real brokers: what one tells of the other, and what it does once it was removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flumen_protocol::{
    ids::{BrokerId, Offset, PartitionId},
    join::JoinToken,
    message::{Reply, Request, Response, ShardOverview},
    topic::{TopicConfig, TopicName},
};
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    catalog::{CATALOG_SHARD, Topic},
    config::ShardCount,
    shard::raft::GroupView,
};

mod gaps;

/// Longer than anything here may take, on a busy machine.
const LONG: Duration = Duration::from_mins(1);

fn config(dir: &Path) -> BrokerConfig {
    BrokerConfig {
        data_dir: dir.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: None,
        shards: ShardCount::asked(2),
        ..BrokerConfig::default()
    }
}

async fn pair(one: &Path, two: &Path) -> (Broker, Broker) {
    let founder = Broker::bootstrap(config(one)).await.unwrap();
    let joined = join(&founder, two).await;
    (founder, joined)
}

async fn join(founder: &Broker, dir: &Path) -> Broker {
    let reply = founder.node().create_join_token(60_000).await;
    let Ok(Response::JoinToken(token)) = reply else {
        panic!("{reply:?}");
    };
    let token: JoinToken = token.0.parse().unwrap();
    Broker::join(config(dir), &token).await.unwrap()
}

/// Starts a broker on a directory that the last one may not have let go yet, nor its address: its tasks
/// end soon.
async fn start_again(dir: &Path) -> Result<Broker, StartError> {
    start_with(config(dir)).await
}

async fn start_with(config: BrokerConfig) -> Result<Broker, StartError> {
    let starting = async {
        loop {
            match Broker::start(config.clone()).await {
                Err(
                    StartError::Identity(IdentityError::InUse { .. }) | StartError::Listen { .. },
                ) => {
                    sleep(Duration::from_millis(20)).await;
                }
                outcome => return outcome,
            }
        }
    };
    timeout(LONG, starting)
        .await
        .expect("a start takes a while")
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(LONG, waiting).await.is_ok(), "still not: {what}");
}

fn metrics(broker: &Broker) -> String {
    let metrics = &broker.node().metrics;
    broker.node().refresh(metrics);
    metrics.encode()
}

fn brokers_in(profile: &Path) -> usize {
    let text = std::fs::read_to_string(profile).unwrap();
    let profile: flumen_protocol::profile::Profile = toml::from_str(&text).unwrap();
    profile.brokers.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_tells_of_its_cluster_and_is_not_ready_without_a_leader_of_the_catalog() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    eventually("each is connected to the other, and ready", || {
        [&founder, &joined].into_iter().all(|broker| {
            let text = metrics(broker);
            text.contains("flumen_cluster_brokers_connected 1\n")
                && text.contains("flumen_cluster_round_trip_seconds{broker=\"")
                && broker.node().not_ready().is_none()
        })
    })
    .await;
    let text = metrics(&founder);
    for name in [
        "shards_led",
        "damaged_shards",
        "term",
        "elections_total",
        "lag_entries",
        "lag_records",
        "lag_bytes",
        "snapshots_sent_total",
        "snapshots_received_total",
        "transfer_sent_bytes_total",
        "transfer_received_bytes_total",
    ] {
        assert!(
            text.contains(&format!("\nflumen_cluster_{name} ")),
            "{name}: {text}"
        );
    }
    eventually("both profiles name both brokers", || {
        brokers_in(founder.profile()) == 2 && brokers_in(joined.profile()) == 2
    })
    .await;
    // Of two brokers, one votes on the catalog: the founder.
    founder.stop().await;
    eventually("the other one says that nobody leads the catalog", || {
        let reason = joined.node().not_ready();
        reason.is_some_and(|reason| reason.contains("catalog"))
    })
    .await;
    joined.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_removed_stops_with_what_to_do_and_does_so_at_every_start() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    let broker: BrokerId = joined.node().status().id;
    let undo = false;
    let drain = Request::DrainBroker { broker, undo };
    founder.node().answer(drain, Bytes::new()).await.unwrap();
    let removed = timeout(LONG, async {
        while founder.node().remove_broker(broker).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    removed.await.unwrap();
    let assert_tells = |why: &str| {
        assert!(
            why.contains("was removed from the cluster for good"),
            "{why}"
        );
        assert!(why.contains("--join"), "{why}");
    };
    assert_tells(&timeout(LONG, joined.failed()).await.unwrap());
    joined.stop().await;

    match start_again(two.path()).await {
        Ok(again) => {
            assert_tells(&timeout(LONG, again.failed()).await.unwrap());
            again.stop().await;
        }
        Err(error) => assert_tells(&error.to_string()),
    }
    assert!(founder.node().not_ready().is_none());
    founder.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_away_hears_of_one_that_joined_meanwhile_and_leads_the_catalog() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let three = tempfile::tempdir().unwrap();
    let (founder, away) = pair(one.path(), two.path()).await;
    eventually("the founder leads alone", || {
        let view = founder.node().catalog.group().view();
        view.leads && view.voters.len() == 1 && !view.changing
    })
    .await;
    let again = BrokerConfig {
        listen: away.local_addr(),
        ..config(two.path())
    };
    away.stop().await;
    let newcomer = join(&founder, three.path()).await;
    let id = newcomer.node().status().id;
    let made_leader = timeout(LONG, async {
        while !newcomer.node().catalog.group().view().leads {
            let group = founder.node().catalog.group();
            let _ = group.set_voters(&[id].into(), true).await;
            sleep(Duration::from_millis(20)).await;
        }
    });
    made_leader.await.unwrap();
    let back = start_with(again).await.unwrap();
    eventually("the one that was away knows all three", || {
        back.node().brokers().len() == 3
    })
    .await;
    for broker in [back, newcomer, founder] {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_of_the_catalog_whom_nobody_reaches_at_its_address_stays_known_by_the_last_one() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    let (id, address) = (founder.node().status().id, founder.local_addr());
    let is_known = || joined.node().brokers().contains_key(&id);
    eventually("the founder is known", is_known).await;
    founder.stop().await;
    let misled = BrokerConfig {
        listen: address,
        advertise: Some("127.0.0.1:9".parse().unwrap()),
        ..config(one.path())
    };
    let founder = start_with(misled).await.unwrap();
    eventually("it is not ready, and says why", || {
        let reason = founder.node().not_ready().unwrap_or_default();
        reason.contains("127.0.0.1:9") && reason.contains("--advertise")
    })
    .await;
    for broker in [&founder, &joined] {
        assert_eq!(broker.node().brokers()[&id].address, address.to_string());
    }
    founder.stop().await;

    let founder = start_with(BrokerConfig {
        listen: address,
        ..config(one.path())
    });
    let founder = founder.await.unwrap();
    eventually("it is ready again", || founder.node().not_ready().is_none()).await;
    for broker in [joined, founder] {
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_nobody_reaches_takes_the_place_of_one_that_is_no_better() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    let id = founder.node().status().id;
    founder.stop().await;
    // The first time it has left the address by which the others know it; then they know this one.
    for _ in 0..2 {
        let misled = BrokerConfig {
            advertise: Some("127.0.0.1:9".parse().unwrap()),
            ..config(one.path())
        };
        let founder = start_with(misled).await.unwrap();
        eventually("it is told of, and ready all the same", || {
            let told = founder.node().shards.degraded().unwrap_or_default();
            told.contains("127.0.0.1:9") && founder.node().not_ready().is_none()
        })
        .await;
        assert_eq!(joined.node().brokers()[&id].address, "127.0.0.1:9");
        founder.stop().await;
    }
    joined.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_broker_that_is_left_is_registered_though_nobody_is_there_to_try_its_address() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    eventually("the founder leads alone", || {
        let view = founder.node().catalog.group().view();
        view.leads && view.voters.len() == 1 && !view.changing
    })
    .await;
    let id = founder.node().status().id;
    joined.stop().await;
    founder.stop().await;
    let moved = start_again(one.path()).await.unwrap();
    let address = moved.local_addr().to_string();
    eventually("it is known by its new address, and ready", || {
        moved.node().brokers()[&id].address == address && moved.node().not_ready().is_none()
    })
    .await;
    moved.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_not_called_drained_while_no_leader_says_that_its_replicas_are_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let founder = Broker::bootstrap(config(dir.path())).await.unwrap();
    let node = founder.node();
    let (drained, other) = (node.status().id, BrokerId(1));
    // Nothing is moved, and nobody tells who leads.
    node.steward.lock().take().unwrap().abort();
    let other_info = flumen_protocol::message::BrokerInfo {
        id: other,
        address: "127.0.0.1:1".to_owned(),
        zone: None,
    };
    node.catalog.register_broker(other_info).await.unwrap();
    node.catalog.drain_broker(drained, true).await.unwrap();
    let shards = node.catalog.snapshot().placement.clone().into_keys();
    let elsewhere = shards.map(|shard| (shard, vec![other])).collect();
    node.catalog.place(elsewhere).await.unwrap();
    let status = node.cluster_status();
    let overview = status.broker(drained).unwrap();
    assert_eq!(overview.replicas, 2, "{status:?}");
    assert!(!overview.is_drained());
    // A shard's replicas are told without a guess.
    let mut data = status
        .shards
        .iter()
        .filter(|shard| shard.id != CATALOG_SHARD);
    let is_told = |shard: &ShardOverview| shard.replicas.iter().all(|copy| copy.broker == other);
    assert!(data.all(is_told), "{status:?}");
    founder.stop().await;
}

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
        let prepared = beside.prepare(&name, batch).await.unwrap();
        drop(beside.send(prepared, Arc::new(())));
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
    eventually("the other one knows the topic, too", || {
        let state = joined.node().catalog.snapshot();
        state.topic(&topic("before")).is_ok()
    })
    .await;
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
async fn a_broker_that_has_stopped_leaves_nothing_running_and_its_address_free() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, joined) = pair(one.path(), two.path()).await;
    let address = founder.local_addr();
    let mut catalog = founder.node().catalog.watch();
    joined.stop().await;
    founder.stop().await;
    // Ends with the last one who holds on to the catalog.
    let ended = async { while catalog.changed().await.is_ok() {} };
    timeout(LONG, ended).await.expect("the catalog is let go");
    // The endpoint's own task ends a moment later.
    let free = async {
        while std::net::UdpSocket::bind(address).is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, free).await.expect("the address is let go");
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
async fn a_start_without_its_admin_address_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = BrokerConfig {
        admin: Some(taken.local_addr().unwrap()),
        ..config(dir.path())
    };
    let refused = Broker::start(config.clone()).await;
    assert!(matches!(refused, Err(StartError::Admin(_))), "{refused:?}");
    drop(taken);
    // At once: nobody has the data directory any more.
    let broker = Broker::start(config).await.unwrap();
    broker.stop().await;
}
