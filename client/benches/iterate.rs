//! What a record costs once it has arrived: messages, and records in place.
//!
//! `cargo bench -p flumen-client --bench iterate`

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flumen_client::{Client, Codec, Raw};
use flumen_protocol::batch::{BatchBuilder, RecordRef};
use serde::{Serialize, de::DeserializeOwned};

#[path = "../tests/it"]
#[allow(dead_code, clippy::unwrap_used)]
mod it {
    pub(crate) mod broker;
}
use it::broker;

const BATCHES: u64 = 50;
const RECORDS_PER_BATCH: u64 = 10_000;

fn fill(broker: &broker::Broker, topic: &str, content_type: &str, value: &[u8]) {
    broker.create_topic(topic, 1);
    for _ in 0..BATCHES {
        let mut builder = BatchBuilder::new();
        builder
            .set_content_type(content_type)
            .expect("the content type is short");
        for _ in 0..RECORDS_PER_BATCH {
            builder
                .push(&RecordRef::new(1, value))
                .expect("the batch has room");
        }
        let batch = builder.build(Codec::None).expect("the batch is whole");
        broker.append_batch(topic, 0, batch);
    }
}

fn iterate(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let (client, broker) = runtime.block_on(async {
        let broker = broker::Broker::start();
        (broker.client().await, broker)
    });
    fill(&broker, "raw", "", &[b'x'; 100]);
    let order = (7_u64, "x".repeat(90));
    let bytes = postcard::to_stdvec(&order).expect("it serializes");
    fill(&broker, "typed", "postcard; type=(u64, String)", &bytes);
    let mut group = criterion.benchmark_group("iterate");
    group
        .throughput(Throughput::Elements(BATCHES * RECORDS_PER_BATCH))
        .measurement_time(Duration::from_secs(4))
        .sample_size(10);
    group.bench_function("messages, raw 100 B", |bencher| {
        bencher.iter(|| runtime.block_on(messages::<Raw>(&client, "raw")));
    });
    group.bench_function("messages, postcard", |bencher| {
        bencher.iter(|| runtime.block_on(messages::<(u64, String)>(&client, "typed")));
    });
    group.bench_function("records in place, raw 100 B", |bencher| {
        bencher.iter(|| runtime.block_on(in_place(&client)));
    });
    group.finish();
    drop(broker);
}

async fn messages<T: Serialize + DeserializeOwned + 'static>(client: &Client, topic: &str) {
    let consumer = client.consumer::<T>(topic).until_end().build().await;
    let mut consumer = consumer.expect("the topic is there");
    let mut count = 0;
    while let Some(message) = consumer.next().await {
        black_box(message.expect("all can be read"));
        count += 1;
    }
    assert_eq!(count, BATCHES * RECORDS_PER_BATCH);
}

async fn in_place(client: &Client) {
    let consumer = client.consumer::<Raw>("raw").until_end().build().await;
    let mut consumer = consumer.expect("the topic is there");
    let mut count = 0;
    while let Some(batch) = consumer.next_batch().await {
        for (_, record) in batch.expect("all can be read").records() {
            black_box(record.value);
            count += 1;
        }
    }
    assert_eq!(count, BATCHES * RECORDS_PER_BATCH);
}

criterion_group!(benches, iterate);
criterion_main!(benches);
