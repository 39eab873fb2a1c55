//! Sends messages: one at a time with a receipt, and many at once.
//!
//! `cargo run -p flumen-examples --example produce`

use flumen_client::{Client, Profile, TopicConfig};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: u32,
    celsius: f32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(Profile::load(None)?).await?;
    let admin = client.admin();
    admin
        .ensure_topic("example.readings", TopicConfig::default())
        .await?;
    let producer = client
        .producer::<Reading>("example.readings")
        .build()
        .await?;

    // A receipt: the message is durable, and lies there.
    let reading = Reading {
        sensor: 1,
        celsius: 21.5,
    };
    let receipt = producer.send(reading).await?;
    println!(
        "stored in partition {} at {:?}",
        receipt.partition, receipt.offset
    );

    // Many at once: hand them over, then wait until all are durable.
    for n in 0..50_000_u16 {
        let reading = Reading {
            sensor: 2,
            celsius: f32::from(n % 300) / 10.0,
        };
        producer.enqueue(reading).await?;
    }
    producer.flush().await?;
    println!("stored 50000 more");
    Ok(())
}
