//! Sends and receives a type as JSON, which others can read and write as well.
//!
//! `cargo run -p flumen-examples --example typed_json`

use flumen_client::{Client, Profile, Raw, TopicConfig};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Quake {
    place: String,
    magnitude: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(Profile::load(None)?).await?;
    let admin = client.admin();
    admin
        .ensure_topic("example.quakes", TopicConfig::default())
        .await?;

    let typed = client
        .producer::<Quake>("example.quakes")
        .json()
        .build()
        .await?;
    let place = "Sangiang".to_owned();
    typed
        .send(Quake {
            place,
            magnitude: 5.3,
        })
        .await?;

    // Bytes that nobody described, as `flumen produce` sends lines: if they are JSON of the
    // same shape, a JSON consumer reads them.
    let lines = client.producer::<Raw>("example.quakes").build().await?;
    let line = Raw::from_static(br#"{"place": "Lima", "magnitude": 1.4}"#);
    lines.send(line).await?;

    let mut quakes = client
        .consumer::<Quake>("example.quakes")
        .json()
        .until_end()
        .build()
        .await?;
    while let Some(quake) = quakes.next().await {
        println!("{:?}", quake?.value);
    }
    Ok(())
}
