//! Receives all messages of a topic, and then new ones as they come.
//!
//! `cargo run -p flumen-examples --example consume`

use flumen_client::{Client, Profile, StartAt, TopicConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(Profile::load(None)?).await?;
    let admin = client.admin();
    admin
        .ensure_topic("example.greetings", TopicConfig::default())
        .await?;
    let producer = client
        .producer::<String>("example.greetings")
        .build()
        .await?;
    for name in ["Ada", "Grace", "Edsger"] {
        producer.send(format!("hello {name}")).await?;
    }

    // Everything that is there; without `until_end` it would wait for more.
    let mut greetings = client
        .consumer::<String>("example.greetings")
        .from(StartAt::Beginning)
        .until_end()
        .build()
        .await?;
    while let Some(greeting) = greetings.next().await {
        let greeting = greeting?;
        println!(
            "{}/{}: {}",
            greeting.partition, greeting.offset, greeting.value
        );
    }

    // Only what comes from now on: the broker pushes it at once.
    let mut new = client
        .consumer::<String>("example.greetings")
        .from(StartAt::End)
        .build()
        .await?;
    producer.send("hello again".to_owned()).await?;
    if let Some(greeting) = new.next().await {
        println!("new: {}", greeting?.value);
    }
    Ok(())
}
