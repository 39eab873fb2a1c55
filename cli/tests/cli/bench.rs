//! Benchmarks that are stopped.

use std::{fs, path::Path, process::Stdio};

use crate::support::{Broker, User, wait_for};

/// The processes with an argument that begins like this path.
fn processes_with(path: &Path) -> usize {
    let path = path.to_str().unwrap().as_bytes();
    let lines = fs::read_dir("/proc").unwrap().flatten();
    let lines = lines.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let names_it = |line: &Vec<u8>| line.windows(path.len()).any(|part| part == path);
    lines.filter(names_it).count()
}

#[test]
fn a_benchmark_that_is_stopped_leaves_neither_brokers_nor_files() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let user = User::new();
        let dir = user.path("temporary");
        fs::create_dir(&dir).unwrap();
        let bench = user
            .command()
            .args(["bench", "produce", "--rounds", "1000", "--temporary-dir"])
            .arg(&dir)
            .stdout(Stdio::null())
            .stderr(fs::File::create(user.path("said")).unwrap())
            .spawn()
            .unwrap();
        let bench = Broker::of(bench);
        wait_for("its broker serves", || {
            let mut dirs = fs::read_dir(&dir).unwrap().flatten();
            dirs.any(|dir| dir.path().join("data/client.toml").exists())
        });
        let broker = dir.join("flumen-bench-");
        assert_eq!(processes_with(&broker), 1);
        bench.signal(name);
        assert_eq!(bench.wait(), Some(code));
        assert_eq!(processes_with(&broker), 0);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        let said = fs::read_to_string(user.path("said")).unwrap();
        assert!(said.contains("before all was measured"), "{said}");
    }
}
