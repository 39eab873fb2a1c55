//! Every example does what it says, against a broker of its own.
#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use flumen_client::{Client, Raw, TopicConfig};
use flumen_tests::broker::{Broker, binary};

/// Each example, its arguments, and what it must print, in this order.
fn expectations(json_filter: &str) -> Vec<(&'static str, Vec<&str>, Vec<&'static str>)> {
    vec![
        (
            "produce",
            vec![],
            vec!["stored in partition 0 at Some", "stored 50000 more"],
        ),
        (
            "consume",
            vec![],
            vec!["0/0: hello Ada", "0/2: hello Edsger", "new: hello again"],
        ),
        (
            "typed_json",
            vec![],
            vec!["Sangiang", "magnitude: 5.3", "Lima", "magnitude: 1.4"],
        ),
        (
            "keys_and_headers",
            vec![],
            vec!["alice: 100 in partition", "from till-7 at "],
        ),
        (
            "plugins",
            vec![json_filter],
            vec![
                "json-filter",
                "1.2 is filtered out",
                "5.3 is kept at 0",
                "4.4 is filtered out",
                "6 is kept at 1",
            ],
        ),
        (
            "admin_topics",
            vec![],
            vec![
                "example.temporary: 2 partitions",
                "partition 2: offsets 0 to 0",
            ],
        ),
        (
            "replay_from_time",
            vec![],
            vec!["420000: minute 7", "480000: minute 8", "540000: minute 9"],
        ),
        (
            "stop_and_resume",
            vec![],
            vec!["first: 0", "first: 3", "second: 4", "second: 9"],
        ),
        (
            "earthquakes",
            vec!["quakes"],
            vec![r#""events":1707"#, r#""distinct":1707"#],
        ),
    ]
}

/// The program of an example, built together with the tests.
fn program(name: &str) -> PathBuf {
    binary().with_file_name("examples").join(name)
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

async fn send_earthquakes(client: &Client) {
    let admin = client.admin();
    let config = TopicConfig::default();
    admin.create_topic("quakes", config).await.unwrap();
    let producer = client.producer::<Raw>("quakes").build().await.unwrap();
    let path = repository().join("examples/data/earthquakes.ndjson");
    for line in std::fs::read_to_string(path).unwrap().lines() {
        producer.enqueue(Raw::from(line.to_owned())).await.unwrap();
    }
    producer.flush().await.unwrap();
}

fn assert_in_order(name: &str, output: &str, wanted: &[&str]) {
    let mut rest = output;
    for text in wanted {
        let at = rest.find(text);
        let at = at.unwrap_or_else(|| panic!("{name} does not print {text:?} there:\n{output}"));
        rest = &rest[at + text.len()..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_runs_and_prints_what_it_should() {
    let broker = Broker::start().await;
    send_earthquakes(&broker.client().await).await;
    let profile = broker.data_dir().join("client.toml");
    let json_filter = flumen_guests::build().unwrap().join("json_filter.wasm");
    let expectations = expectations(json_filter.to_str().unwrap());
    for (name, arguments, wanted) in &expectations {
        let ran = Command::new(program(name))
            .args(arguments)
            .env("FLUMEN_PROFILE", &profile)
            .output()
            .unwrap();
        let output = String::from_utf8(ran.stdout).unwrap();
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{name} failed: {errors}\n{output}");
        assert_in_order(name, &output, wanted);
    }

    let manifest = std::fs::read_to_string(repository().join("examples/Cargo.toml")).unwrap();
    let listed = manifest.matches("[[example]]").count();
    assert_eq!(listed, expectations.len(), "an example is not tested");
}
