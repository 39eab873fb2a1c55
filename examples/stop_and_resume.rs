//! Stops reading, and goes on with another consumer where the first one stopped.
//!
//! `cargo run -p flumen-examples --example stop_and_resume`

use flumen_client::{Client, Profile, TopicConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(Profile::load(None)?).await?;
    let admin = client.admin();
    admin
        .ensure_topic("example.tasks", TopicConfig::default())
        .await?;
    let producer = client.producer::<u64>("example.tasks").build().await?;
    for task in 0..10 {
        producer.enqueue(task).await?;
    }
    producer.flush().await?;

    let mut tasks = client
        .consumer::<u64>("example.tasks")
        .until_end()
        .build()
        .await?;
    for _ in 0..4 {
        if let Some(task) = tasks.next().await {
            println!("first: {}", task?.value);
        }
    }
    // What is kept, in a file or a database, next to what the tasks have changed.
    let positions = tasks.positions();
    drop(tasks);

    // Partitions that the topic has got meanwhile are read from their beginning.
    let mut tasks = client
        .consumer::<u64>("example.tasks")
        .resume(positions)
        .until_end()
        .build()
        .await?;
    while let Some(task) = tasks.next().await {
        println!("second: {}", task?.value);
    }
    Ok(())
}
