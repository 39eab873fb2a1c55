//! Deploys a filter, binds it to a topic, and sends messages through it.
//!
//! The filter is the sample `json-filter`; say where its component lies:
//!
//! `cargo run -p flumen-examples --example plugins -- path/to/json_filter.wasm`

use anyhow::Context as _;
use flumen_client::{BindingConfig, Client, ErrorCode, Name, Profile, TopicConfig};
use serde_json::json;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args()
        .nth(1)
        .context("say where the component of json-filter lies")?;
    let component = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    let client = Client::connect(Profile::load(None)?).await?;
    let admin = client.admin();
    admin
        .ensure_topic("example.strong", TopicConfig::default())
        .await?;

    // Deploying twice is refused; an upgrade replaces it wherever it is bound.
    let known = admin.describe_plugin("json-filter").await;
    let plugin = match known {
        Ok(_) => admin.upgrade_plugin("json-filter", None, component).await?,
        Err(error) if error.code() == Some(ErrorCode::UnknownPlugin) => {
            admin.deploy_plugin("json-filter", None, component).await?
        }
        Err(error) => return Err(error.into()),
    };
    println!(
        "{} {} is a {}",
        plugin.info.name, plugin.info.version, plugin.info.world
    );

    let mut binding = BindingConfig::new(Name::new("json-filter")?);
    binding.config = json!({"field": "magnitude", "op": ">=", "value": 4.5}).to_string();
    match admin.bind("example.strong", binding).await {
        Err(error) if error.code() == Some(ErrorCode::BindingExists) => {}
        bound => bound?,
    }

    let producer = client
        .producer::<serde_json::Value>("example.strong")
        .json()
        .build()
        .await?;
    for magnitude in [1.2, 5.3, 4.4, 6.0] {
        let receipt = producer.send(json!({ "magnitude": magnitude })).await?;
        match receipt.offset {
            Some(offset) => println!("magnitude {magnitude} is kept at {offset}"),
            None => println!("magnitude {magnitude} is filtered out"),
        }
    }

    admin.unbind("example.strong", "json-filter").await?;
    admin.remove_plugin("json-filter").await?;
    Ok(())
}
