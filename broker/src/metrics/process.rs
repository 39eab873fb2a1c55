//! What the system knows of the process, under the names that Prometheus has for it everywhere.

use std::fs;

use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};

/// What can be told of the process; on other systems than Linux, nothing.
pub(super) fn registry() -> Registry {
    let mut registry = Registry::with_prefix("process");
    if let Some(bytes) = resident_memory_bytes() {
        let help = "Memory that the process has in use";
        registry.register_with_unit("resident_memory", help, Unit::Bytes, gauge(bytes));
    }
    if let Some(count) = open_descriptors() {
        registry.register("open_fds", "File descriptors in use", gauge(count));
    }
    if let Some(limit) = descriptors_max() {
        let help = "File descriptors that may be in use";
        registry.register("max_fds", help, gauge(limit));
    }
    registry
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

/// The line `VmRSS: 51200 kB` of proc(5).
fn resident_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Without the one that is open to count them.
fn open_descriptors() -> Option<u64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    Some(count.saturating_sub(1))
}

fn descriptors_max() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current
}
