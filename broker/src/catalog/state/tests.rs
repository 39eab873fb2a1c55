use super::*;
use flumen_protocol::{plugin::World, topic::Cleanup};

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn create(state: &mut CatalogState, topic: &str) -> Result<CatalogResponse, CatalogError> {
    create_with(state, topic, TopicConfig::default())
}

fn create_with(
    state: &mut CatalogState,
    topic: &str,
    config: TopicConfig,
) -> Result<CatalogResponse, CatalogError> {
    state.apply(CatalogCommand::CreateTopic {
        name: name(topic),
        config,
        time_ms: 1000,
    })
}

fn alter(
    state: &mut CatalogState,
    topic: &str,
    changes: TopicChanges,
) -> Result<CatalogResponse, CatalogError> {
    state.apply(CatalogCommand::AlterTopic {
        name: name(topic),
        changes,
    })
}

fn delete(state: &mut CatalogState, topic: &str) -> Result<CatalogResponse, CatalogError> {
    state.apply(CatalogCommand::DeleteTopic { name: name(topic) })
}

fn info(plugin: &str, version: u8) -> PluginInfo {
    PluginInfo {
        name: name(plugin),
        version: version.to_string(),
        world: World::Filter,
        digest: Digest([version; 32]),
        size_bytes: 1000,
        deployed_ms: 1000,
    }
}

fn deploy(state: &mut CatalogState, plugin: &str) -> Result<CatalogResponse, CatalogError> {
    state.apply(CatalogCommand::DeployPlugin {
        info: info(plugin, 1),
    })
}

fn upgrade(state: &mut CatalogState, info: PluginInfo) -> Result<CatalogResponse, CatalogError> {
    state.apply(CatalogCommand::UpgradePlugin { info })
}

fn bind(
    state: &mut CatalogState,
    topic: &str,
    binding: BindingConfig,
) -> Result<CatalogResponse, CatalogError> {
    state.apply(CatalogCommand::Bind {
        topic: name(topic),
        binding,
    })
}

fn unbind(
    state: &mut CatalogState,
    topic: &str,
    plugin: &str,
) -> Result<CatalogResponse, CatalogError> {
    state.apply(CatalogCommand::Unbind {
        topic: name(topic),
        plugin: name(plugin),
    })
}

fn binding(plugin: &str) -> BindingConfig {
    BindingConfig::new(name(plugin))
}

fn with_topic_and_plugin() -> CatalogState {
    let mut state = CatalogState::default();
    create(&mut state, "events").unwrap();
    deploy(&mut state, "filter").unwrap();
    state
}

/// Asserts that the command is refused like this, and that nothing has changed.
fn assert_refused(
    state: &mut CatalogState,
    command: impl FnOnce(&mut CatalogState) -> Result<CatalogResponse, CatalogError>,
    expected: &CatalogError,
) {
    let before = state.clone();
    assert_eq!(command(state).as_ref(), Err(expected));
    assert_eq!(*state, before);
}

#[test]
fn a_cluster_is_made_once() {
    let mut state = CatalogState::default();
    for id in [1, 2] {
        let command = CatalogCommand::FoundCluster {
            cluster_id: ClusterId(id.into()),
            founder: BrokerId(id),
            shard_count: 2,
        };
        state.apply(command).unwrap();
    }
    assert_eq!(state.cluster_id, Some(ClusterId(1)));
    assert_eq!(state.shards_of(BrokerId(1)).count(), 2);
    assert_eq!(state.shards_of(BrokerId(2)).count(), 0);
}

#[test]
fn a_topic_made_again_under_the_same_name_is_another_topic() {
    let mut state = CatalogState::default();
    create(&mut state, "events").unwrap();
    let first = state.topic(&name("events")).unwrap().id;
    assert_refused(
        &mut state,
        |state| create(state, "events"),
        &CatalogError::TopicExists(name("events")),
    );
    delete(&mut state, "events").unwrap();
    assert_refused(
        &mut state,
        |state| delete(state, "events"),
        &CatalogError::UnknownTopic(name("events")),
    );
    create(&mut state, "events").unwrap();
    assert_ne!(state.topic(&name("events")).unwrap().id, first);
}

#[test]
fn settings_out_of_range_are_refused() {
    let mut state = CatalogState::default();
    let config = TopicConfig {
        partitions: 0,
        ..TopicConfig::default()
    };
    let refused = create_with(&mut state, "events", config);
    assert!(matches!(refused, Err(CatalogError::InvalidConfig { .. })));
    assert_eq!(state, CatalogState::default());
}

#[test]
fn a_topic_gains_partitions_and_never_loses_any() {
    let mut state = CatalogState::default();
    create(&mut state, "events").unwrap();
    let partitions = |count| TopicChanges {
        partitions: Some(count),
        cleanup: Some(Cleanup::Compact),
        ..TopicChanges::default()
    };
    alter(&mut state, "events", partitions(4)).unwrap();
    let config = &state.topic(&name("events")).unwrap().config;
    assert_eq!((config.partitions, config.cleanup), (4, Cleanup::Compact));
    let refused = alter(&mut state, "events", partitions(3));
    assert!(matches!(refused, Err(CatalogError::InvalidConfig { .. })));
    assert_refused(
        &mut state,
        |state| alter(state, "others", partitions(4)),
        &CatalogError::UnknownTopic(name("others")),
    );
}

#[test]
fn the_partitions_of_all_topics_are_limited() {
    let mut state = CatalogState::default();
    let config = TopicConfig {
        partitions: 100_000,
        ..TopicConfig::default()
    };
    for topic in 0..10 {
        create_with(&mut state, &format!("t{topic}"), config.clone()).unwrap();
    }
    assert_refused(
        &mut state,
        |state| create(state, "one-more"),
        &CatalogError::TooManyPartitions(PARTITIONS_MAX + 1),
    );
}

#[test]
fn a_plugin_goes_back_to_the_version_before() {
    let mut state = with_topic_and_plugin();
    let roll_back = |state: &mut CatalogState| {
        state.apply(CatalogCommand::RollBackPlugin {
            name: name("filter"),
        })
    };
    assert_refused(
        &mut state,
        roll_back,
        &CatalogError::NoPreviousVersion(name("filter")),
    );
    upgrade(&mut state, info("filter", 2)).unwrap();
    let current = |state: &CatalogState| state.plugins[&name("filter")].current.version.clone();
    assert_eq!(current(&state), "2");
    assert_eq!(state.digests().count(), 2);
    roll_back(&mut state).unwrap();
    assert_eq!(current(&state), "1");
    roll_back(&mut state).unwrap();
    assert_eq!(current(&state), "2");
    assert_refused(
        &mut state,
        |state| upgrade(state, info("other", 2)),
        &CatalogError::UnknownPlugin(name("other")),
    );
    assert_refused(
        &mut state,
        |state| deploy(state, "filter"),
        &CatalogError::PluginExists(name("filter")),
    );
}

#[test]
fn a_plugin_in_use_can_neither_go_nor_become_something_else() {
    let mut state = with_topic_and_plugin();
    bind(&mut state, "events", binding("filter")).unwrap();
    let remove = |state: &mut CatalogState| {
        state.apply(CatalogCommand::RemovePlugin {
            name: name("filter"),
        })
    };
    assert_refused(
        &mut state,
        remove,
        &CatalogError::PluginInUse {
            plugin: name("filter"),
            topic: name("events"),
        },
    );
    let transform = PluginInfo {
        world: World::Transform,
        ..info("filter", 2)
    };
    assert_refused(
        &mut state,
        |state| upgrade(state, transform.clone()),
        &CatalogError::WorldChanged {
            plugin: name("filter"),
            was: World::Filter,
            now: World::Transform,
            topic: name("events"),
        },
    );
    unbind(&mut state, "events", "filter").unwrap();
    upgrade(&mut state, transform.clone()).unwrap();
    remove(&mut state).unwrap();
    assert!(state.plugins.is_empty());
}

#[test]
fn a_plugin_too_large_is_refused() {
    let mut state = CatalogState::default();
    let size_bytes = PLUGIN_BYTES_MAX as u64 + 1;
    let info = PluginInfo {
        size_bytes,
        ..info("filter", 1)
    };
    assert_refused(
        &mut state,
        |state| state.apply(CatalogCommand::DeployPlugin { info }),
        &CatalogError::PluginTooLarge(size_bytes),
    );
}

#[test]
fn bindings_keep_their_order() {
    let mut state = with_topic_and_plugin();
    for plugin in ["a", "b", "c"] {
        deploy(&mut state, plugin).unwrap();
        bind(&mut state, "events", binding(plugin)).unwrap();
    }
    unbind(&mut state, "events", "b").unwrap();
    bind(&mut state, "events", binding("b")).unwrap();
    let topic = state.topic(&name("events")).unwrap();
    let plugins: Vec<_> = topic.bindings.iter().map(|b| b.plugin.as_str()).collect();
    assert_eq!(plugins, ["a", "c", "b"]);
    let plugin = name("b");
    let bound: Vec<_> = state
        .bindings_of(&plugin)
        .map(|(topic, _)| topic.id)
        .collect();
    assert_eq!(bound, [topic.id]);
}

#[test]
fn a_binding_names_what_exists_and_only_once() {
    let mut state = with_topic_and_plugin();
    assert_refused(
        &mut state,
        |state| bind(state, "others", binding("filter")),
        &CatalogError::UnknownTopic(name("others")),
    );
    assert_refused(
        &mut state,
        |state| bind(state, "events", binding("other")),
        &CatalogError::UnknownPlugin(name("other")),
    );
    assert_refused(
        &mut state,
        |state| unbind(state, "events", "filter"),
        &CatalogError::UnknownBinding {
            topic: name("events"),
            plugin: name("filter"),
        },
    );
    bind(&mut state, "events", binding("filter")).unwrap();
    assert_refused(
        &mut state,
        |state| bind(state, "events", binding("filter")),
        &CatalogError::BindingExists {
            topic: name("events"),
            plugin: name("filter"),
        },
    );
}

#[test]
fn bindings_of_a_topic_are_limited() {
    let mut state = with_topic_and_plugin();
    for at in 0..BINDINGS_PER_TOPIC_MAX {
        let plugin = format!("p{at}");
        deploy(&mut state, &plugin).unwrap();
        bind(&mut state, "events", binding(&plugin)).unwrap();
    }
    assert_refused(
        &mut state,
        |state| bind(state, "events", binding("filter")),
        &CatalogError::TooManyBindings(name("events")),
    );
}

#[test]
fn a_bindings_settings_are_checked() {
    let mut state = with_topic_and_plugin();
    let invalid = [
        BindingConfig {
            config: "x".repeat(BINDING_CONFIG_BYTES_MAX + 1),
            ..binding("filter")
        },
        BindingConfig {
            timeout_ms: 0,
            ..binding("filter")
        },
        BindingConfig {
            memory_bytes_max: 0,
            ..binding("filter")
        },
        BindingConfig {
            on_error: ErrorPolicy::DeadLetter(name("events")),
            ..binding("filter")
        },
    ];
    let before = state.clone();
    for binding in invalid {
        let refused = bind(&mut state, "events", binding);
        assert!(matches!(refused, Err(CatalogError::InvalidBinding { .. })));
    }
    assert_eq!(state, before);
}

#[test]
fn dead_letters_go_to_a_topic_that_exists_and_stays() {
    let mut state = with_topic_and_plugin();
    let with_dead_letters = BindingConfig {
        on_error: ErrorPolicy::DeadLetter(name("dead")),
        ..binding("filter")
    };
    assert_refused(
        &mut state,
        |state| bind(state, "events", with_dead_letters.clone()),
        &CatalogError::UnknownTopic(name("dead")),
    );
    create(&mut state, "dead").unwrap();
    bind(&mut state, "events", with_dead_letters.clone()).unwrap();
    assert_refused(
        &mut state,
        |state| delete(state, "dead"),
        &CatalogError::TopicInUse {
            topic: name("dead"),
            bound_to: name("events"),
            plugin: name("filter"),
        },
    );
    delete(&mut state, "events").unwrap();
    delete(&mut state, "dead").unwrap();
}

#[test]
fn the_version_rises_with_every_change_and_only_then() {
    let mut state = with_topic_and_plugin();
    let before = state.version;
    create(&mut state, "events").unwrap_err();
    assert_eq!(state.version, before);
    create(&mut state, "others").unwrap();
    assert_eq!(state.version, before + 1);
}

fn create_join_token(state: &mut CatalogState, id: u64, time_ms: u64) -> Result<(), CatalogError> {
    let token = KnownJoinToken {
        secret_digest: [1; 32],
        expires_ms: time_ms + 100,
    };
    let command = CatalogCommand::CreateJoinToken { id, token, time_ms };
    state.apply(command).map(|_| ())
}

#[test]
fn expired_join_tokens_make_room_for_new_ones() {
    let mut state = CatalogState::default();
    for id in 0..JOIN_TOKENS_MAX as u64 {
        create_join_token(&mut state, id, 1000).unwrap();
    }
    let refused = create_join_token(&mut state, 1000, 1099);
    assert_eq!(refused, Err(CatalogError::TooManyJoinTokens));
    create_join_token(&mut state, 1000, 1100).unwrap();
    assert_eq!(state.join_tokens.keys().collect::<Vec<_>>(), [&1000]);
}

#[test]
fn a_removed_broker_never_comes_back() {
    let mut state = CatalogState::default();
    let broker = BrokerInfo {
        id: BrokerId(3),
        address: "b3:4650".to_owned(),
        zone: None,
    };
    let register = CatalogCommand::RegisterBroker { broker };
    state.apply(register.clone()).unwrap();
    let remove = CatalogCommand::RemoveBroker {
        broker: BrokerId(3),
    };
    state.apply(remove).unwrap();
    assert!(state.brokers.is_empty());
    let refused = CatalogError::BrokerRemoved(BrokerId(3));
    assert_refused(&mut state, |state| state.apply(register), &refused);
}

#[test]
fn three_brokers_set_the_replicas_for_good_and_two_are_no_reason_to() {
    let mut state = CatalogState::default();
    let wanted = |state: &CatalogState| (state.replication_goal(), state.replicas_wanted());
    let register = |state: &mut CatalogState, id| {
        let broker = BrokerInfo {
            id: BrokerId(id),
            address: format!("broker-{id}:4650"),
            zone: None,
        };
        state
            .apply(CatalogCommand::RegisterBroker { broker })
            .unwrap();
    };
    register(&mut state, 1);
    register(&mut state, 2);
    assert_eq!(wanted(&state), (1, 1));
    register(&mut state, 3);
    assert_eq!(wanted(&state), (3, 3));
    let broker = BrokerId(3);
    let drain = CatalogCommand::DrainBroker {
        broker,
        drain: true,
    };
    state.apply(drain).unwrap();
    assert_eq!(wanted(&state), (3, 2), "no copy more is given up than must");
    state
        .apply(CatalogCommand::RemoveBroker { broker })
        .unwrap();
    assert_eq!(wanted(&state), (3, 2));
    state
        .apply(CatalogCommand::SetReplicationFactor { factor: 1 })
        .unwrap();
    register(&mut state, 4);
    assert_eq!(wanted(&state), (1, 1), "what was said counts");
}
