//! Messages of one key keep their order; headers and a time travel beside the value.
//!
//! `cargo run -p flumen-examples --example keys_and_headers`

use flumen_client::{Client, Message, Profile, TopicConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(Profile::load(None)?).await?;
    let config = TopicConfig {
        partitions: 4,
        ..TopicConfig::default()
    };
    client
        .admin()
        .ensure_topic("example.accounts", config)
        .await?;
    let producer = client.producer::<i64>("example.accounts").build().await?;
    for (account, amount) in [("alice", 100), ("bob", 50), ("alice", -30), ("alice", 5)] {
        let message = Message::new(amount).key(account).header("source", "till-7");
        let receipt = producer.send(message).await?;
        println!("{account}: {amount} in partition {}", receipt.partition);
    }

    let mut accounts = client
        .consumer::<i64>("example.accounts")
        .until_end()
        .build()
        .await?;
    while let Some(message) = accounts.next().await {
        let message = message?;
        println!(
            "{} {} from {} at {}",
            message.key_str().unwrap_or_default(),
            message.value,
            message.headers.get_str("source").unwrap_or("nowhere"),
            message.timestamp_ms,
        );
    }
    Ok(())
}
