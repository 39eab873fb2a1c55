//! Brokers that are stopped and started in order, as in an upgrade.

use flumen_tests::{cluster::Cluster, load::Load};

#[tokio::test(flavor = "multi_thread")]
async fn no_send_fails_while_all_brokers_are_restarted_one_after_the_other() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::start(&cluster, "rolling").await;
    for index in 0..3 {
        assert!(cluster.brokers[index].stop().success());
        load.until_progress().await;
        cluster.brokers[index].restart().await;
        cluster.until_healthy().await;
    }
    load.finish(&cluster, 3).await.assert_no_send_failed();
    for broker in &cluster.brokers {
        let log = broker.log();
        let error = log.lines().find(|line| line.contains("ERROR"));
        assert_eq!(error, None, "an ordinary stop is no error");
    }
}
