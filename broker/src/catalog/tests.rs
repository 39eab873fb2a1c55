//! The catalog as its users see it.

use bytes::Bytes;
use flumen_protocol::{
    plugin::{BindingConfig, World},
    topic::{Name, TopicConfig},
};
use std::sync::Arc;

use super::*;
use crate::{disk::SimulatedDisk, shards::tests::Broker};

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn plugin(version: &str, bytes: &[u8]) -> NewPlugin {
    NewPlugin {
        name: name("filter"),
        version: version.to_owned(),
        world: World::Filter,
        bytes: Bytes::copy_from_slice(bytes),
    }
}

#[tokio::test]
async fn the_catalog_survives_restarts_with_and_without_a_checkpoint() {
    let disk = Arc::new(SimulatedDisk::new());
    let mut expected: Option<CatalogState> = None;
    for round in 0..6 {
        let broker = Broker::start(&disk, 1).await;
        let catalog = broker.shards.catalog();
        if let Some(expected) = &expected {
            assert_eq!(*catalog.snapshot(), *expected);
        }
        let topic = name(&format!("topic-{round}"));
        catalog
            .create_topic(topic.clone(), TopicConfig::default())
            .await
            .unwrap();
        let new = plugin(&round.to_string(), &[round; 5000]);
        let deployed = if round == 0 {
            catalog.deploy_plugin(new).await.unwrap()
        } else {
            catalog.upgrade_plugin(new).await.unwrap()
        };
        let binding = BindingConfig::new(name("filter"));
        catalog.bind(topic, binding).await.unwrap();
        assert_eq!(
            catalog.plugin_bytes(&deployed.current).unwrap(),
            vec![round; 5000]
        );
        if let Some(previous) = &deployed.previous {
            assert_eq!(
                catalog.plugin_bytes(previous).unwrap(),
                vec![round - 1; 5000]
            );
        }
        expected = Some(CatalogState::clone(&catalog.snapshot()));
        if round % 2 == 0 {
            broker.stop().await;
        } else {
            broker.kill().await;
        }
    }
}

#[tokio::test]
async fn a_change_is_seen_by_who_watches() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start(&disk, 1).await;
    let catalog = broker.shards.catalog();
    assert!(catalog.snapshot().cluster_id.is_some());
    let mut watch = catalog.watch();
    watch.mark_unchanged();
    let config = TopicConfig::default();
    let topic = catalog
        .create_topic(name("events"), config.clone())
        .await
        .unwrap();
    watch.changed().await.unwrap();
    assert_eq!(watch.borrow().topic(&name("events")).unwrap().id, topic.id);
    let again = catalog.create_topic(name("events"), config).await;
    assert_eq!(again, Err(CatalogError::TopicExists(name("events"))));
    broker.stop().await;
}

#[tokio::test]
async fn files_of_plugins_that_nobody_needs_go_at_the_next_checkpoint() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start(&disk, 1).await;
    let catalog = broker.shards.catalog();
    let files = || {
        crate::disk::Disk::list(&*disk, "/shards/plugins".as_ref())
            .unwrap()
            .len()
    };
    let first = catalog.deploy_plugin(plugin("1", b"one")).await.unwrap();
    catalog.upgrade_plugin(plugin("2", b"two")).await.unwrap();
    broker.shards.checkpoint().await.unwrap();
    assert_eq!(files(), 2);
    assert_eq!(catalog.plugin_bytes(&first.current).unwrap(), "one");
    catalog.upgrade_plugin(plugin("3", b"three")).await.unwrap();
    broker.shards.checkpoint().await.unwrap();
    assert_eq!(files(), 2);
    catalog.plugin_bytes(&first.current).unwrap_err();
    catalog.remove_plugin(name("filter")).await.unwrap();
    broker.shards.checkpoint().await.unwrap();
    assert_eq!(files(), 0);
    broker.stop().await;
}
