//! What brokers write to their logs: what is wrong, once, and nothing that is not.
#![allow(clippy::unwrap_used)]

use flumen_tests::broker::Broker;

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_shards_than_there_is_is_warned_of() {
    let mut broker = Broker::start_with(&["--shards=2"]).await;
    assert!(broker.stop().success());
    broker.restart().await;
    assert!(!broker.log().contains("shards = "), "{}", broker.log());
    assert!(broker.stop().success());

    // The second is the default, which somebody asks for all the same.
    for wanted in [5, 16] {
        broker.set_arguments(&[&format!("--shards={wanted}")]);
        broker.restart().await;
        let log = broker.log();
        let mut lines = log.lines();
        let warned = lines.find(|line| line.contains(&format!("shards = {wanted}")));
        let warned = warned.unwrap_or_else(|| panic!("{log}"));
        assert!(
            warned.contains("WARN") && warned.contains("has 2 shards"),
            "{warned}"
        );
        assert!(broker.stop().success());
    }
}
