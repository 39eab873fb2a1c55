//! Makes, describes, changes and deletes a topic.
//!
//! `cargo run -p flumen-examples --example admin_topics`

use flumen_client::{Client, Codec, Profile, TopicChanges, TopicConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(Profile::load(None)?).await?;
    let admin = client.admin();
    let config = TopicConfig {
        partitions: 2,
        compression: Codec::Zstd,
        ..TopicConfig::default()
    };
    admin.create_topic("example.temporary", config).await?;
    for topic in admin.list_topics().await? {
        println!("{}: {} partitions", topic.name, topic.config.partitions);
    }

    let changes = TopicChanges {
        partitions: Some(3),
        retention_age_ms: Some(Some(60 * 60 * 1000)),
        ..TopicChanges::default()
    };
    admin.alter_topic("example.temporary", changes).await?;
    let topic = admin.describe_topic("example.temporary").await?;
    for partition in &topic.partitions {
        match partition.extent {
            Some(extent) => println!(
                "partition {}: offsets {} to {}, {} bytes",
                partition.index, extent.start_offset, extent.end_offset, extent.size_bytes
            ),
            None => println!("partition {}: its leader does not answer", partition.index),
        }
    }
    admin.delete_topic("example.temporary").await?;

    let status = admin.status().await?;
    println!("broker {} has {} topics", status.id, status.topics);
    Ok(())
}
