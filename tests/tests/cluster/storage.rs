//! Brokers whose disk is full, and brokers that have missed more than the others' logs still hold.

use flumen_tests::{
    admin::{free_address, get},
    broker::Place,
    cluster::Cluster,
    load::Load,
    skip::skipped,
    small_disk::SmallDisk,
    wait::until,
};

use super::flood::{Flood, SMALL_LOGS};

const DISK_BYTES: u64 = 96 << 20;

/// Leaves less on the disk than the flood takes.
const BALLAST_BYTES: usize = 64 << 20;

/// More than three times what a write-ahead log holds.
const FLOOD_BYTES: usize = 28 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_one_broker_stops_nobody_and_it_catches_up_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(DISK_BYTES) else {
        let test = "a_full_disk_of_one_broker_stops_nobody_and_it_catches_up_when_there_is_room";
        return skipped(test, "this needs the right to mount a tmpfs");
    };
    let mut places = vec![Place::default(); 3];
    places[2].dir = Some(disk.path().join("data"));
    let cluster = Cluster::start_at(places, &SMALL_LOGS).await;
    let load = Load::start(&cluster, "full").await;
    let mut flood = Flood::make(&cluster).await;
    let ballast = disk.fill(BALLAST_BYTES);
    flood.send(&cluster, FLOOD_BYTES).await;
    let client = cluster.client().await;
    until("the cluster says that a disk is full", || async {
        let status = client.admin().cluster_status().await;
        status.is_ok_and(|status| {
            status
                .brokers
                .iter()
                .any(|broker| broker.degraded.is_some())
        })
    })
    .await;
    load.until_progress().await;

    std::fs::remove_file(ballast).unwrap();
    cluster.until_healthy().await;
    load.until_progress().await;
    flood.assert_everywhere(&cluster).await;
    load.finish(&cluster, 3).await.assert_no_send_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_missed_more_than_the_logs_hold_gets_a_snapshot_and_what_it_misses() {
    let mut cluster = Cluster::start_at(vec![Place::default(); 3], &SMALL_LOGS).await;
    let load = Load::start(&cluster, "missed").await;
    let mut flood = Flood::make(&cluster).await;
    cluster.brokers[2].kill();
    flood.send(&cluster, FLOOD_BYTES).await;
    load.until_progress().await;

    let admin = free_address();
    cluster.brokers[2].add_argument(&format!("--admin={admin}"));
    cluster.brokers[2].restart().await;
    cluster.until_healthy().await;
    until("the broker has taken over snapshots", || async {
        let metrics = get(admin, "/metrics");
        let mut lines = metrics.lines();
        let taken =
            lines.find_map(|line| line.strip_prefix("flumen_cluster_snapshots_received_total "));
        taken.is_some_and(|taken| taken.parse::<u64>().unwrap() > 0)
    })
    .await;
    flood.assert_everywhere(&cluster).await;
    load.finish(&cluster, 3).await.assert_no_send_failed();
}
