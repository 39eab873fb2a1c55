//! What a record costs before it leaves: `enqueue`, and the batch that it becomes part of.
//!
//! `cargo bench -p flumen-client --bench enqueue`

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flumen_client::{Client, Message, Raw};
use serde::{Deserialize, Serialize};

#[path = "../tests/it"]
#[allow(dead_code, clippy::unwrap_used)]
mod it {
    pub(crate) mod broker;
}
use it::broker;

const RECORDS: u64 = 100_000;

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    item: String,
}

/// Sends to a scripted broker that keeps nothing but counts.
fn enqueue(criterion: &mut Criterion) {
    let runtime = Arc::new(tokio::runtime::Runtime::new().expect("a runtime starts"));
    let (client, broker) = runtime.block_on(async {
        let broker = broker::Broker::start();
        broker.create_topic("bench", 1);
        broker.keep_nothing();
        (broker.client().await, broker)
    });
    let mut group = criterion.benchmark_group("enqueue");
    group
        .throughput(Throughput::Elements(RECORDS))
        .measurement_time(Duration::from_secs(3))
        .sample_size(10);
    let value = Raw::from(vec![b'x'; 100]);
    bench(&mut group, &runtime, &client, "raw 100 B", move |_| {
        Message::new(value.clone())
    });
    let key = Raw::from_static(b"customer-7");
    let value = Raw::from(vec![b'x'; 100]);
    bench(
        &mut group,
        &runtime,
        &client,
        "raw 100 B with a key",
        move |_| Message::new(value.clone()).key_bytes(key.clone()),
    );
    let order = Order {
        id: 1,
        item: "x".repeat(90),
    };
    bench(&mut group, &runtime, &client, "postcard", move |_| {
        Message::new(order.clone())
    });
    group.finish();
    drop(broker);
}

fn bench<T: Serialize + 'static>(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    name: &str,
    message: impl Fn(u64) -> Message<T>,
) {
    let producer = runtime
        .block_on(client.producer::<T>("bench").build())
        .expect("the topic is there");
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                for n in 0..RECORDS {
                    let enqueued = producer.enqueue(black_box(message(n))).await;
                    enqueued.expect("the broker takes everything");
                }
                producer.flush().await.expect("the broker takes everything");
            });
        });
    });
}

criterion_group!(benches, enqueue);
criterion_main!(benches);
