//! What a start leaves behind that fails.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_leaves_nothing_running() {
    let disk = Arc::new(SimulatedDisk::new());
    let broker = Broker::start(&disk, 4).await;
    let shard = broker.shards.data_of(partition(0)).unwrap();
    let config = TopicConfig::default();
    let created = shard.create_partitions(TOPIC, vec![0], &config);
    created.await.unwrap();
    shard.append(partition(0), batch(&[b"kept"])).await.unwrap();
    drop(shard);
    broker.stop().await;
    let file = format!("/logs/{TOPIC}/p0-{:020}-0.segment", 0);
    disk.remove_file(std::path::Path::new(&file)).unwrap();
    let Err(error) = Broker::try_start(&disk, 4, |_, _| {}).await else {
        panic!("a file is missing");
    };
    assert!(error.to_string().contains(&file), "{error}");
    // Whatever runs of a broker has a hold of its disk.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while Arc::strong_count(&disk) > 1 {
        assert!(std::time::Instant::now() < deadline, "something runs on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
