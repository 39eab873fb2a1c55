//! Files that somebody removes under a running broker.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_a_file_that_is_gone_before_a_checkpoint_comes_back_with_a_restart() {
    let disk = Arc::new(SimulatedDisk::new());
    let start = async || {
        Broker::start_with(&disk, 1, |options, _| {
            options.checkpoint_interval = Duration::from_hours(1);
        })
        .await
    };
    let broker = start().await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let config = TopicConfig::default();
    let created = shard.create_partitions(TOPIC, vec![0], &config);
    created.await.unwrap();
    shard.append(partition(0), batch(&[b"kept"])).await.unwrap();
    broker.logs.flush_all().unwrap();
    let file = format!("/logs/{TOPIC}/p0-{:020}-0.segment", 0);
    disk.remove_file(std::path::Path::new(&file)).unwrap();
    let error = broker.shards.checkpoint().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&file) && text.contains("restart the broker"),
        "{text}"
    );
    // Nor when it stops.
    broker.stop().await;
    let broker = start().await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    assert_eq!(values(&shard.reader(partition(0)).unwrap()), [b"kept"]);
    broker.shards.checkpoint().await.unwrap();
    broker.stop().await;
}
