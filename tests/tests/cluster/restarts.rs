//! Brokers that are stopped and started in order, as in an upgrade.

use bytes::Bytes;
use flumen_client::{StartAt, TopicConfig};
use flumen_tests::{
    admin::{free_address, get},
    cluster::Cluster,
    load::Load,
    wait::until,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_send_fails_while_all_brokers_are_restarted_one_after_the_other() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "rolling").await;
    for index in 0..3 {
        assert!(cluster.brokers[index].stop().success());
        load.until_progress().await;
        cluster.brokers[index].restart().await;
        cluster.until_healthy().await;
    }
    load.finish(&cluster, 3).await.assert_no_send_failed();
    for broker in &cluster.brokers {
        let log = broker.log();
        let error = log.lines().find(|line| line.contains("ERROR"));
        assert_eq!(error, None, "an ordinary stop is no error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_move_all_at_once_find_each_other_by_their_seed_addresses() {
    const TOPIC: &str = "moved";
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    let config = TopicConfig::default();
    client.admin().create_topic(TOPIC, config).await.unwrap();
    let producer = client.producer::<Bytes>(TOPIC).build().await.unwrap();
    producer.send(Bytes::from_static(b"before")).await.unwrap();
    for broker in &mut cluster.brokers {
        broker.kill();
        broker.move_away();
    }
    let addresses: Vec<_> = cluster
        .brokers
        .iter()
        .map(|b| b.address().to_string())
        .collect();
    let seeds = format!("--seed-brokers={}", addresses.join(","));
    for broker in &mut cluster.brokers {
        broker.add_argument(&seeds);
        broker.spawn();
    }
    for broker in &mut cluster.brokers {
        broker.until_serving().await;
    }
    cluster.until_healthy().await;

    // The addresses are known from now on.
    for broker in &mut cluster.brokers {
        assert!(broker.stop().success());
        broker.set_arguments(&[]);
    }
    for broker in &mut cluster.brokers {
        broker.spawn();
    }
    for broker in &mut cluster.brokers {
        broker.until_serving().await;
    }
    cluster.until_healthy().await;
    let client = cluster.client().await;
    let consumer = client.consumer::<Bytes>(TOPIC).from(StartAt::Beginning);
    let mut consumer = consumer.build().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().value, "before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_moves_is_killed_and_starts_where_it_was_is_found_there() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "and-back").await;
    let id = cluster.id_of(2).await;
    let first = cluster.brokers[2].address();
    assert!(cluster.brokers[2].stop().success());
    cluster.brokers[2].move_away();
    let second = cluster.brokers[2].address().to_string();
    cluster.brokers[2].spawn();
    let client = cluster.brokers[0].client().await;
    let (client, second) = (&client, &second);
    until("the others know that it has moved", || async move {
        let status = client.admin().cluster_status().await.unwrap();
        status.broker(id).unwrap().address == *second
    })
    .await;
    // It has no checkpoint of what it has told the others.
    cluster.brokers[2].kill();
    cluster.brokers[2].move_to(first);
    cluster.brokers[2].restart().await;
    cluster.until_settled().await;
    load.until_progress().await;
    load.finish(&cluster, 3).await.assert_no_send_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_nobody_reaches_at_its_address_says_so_and_leads_nothing() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "unreachable").await;
    let id = cluster.id_of(2).await;
    let (first, admin) = (cluster.brokers[2].address(), free_address());
    assert!(cluster.brokers[2].stop().success());
    let nobody = free_address().to_string();
    let misled = [format!("--advertise={nobody}"), format!("--admin={admin}")];
    cluster.brokers[2].set_arguments(&[&misled[0], &misled[1]]);
    cluster.brokers[2].spawn();
    let client = &cluster.brokers[0].client().await;
    until(
        "the cluster says what is wrong, and it leads nothing",
        || {
            let nobody = &nobody;
            async move {
                let status = client.admin().cluster_status().await.unwrap();
                let says = format!("cannot be reached at its address {nobody}");
                let broker = status.broker(id).unwrap();
                // What was good for all so far stays.
                assert_eq!(broker.address, first.to_string());
                status
                    .problems()
                    .iter()
                    .any(|problem| problem.contains(&says))
                    && broker.leaders == 0
                    && status.shards.iter().all(|shard| shard.leader.is_some())
            }
        },
    )
    .await;
    let ready = get(admin, "/readyz");
    assert!(ready.starts_with("HTTP/1.0 503"), "{ready}");
    assert!(ready.contains("--advertise"), "{ready}");
    let log = cluster.brokers[2].log();
    let error = log.lines().find(|line| line.contains("ERROR")).unwrap();
    assert!(
        error.contains(&nobody) && error.contains("--advertise"),
        "{error}"
    );
    load.until_progress().await;

    assert!(cluster.brokers[2].stop().success());
    cluster.brokers[2].set_arguments(&[]);
    cluster.brokers[2].restart().await;
    cluster.until_settled().await;
    load.finish(&cluster, 3).await.assert_no_send_failed();
}
