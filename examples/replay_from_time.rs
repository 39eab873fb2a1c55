//! Reads a topic again from a moment on.
//!
//! `cargo run -p flumen-examples --example replay_from_time`

use flumen_client::{Client, Message, Profile, StartAt, TopicConfig};

const MINUTE_MS: i64 = 60_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(Profile::load(None)?).await?;
    let admin = client.admin();
    if admin
        .ensure_topic("example.log", TopicConfig::default())
        .await?
    {
        let producer = client.producer::<String>("example.log").build().await?;
        for minute in 0..10 {
            let line = Message::new(format!("minute {minute}")).timestamp_ms(minute * MINUTE_MS);
            producer.enqueue(line).await?;
        }
        producer.flush().await?;
    }

    // The first record at or after that time, in each partition.
    let moment = 7 * MINUTE_MS;
    let offsets = admin.offsets_for_time("example.log", moment).await?;
    println!("that is from {offsets:?} on");

    let mut lines = client
        .consumer::<String>("example.log")
        .from(StartAt::Time(moment))
        .until_end()
        .build()
        .await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        println!("{}: {}", line.timestamp_ms, line.value);
    }
    Ok(())
}
