//! What brokers know of each other: who is there, at which address, and who was removed.

use super::*;

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
    hand_catalog_over(&founder, &newcomer).await;
    let back = start_with(again).await.unwrap();
    eventually("the one that was away knows all three", || {
        back.node().brokers().len() == 3
    })
    .await;
    for broker in [back, newcomer, founder] {
        broker.stop().await;
    }
}

/// Has one broker of two take over the catalog, as its only voter, and waits until it has.
async fn hand_catalog_over(from: &Broker, to: &Broker) {
    let id = to.node().status().id;
    let made_leader = timeout(LONG, async {
        loop {
            let view = to.node().catalog.group().view();
            if view.leads && view.voters == [id].into() && !view.changing {
                return;
            }
            let leader = if view.leads { to } else { from };
            let group = leader.node().catalog.group();
            let _ = group.set_voters(&[id].into(), true).await;
            sleep(Duration::from_millis(20)).await;
        }
    });
    made_leader.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_away_while_all_others_were_replaced_finds_the_cluster_by_a_seed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let three = tempfile::tempdir().unwrap();
    let (founder, away) = pair(one.path(), two.path()).await;
    let gone = founder.node().status().id;
    eventually("the founder leads alone", || {
        let view = founder.node().catalog.group().view();
        view.leads && view.voters.len() == 1 && !view.changing
    })
    .await;
    away.stop().await;
    let newcomer = join(&founder, three.path()).await;
    hand_catalog_over(&founder, &newcomer).await;
    founder.stop().await;
    let removed = newcomer.node().catalog.remove_broker(gone);
    removed.await.unwrap();

    let back = BrokerConfig {
        seed_brokers: Some(newcomer.local_addr().to_string().parse().unwrap()),
        ..config(two.path())
    };
    let back = start_with(back).await.unwrap();
    let id = newcomer.node().status().id;
    eventually("the one that was away knows who is there now", || {
        let brokers = back.node().brokers();
        brokers.len() == 2 && brokers.contains_key(&id)
    })
    .await;
    for broker in [back, newcomer] {
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
        eventually("the other one knows it by that address", || {
            joined.node().brokers()[&id].address == "127.0.0.1:9"
        })
        .await;
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
    // Two shards, and the catalog.
    assert_eq!(overview.replicas, 3, "{status:?}");
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
