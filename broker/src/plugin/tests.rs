//! What plugins may rely on, and what the broker can rely on whatever a plugin does.
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use flumen_guests::guest;
use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, Headers, ProducerSequence, RecordRef, encode_headers},
    error::ErrorCode,
    ids::ProducerId,
    plugin::{BindingConfig, ErrorPolicy, World},
    topic::Name,
};
use tempfile::TempDir;

use super::*;
use crate::plugin::limits::{
    BACK_OFF_MIN, COUNTERS_PER_BINDING_MAX, FAILURES_IN_A_ROW_MAX, PLUGIN_BYTES_MAX,
    TABLE_ELEMENTS_MAX,
};

mod hostile;
mod policies;
mod refused;
mod trial;

/// One engine for all tests of a process, so that hostile plugins and good ones meet.
static ENGINE: LazyLock<(PluginEngine, TempDir)> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    (PluginEngine::new(dir.path()).unwrap(), dir)
});

fn engine() -> &'static PluginEngine {
    &ENGINE.0
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn settings(plugin: &str, config: &str) -> BindingConfig {
    BindingConfig {
        config: config.to_owned(),
        ..BindingConfig::new(name(plugin))
    }
}

fn bind_with(settings: BindingConfig) -> Result<Binding, BindError> {
    let plugin = engine()
        .load_blocking(guest(settings.plugin.as_str()))
        .unwrap();
    engine().bind_blocking(&plugin, &name("orders"), settings)
}

fn hook_with(bindings: impl IntoIterator<Item = BindingConfig>) -> Hook {
    let bindings = bindings
        .into_iter()
        .map(|config| bind_with(config).unwrap());
    Hook::new(name("orders"), bindings.collect())
}

fn batch_of(records: &[RecordRef<'_>], codec: Codec) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.set_content_type("text/plain").unwrap();
    for record in records {
        builder.push(record).unwrap();
    }
    let producer = ProducerSequence {
        producer_id: ProducerId(7),
        epoch: 1,
        sequence: 42,
    };
    builder.build_sequenced(codec, producer).unwrap()
}

fn batch(values: &[&str]) -> Batch {
    let records: Vec<_> = values
        .iter()
        .map(|value| RecordRef::new(1_000, value.as_bytes()))
        .collect();
    batch_of(&records, Codec::None)
}

fn values(batch: &Batch) -> Vec<String> {
    let columns = batch.columns().unwrap();
    let text = |value: Option<&[u8]>| {
        value.map_or_else(
            || "none".to_owned(),
            |value| String::from_utf8_lossy(value).into_owned(),
        )
    };
    columns.records().map(|record| text(record.value)).collect()
}

/// The values that go into the topic.
fn passed(outcome: &HookOutcome, original: &Batch) -> Vec<String> {
    match &outcome.batch {
        HookBatch::Unchanged => values(original),
        HookBatch::Changed(batch) => values(batch),
        HookBatch::Empty => Vec::new(),
    }
}

/// Another binding, of a good plugin, does its work; and soon.
fn assert_others_are_served() {
    static GOOD: LazyLock<Hook> =
        LazyLock::new(|| hook_with([settings("misbehave", r#"{"do": "first-byte"}"#)]));
    let batch = batch(&["keep", "drop", "keep too"]);
    let outcome = GOOD.run_blocking(batch.clone()).unwrap();
    assert_eq!(passed(&outcome, &batch), ["keep", "keep too"]);
    assert_eq!(outcome.dropped, 1);
}

#[test]
fn a_filter_keeps_what_its_bitmap_says() {
    let hook = hook_with([settings("misbehave", r#"{"do": "first-byte"}"#)]);
    let texts: Vec<_> = (0..1_000)
        .map(|index| format!("{}{index}", if index % 3 == 0 { 'k' } else { 'd' }))
        .collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let batch = batch(&texts);
    let outcome = hook.run_blocking(batch.clone()).unwrap();
    let expected: Vec<_> = texts
        .iter()
        .filter(|text| text.starts_with('k'))
        .copied()
        .collect();
    assert_eq!(passed(&outcome, &batch), expected);
    assert_eq!(outcome.dropped, 666);
}

#[test]
fn a_batch_of_which_all_is_kept_is_the_same_batch() {
    let hook = hook_with([settings("misbehave", r#"{"do": "nothing"}"#)]);
    for count in [1, 7, 8, 9, 100] {
        let batch = batch(&vec!["x"; count]);
        let outcome = hook.run_blocking(batch).unwrap();
        assert_eq!(outcome.batch, HookBatch::Unchanged, "{count}");
        assert_eq!(outcome.dropped, 0);
    }
}

#[test]
fn a_batch_of_which_nothing_is_kept_is_empty() {
    let hook = hook_with([settings("misbehave", r#"{"do": "first-byte"}"#)]);
    let outcome = hook.run_blocking(batch(&["a", "b"])).unwrap();
    assert_eq!(outcome.batch, HookBatch::Empty);
    assert_eq!(outcome.dropped, 2);
}

#[test]
fn a_batch_without_records_does_not_reach_a_plugin() {
    let hook = hook_with([settings("misbehave", r#"{"do": "panic"}"#)]);
    let outcome = hook
        .run_blocking(Batch::empty(ProducerSequence::default()))
        .unwrap();
    assert_eq!(outcome.batch, HookBatch::Unchanged);
    assert_eq!(hook.bindings()[0].report().calls, 0);
}

#[test]
fn what_a_filter_keeps_stays_as_it_was_in_every_column_and_codec() {
    let headers = encode_headers([("trace", &b"7f"[..]), ("trace", b"80")]);
    let hook = hook_with([settings("misbehave", r#"{"do": "first-byte"}"#)]);
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let text = "k".repeat(200);
        let records: Vec<_> = (0..50_usize)
            .map(|index| RecordRef {
                timestamp_ms: 5_000 + index as i64,
                key: (index % 4 == 0).then_some(b"key"),
                value: (index % 5 != 3).then_some(if index % 2 == 0 {
                    text.as_bytes()
                } else {
                    b"d"
                }),
                headers: Headers::from_encoded(if index % 6 == 0 { &headers } else { &[] }),
            })
            .collect();
        let batch = batch_of(&records, codec);
        let outcome = hook.run_blocking(batch.clone()).unwrap();
        let HookBatch::Changed(kept) = outcome.batch else {
            panic!("some are dropped");
        };
        let expected: Vec<_> = records
            .iter()
            .filter(|record| record.value.is_some_and(|value| value[0] == b'k'))
            .copied()
            .collect();
        let columns = kept.columns().unwrap();
        assert_eq!(columns.records().collect::<Vec<_>>(), expected);
        assert_eq!(columns.content_type(), "text/plain");
        assert_eq!(kept.header().codec, codec);
        assert_eq!(kept.header().producer, batch.header().producer);
        kept.check_crc().unwrap();
    }
}

#[test]
fn a_transform_changes_drops_multiplies_and_routes() {
    let hook = hook_with([settings("plain", "")]);
    let batch = batch(&[
        "say one",
        "drop",
        "twice two",
        "stay",
        "to elsewhere",
        "erase",
        "to nowhere",
        "to elsewhere",
    ]);
    let outcome = hook.run_blocking(batch.clone()).unwrap();
    assert_eq!(
        passed(&outcome, &batch),
        ["one", "two", "two", "stay", "none"]
    );
    let routed: Vec<_> = outcome
        .routed
        .iter()
        .map(|(topic, batch)| (topic.as_str(), values(batch)))
        .collect();
    assert_eq!(
        routed,
        [
            ("elsewhere", vec!["to elsewhere".to_owned(); 2]),
            ("nowhere", vec!["to nowhere".to_owned()]),
        ]
    );
    assert!(outcome.dead_letters.is_empty());
}

#[test]
fn a_transform_changes_every_part_of_a_record() {
    let hook = hook_with([settings("plain", "")]);
    let headers = encode_headers([("old", &b"1"[..])]);
    let mut records = [
        RecordRef::new(1_000, b"key k1"),
        RecordRef::new(1_000, b"mark m"),
        RecordRef::new(1_000, b"later"),
        RecordRef {
            value: None,
            key: Some(b"gone"),
            ..RecordRef::new(1_000, b"")
        },
    ];
    records[1].headers = Headers::from_encoded(&headers);
    let outcome = hook.run_blocking(batch_of(&records, Codec::Lz4)).unwrap();
    let HookBatch::Changed(changed) = outcome.batch else {
        panic!("it is changed");
    };
    let columns = changed.columns().unwrap();
    assert_eq!(columns.record(0).key, Some(&b"k1"[..]));
    assert_eq!(columns.record(1).headers.get("old"), Some(&b"1"[..]));
    assert_eq!(columns.record(1).headers.get("mark"), Some(&b"m"[..]));
    assert_eq!(columns.record(1).key, None);
    assert_eq!(columns.record(2).timestamp_ms, 2_000);
    assert_eq!(columns.record(3), records[3]);
}

#[test]
fn bindings_run_in_order_and_each_sees_what_the_one_before_left() {
    let filter = || settings("misbehave", r#"{"do": "first-byte"}"#);
    let transform = || settings("plain", "");
    let batch = batch_of(
        &[
            RecordRef::new(1, b"say keep"),
            RecordRef::new(1, b"k"),
            RecordRef::new(1, b"say drop"),
            RecordRef::new(1, b"twice k2"),
        ],
        Codec::None,
    );
    let outcome = hook_with([transform(), filter()])
        .run_blocking(batch.clone())
        .unwrap();
    assert_eq!(passed(&outcome, &batch), ["keep", "k", "k2", "k2"]);
    assert_eq!(outcome.dropped, 1);
    let outcome = hook_with([filter(), transform()])
        .run_blocking(batch.clone())
        .unwrap();
    assert_eq!(passed(&outcome, &batch), ["k"]);
    assert_eq!(outcome.dropped, 3);
}

#[test]
fn a_compressed_batch_stays_compressed_when_only_the_first_binding_changed_it() {
    let text = format!("k{}", "x".repeat(500));
    let records = [
        RecordRef::new(1, text.as_bytes()),
        RecordRef::new(1, b"drop"),
    ];
    let batch = batch_of(&records, Codec::Zstd);
    let outcome = hook_with([
        settings("misbehave", r#"{"do": "first-byte"}"#),
        settings("misbehave", r#"{"do": "nothing"}"#),
    ])
    .run_blocking(batch.clone())
    .unwrap();
    let HookBatch::Changed(changed) = outcome.batch else {
        panic!("it is changed");
    };
    assert_eq!(changed.header().codec, Codec::Zstd);
    assert_eq!(changed.header().producer, batch.header().producer);
    assert_eq!(values(&changed), [text]);
}

#[test]
fn a_batch_larger_than_a_plugins_memory_goes_through_in_pieces() {
    let text = format!("k{}", "x".repeat(700_000));
    let texts = vec![text.as_str(); 20];
    let batch = batch(&texts);
    let hook = hook_with([BindingConfig {
        memory_bytes_max: 8 * 1024 * 1024,
        timeout_ms: 10_000,
        ..settings("misbehave", r#"{"do": "first-byte"}"#)
    }]);
    let outcome = hook.run_blocking(batch).unwrap();
    assert_eq!(outcome.batch, HookBatch::Unchanged);
    assert_eq!(hook.bindings()[0].report().calls, 20);
}

#[test]
fn a_damaged_batch_is_refused_without_a_call() {
    let good = batch(&["one", "two"]);
    let mut bytes = good.to_bytes().to_vec();
    let last_end = bytes.len() - "text/plain".len() - 1;
    bytes[last_end] = 0xff;
    let damaged = Batch::decode_unchecked_crc(bytes.into()).unwrap();
    let hook = hook_with([settings("misbehave", r#"{"do": "nothing"}"#)]);
    let rejection = hook.run_blocking(damaged).unwrap_err();
    assert_eq!(rejection.code, ErrorCode::CorruptBatch);
    assert_eq!(hook.bindings()[0].report().calls, 0);
}

#[tokio::test]
async fn a_plugin_that_does_not_compile_in_time_is_refused_and_holds_up_few_others() {
    let engine = PluginEngine::without_cache().unwrap();
    let refused = async || {
        let examined = engine.examine_within(Duration::ZERO, guest("misbehave").into());
        examined.await.err().unwrap()
    };
    assert_eq!(refused().await, DeployError::TooSlow);
    assert_eq!(refused().await, DeployError::TooSlow);
    assert_eq!(refused().await, DeployError::Busy);
    // The compiler is done some time, and gives its place back.
    while engine.examine(guest("misbehave")).await.err() == Some(DeployError::Busy) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn calls_run_side_by_side_from_asynchronous_code() {
    let plugin = engine().load(guest("misbehave")).await.unwrap();
    let config = settings("misbehave", r#"{"do": "first-byte"}"#);
    let binding = engine()
        .bind(&plugin, &name("orders"), config)
        .await
        .unwrap();
    let hook = Hook::new(name("orders"), vec![binding]);
    let tasks: Vec<_> = (0..100)
        .map(|index| {
            let hook = hook.clone();
            tokio::spawn(async move {
                let text = format!("k{index}");
                let batch = batch(&[&text, "d"]);
                let outcome = hook.run(batch.clone()).await.unwrap();
                assert_eq!(passed(&outcome, &batch), [text]);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let report = hook.bindings()[0].report();
    assert_eq!(
        (report.calls, report.records, report.failures),
        (100, 200, 0)
    );
}

#[test]
fn compiled_code_is_kept_and_used_again_and_replaced_when_damaged() {
    let dir = TempDir::new().unwrap();
    let bytes = guest("misbehave");
    let files = || {
        std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    let load = || {
        PluginEngine::new(dir.path())
            .unwrap()
            .load_blocking(bytes.clone())
            .unwrap()
    };
    let digest = load().digest();
    let [file] = files().try_into().unwrap();
    assert!(
        file.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(&digest.to_string())
    );
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    load();
    assert_eq!(
        std::fs::metadata(&file).unwrap().modified().unwrap(),
        written
    );

    let good = std::fs::read(&file).unwrap();
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    for bad in [&damaged[..], &good[..good.len() / 3], b""] {
        std::fs::write(&file, bad).unwrap();
        load();
        assert_eq!(std::fs::read(&file).unwrap(), good);
    }
    let engine = PluginEngine::new(dir.path()).unwrap();
    engine.forget(digest);
    assert!(files().is_empty());
}

#[test]
fn bindings_of_one_plugin_share_its_code_and_not_its_memory() {
    let one = engine().load_blocking(guest("plain")).unwrap();
    let two = engine().load_blocking(guest("plain")).unwrap();
    assert_eq!(one.digest(), two.digest());
    assert_eq!(one.world(), World::Transform);
    assert!(std::sync::Arc::ptr_eq(&one.0, &two.0));
}

#[test]
fn a_plugin_that_is_loaded_many_times_at_once_is_there_once() {
    // An engine that knows nothing yet, so that all of them compile.
    let dir = TempDir::new().unwrap();
    let engine = PluginEngine::new(dir.path()).unwrap();
    let bytes = guest("plain");
    let plugins: Vec<_> = std::thread::scope(|scope| {
        let loads = [(); 8].map(|()| scope.spawn(|| engine.load_blocking(bytes.clone()).unwrap()));
        loads.map(|load| load.join().unwrap()).into()
    });
    for plugin in &plugins {
        assert!(std::sync::Arc::ptr_eq(&plugins[0].0, &plugin.0));
    }
}

#[test]
fn the_samples_do_what_they_say() {
    let strong = r#"{"field": "magnitude", "op": ">=", "value": 4.5}"#;
    let redact = r#"{"round": {"longitude": 1}, "remove": ["url"]}"#;
    let hook = hook_with([
        settings("json-filter", strong),
        settings("json-redact", redact),
    ]);
    let batch = batch(&[
        r#"{"magnitude":4.5,"longitude":-122.197,"url":"x"}"#,
        r#"{"magnitude":4.4,"longitude":1.25}"#,
    ]);
    let outcome = hook.run_blocking(batch.clone()).unwrap();
    assert_eq!(
        passed(&outcome, &batch),
        [r#"{"magnitude":4.5,"longitude":-122.2}"#]
    );
    assert_eq!(outcome.dropped, 1);
}
