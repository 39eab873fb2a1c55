//! What is made through one broker is there at all of them when the command returns.

use bytes::Bytes;
use flumen_client::{BindingConfig, Client, ErrorCode, Message, TopicConfig, TopicName};
use flumen_protocol::message::{Request, Response};
use flumen_tests::{cluster::Cluster, raw::RawClient};

const TOPIC: &str = "filtered";
const PLUGIN: &str = "starts-with";

/// So many that every broker leads some.
const PARTITIONS: u32 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_through_one_broker_is_known_at_the_others_at_once() {
    let cluster = Cluster::start(3).await;
    let brokers = connections(&cluster).await;
    for round in 0..4 * brokers.len() {
        let name: TopicName = format!("topic-{round}").parse().unwrap();
        let maker = &brokers[round % brokers.len()];
        let config = TopicConfig::default();
        let made = Request::CreateTopic {
            name: name.clone(),
            config,
        };
        assert_eq!(maker.request(made).await.unwrap(), Ok(Response::Done));
        for broker in &brokers {
            assert!(knows(broker, &name).await, "{name} is not known yet");
        }
        let removed = Request::DeleteTopic { name: name.clone() };
        let remover = &brokers[(round + 1) % brokers.len()];
        assert_eq!(remover.request(removed).await.unwrap(), Ok(Response::Done));
        for broker in &brokers {
            assert!(!knows(broker, &name).await, "{name} is still known");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_bound_through_one_broker_is_in_force_at_all_of_them_at_once() {
    let cluster = Cluster::start(3).await;
    let brokers = connections(&cluster).await;
    let client = cluster.client().await;
    let admin = client.admin();
    let config = TopicConfig {
        partitions: PARTITIONS,
        ..TopicConfig::default()
    };
    admin.create_topic(TOPIC, config).await.unwrap();
    let component = flumen_guests::guest(PLUGIN);
    admin.deploy_plugin(PLUGIN, None, component).await.unwrap();
    assert_eq!(kept(&client, "b").await, PARTITIONS);
    for round in 0..2 * brokers.len() {
        let topic: TopicName = TOPIC.parse().unwrap();
        let mut binding = BindingConfig::new(PLUGIN.parse().unwrap());
        binding.config = r#"{"text": "a"}"#.to_owned();
        // A busy machine is no failure of the plugin's.
        binding.timeout_ms = 10_000;
        let plugin = binding.plugin.clone();
        let bound = Request::Bind {
            topic: topic.clone(),
            binding,
        };
        let maker = &brokers[round % brokers.len()];
        assert_eq!(maker.request(bound).await.unwrap(), Ok(Response::Done));
        assert_eq!(kept(&client, "b").await, 0, "round {round}");
        assert_eq!(kept(&client, "a").await, PARTITIONS, "round {round}");

        let unbound = Request::Unbind { topic, plugin };
        let remover = &brokers[(round + 1) % brokers.len()];
        assert_eq!(remover.request(unbound).await.unwrap(), Ok(Response::Done));
        assert_eq!(kept(&client, "b").await, PARTITIONS, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_rolled_back_through_one_broker_is_what_it_was_at_all_of_them_at_once() {
    let cluster = Cluster::start(3).await;
    let brokers = connections(&cluster).await;
    let client = cluster.client().await;
    let admin = client.admin();
    let config = TopicConfig {
        partitions: PARTITIONS,
        ..TopicConfig::default()
    };
    admin.create_topic(TOPIC, config).await.unwrap();
    let component = flumen_guests::guest(PLUGIN);
    let deployed = admin.deploy_plugin(PLUGIN, Some("1"), component).await;
    let first = deployed.unwrap().info;
    let error = admin.roll_back_plugin(PLUGIN).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Conflict));
    assert!(error.to_string().contains("never upgraded"), "{error}");
    let mut binding = BindingConfig::new(PLUGIN.parse().unwrap());
    binding.config = r#"{"text": "a"}"#.to_owned();
    binding.timeout_ms = 10_000;
    admin.bind(TOPIC, binding.clone()).await.unwrap();
    // Keeps everything, whatever its configuration.
    let component = flumen_guests::guest("lying-filter");
    let upgraded = admin.upgrade_plugin(PLUGIN, Some("2"), component).await;
    let second = upgraded.unwrap().info;
    assert_eq!(kept(&client, "b").await, PARTITIONS);

    let rolled_back = Request::RollBackPlugin {
        name: binding.plugin.clone(),
    };
    for (round, broker) in brokers.iter().enumerate() {
        let reply = broker.request(rolled_back.clone()).await.unwrap();
        let Ok(Response::Plugin(plugin)) = reply else {
            panic!("{reply:?}");
        };
        let is_first = round % 2 == 0;
        let expected = if is_first { &first } else { &second };
        assert_eq!(plugin.info, *expected, "round {round}");
        assert_eq!(plugin.bindings[0].version, expected.version);
        let passing = if is_first { 0 } else { PARTITIONS };
        assert_eq!(kept(&client, "b").await, passing, "round {round}");
        assert_eq!(kept(&client, "a").await, PARTITIONS, "round {round}");
    }

    // With a configuration that the version before refuses, nothing changes.
    admin.roll_back_plugin(PLUGIN).await.unwrap();
    admin.unbind(TOPIC, PLUGIN).await.unwrap();
    binding.config = "anything".to_owned();
    admin.bind(TOPIC, binding).await.unwrap();
    let error = admin.roll_back_plugin(PLUGIN).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::InvalidPlugin), "{error}");
    let described = admin.describe_plugin(PLUGIN).await.unwrap();
    assert_eq!(described.info, second);
    assert_eq!(kept(&client, "b").await, PARTITIONS);
}

async fn connections(cluster: &Cluster) -> Vec<RawClient> {
    let mut connections = Vec::new();
    for broker in &cluster.brokers {
        let profile = broker.profile().unwrap();
        connections.push(RawClient::connect(&profile).await.unwrap());
    }
    connections
}

async fn knows(broker: &RawClient, topic: &TopicName) -> bool {
    let topics = vec![topic.clone()];
    match broker.request(Request::Metadata { topics }).await.unwrap() {
        Ok(Response::Metadata(metadata)) => !metadata.topics.is_empty(),
        other => panic!("{other:?}"),
    }
}

/// Sends a record to each partition, each to the broker that leads it: how many were kept.
async fn kept(client: &Client, value: &'static str) -> u32 {
    let producer = client.producer::<Bytes>(TOPIC).dedicated();
    let producer = producer.build().await.unwrap();
    let mut kept = 0;
    for partition in 0..PARTITIONS {
        let message = Message::new(Bytes::from_static(value.as_bytes()));
        let receipt = producer.send(message.partition(partition)).await.unwrap();
        kept += u32::from(receipt.offset.is_some());
    }
    kept
}
