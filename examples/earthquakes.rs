//! Reads earthquakes as typed events and sums them up: the other end of `cargo xtask demo`.
//!
//! `cargo run -p flumen-examples --example earthquakes -- quakes`

use std::collections::BTreeSet;

use anyhow::Context;
use flumen_client::{Client, Profile};
use serde::{Deserialize, Serialize};

/// What this program wants to know of an earthquake; events may hold more.
#[derive(Debug, Deserialize)]
struct Earthquake {
    id: String,
    place: String,
    magnitude: f64,
    longitude: f64,
    latitude: f64,
}

/// What it found.
#[derive(Debug, Default, Serialize)]
struct Summary {
    events: u64,
    distinct: usize,
    weakest: Option<f64>,
    strongest: Option<f64>,
    strongest_place: Option<String>,
    /// Coordinates that tell more than one decimal.
    precise_coordinates: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let topic = std::env::args().nth(1).context("say which topic to read")?;
    let client = Client::connect(Profile::load(None)?).await?;
    let mut earthquakes = client
        .consumer::<Earthquake>(topic)
        .json()
        .until_end()
        .build()
        .await?;

    let mut summary = Summary::default();
    let mut ids = BTreeSet::new();
    while let Some(earthquake) = earthquakes.next().await {
        let Earthquake {
            id,
            place,
            magnitude,
            longitude,
            latitude,
        } = earthquake?.value;
        summary.events += 1;
        ids.insert(id);
        summary.precise_coordinates += [longitude, latitude]
            .iter()
            .filter(|degrees| has_more_than_one_decimal(**degrees))
            .count() as u64;
        if summary.weakest.is_none_or(|weakest| magnitude < weakest) {
            summary.weakest = Some(magnitude);
        }
        if summary
            .strongest
            .is_none_or(|strongest| magnitude > strongest)
        {
            summary.strongest = Some(magnitude);
            summary.strongest_place = Some(place);
        }
    }
    summary.distinct = ids.len();
    println!("{}", serde_json::to_string(&summary)?);
    client.close().await;
    Ok(())
}

fn has_more_than_one_decimal(degrees: f64) -> bool {
    let tenths = degrees * 10.0;
    (tenths - tenths.round()).abs() > 1e-6
}
