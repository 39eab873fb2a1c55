//! What plugins cost: per record in batches of 1,000 records of 100 bytes, and per plugin.
//!
//! ```text
//! cargo bench -p flumen-broker --bench plugin
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flumen_broker::plugin::{Hook, PluginEngine};
use flumen_guests::guest;
use flumen_protocol::{
    batch::{Batch, BatchBuilder, Codec, RecordRef},
    plugin::BindingConfig,
    topic::Name,
};

const RECORDS: usize = 1_000;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn hook(engine: &PluginEngine, plugin: &str, config: &str) -> Hook {
    let loaded = engine.load_blocking(guest(plugin)).unwrap();
    let config = BindingConfig {
        config: config.to_owned(),
        ..BindingConfig::new(name(plugin))
    };
    let binding = engine
        .bind_blocking(&loaded, &name("bench"), config)
        .unwrap();
    Hook::new(name("bench"), vec![binding])
}

fn batch(records: usize, value: impl Fn(usize) -> String) -> Batch {
    let mut builder = BatchBuilder::new();
    for index in 0..records {
        let value = value(index);
        builder
            .push(&RecordRef::new(1_700_000_000_000, value.as_bytes()))
            .unwrap();
    }
    builder.build(Codec::None).unwrap()
}

fn text(index: usize, kept: bool) -> String {
    format!("{}{index:099}", if kept { 'k' } else { 'd' })
}

fn json(index: usize) -> String {
    let text = format!(
        r#"{{"id":"nc{index:08}","magnitude":{}.25,"place":""#,
        index % 10
    );
    format!("{text:x<98}\"}}")
}

fn per_record(criterion: &mut Criterion) {
    let engine = PluginEngine::without_cache().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let first_byte = r#"{"do": "first-byte"}"#;
    let compare = r#"{"field": "magnitude", "op": ">=", "value": 4.5}"#;
    let mut group = criterion.benchmark_group("plugin");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (title, plugin, config, batch) in [
        (
            "first byte, all kept",
            "misbehave",
            first_byte,
            batch(RECORDS, |index| text(index, true)),
        ),
        (
            "first byte, half kept",
            "misbehave",
            first_byte,
            batch(RECORDS, |index| text(index, index % 2 == 0)),
        ),
        (
            "json-filter, all kept",
            "json-filter",
            r#"{"field": "magnitude", "op": ">=", "value": 0}"#,
            batch(RECORDS, json),
        ),
        (
            "json-filter, half kept",
            "json-filter",
            compare,
            batch(RECORDS, json),
        ),
        (
            "transform, unchanged",
            "plain",
            "",
            batch(RECORDS, |index| text(index, true)),
        ),
        (
            "json-redact",
            "json-redact",
            r#"{"round": {"magnitude": 1}}"#,
            batch(RECORDS, json),
        ),
    ] {
        let hook = hook(&engine, plugin, config);
        group.bench_function(title, |bencher| {
            bencher
                .to_async(&runtime)
                .iter(|| async { black_box(hook.run(batch.clone()).await.unwrap()) });
        });
    }
    group.throughput(Throughput::Elements(1));
    let hook = hook(&engine, "misbehave", first_byte);
    let one = batch(1, |index| text(index, true));
    group.bench_function("first byte, one record", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(|| async { black_box(hook.run(one.clone()).await.unwrap()) });
    });
    group.finish();
}

fn per_plugin(criterion: &mut Criterion) {
    let component = guest("json-filter");
    let config = BindingConfig {
        config: r#"{"field": "a", "op": "==", "value": 1}"#.to_owned(),
        ..BindingConfig::new(name("json-filter"))
    };
    let mut group = criterion.benchmark_group("plugin life");
    group.sample_size(10);
    group.bench_function("compile", |bencher| {
        bencher.iter_batched(
            || PluginEngine::without_cache().unwrap(),
            |engine| engine.load_blocking(component.clone()).unwrap(),
            BatchSize::PerIteration,
        );
    });
    let dir = tempfile::tempdir().unwrap();
    PluginEngine::new(dir.path())
        .unwrap()
        .load_blocking(component.clone())
        .unwrap();
    group.bench_function("load compiled", |bencher| {
        bencher.iter_batched(
            || PluginEngine::new(dir.path()).unwrap(),
            |engine| engine.load_blocking(component.clone()).unwrap(),
            BatchSize::PerIteration,
        );
    });
    let engine = PluginEngine::without_cache().unwrap();
    let plugin = engine.load_blocking(component.clone()).unwrap();
    group.sample_size(100);
    group.bench_function("instantiate and init", |bencher| {
        bencher.iter(|| {
            engine
                .bind_blocking(&plugin, &name("bench"), config.clone())
                .unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, per_record, per_plugin);
criterion_main!(benches);
