//! All that a simulated disk holds, and when it fails.

use std::{
    collections::{BTreeMap, HashMap},
    io, mem,
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    super::parent_of,
    CrashKeep, FaultPlan,
    names::{Entry, NameChange, NodeId},
    node::Node,
};

#[derive(Default)]
pub(super) struct State {
    pub(super) life: u64,
    pub(super) down: bool,
    pub(super) operations: u64,
    pub(super) faults: FaultPlan,
    pub(super) nodes: HashMap<NodeId, Node>,
    pub(super) node_next: NodeId,
    pub(super) current: BTreeMap<PathBuf, Entry>,
    pub(super) durable: BTreeMap<PathBuf, Entry>,
    pub(super) pending: Vec<NameChange>,
}

impl State {
    pub(super) fn check_alive(&self, life: u64) -> io::Result<()> {
        if self.down || self.life != life {
            return Err(crashed());
        }
        Ok(())
    }

    /// Counts an operation, and tells whether the planned crash comes with it.
    pub(super) fn count_operation(&mut self) -> bool {
        self.operations += 1;
        self.down |= count_down(&mut self.faults.crash_in);
        self.down
    }

    pub(super) fn check_dir(&self, dir: &Path) -> io::Result<()> {
        match self.current.get(dir) {
            Some(Entry::Dir) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found(dir)),
        }
    }

    pub(super) fn fails_names(&self, path: &Path) -> bool {
        let dir = self.faults.fail_names_in.as_deref();
        dir.is_some_and(|dir| parent_of(path) == dir)
    }

    pub(super) fn check_room(&self, more: u64) -> io::Result<()> {
        if more > self.free_bytes() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn free_bytes(&self) -> u64 {
        let capacity = self.faults.capacity_bytes;
        capacity.map_or(u64::MAX, |bytes| bytes.saturating_sub(self.used_bytes()))
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let files = self.current.values().filter_map(|entry| match entry {
            Entry::File(node) => Some(self.nodes[node].current.len() as u64),
            Entry::Dir => None,
        });
        files.sum()
    }

    /// Makes the changes of names in a directory durable.
    pub(super) fn sync_names(&mut self, dir: &Path) {
        for change in mem::take(&mut self.pending) {
            if change.touches(dir) {
                change.apply(&mut self.durable);
            } else {
                self.pending.push(change);
            }
        }
    }

    pub(super) fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    pub(super) fn crash(&mut self, keep: CrashKeep) {
        let mut rng = StdRng::seed_from_u64(match keep {
            CrashKeep::Random(seed) => seed,
            CrashKeep::Nothing | CrashKeep::Everything => 0,
        });
        let pending = mem::take(&mut self.pending);
        let kept = match keep {
            CrashKeep::Nothing => 0,
            CrashKeep::Everything => pending.len(),
            // A journal commits names in order.
            CrashKeep::Random(_) => rng.random_range(0..=pending.len()),
        };
        for change in &pending[..kept] {
            change.apply(&mut self.durable);
        }
        self.current = self.durable.clone();
        let mut ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.crash(keep, &mut rng);
            }
        }
        let linked: Vec<_> = self.current.values().copied().collect();
        self.nodes
            .retain(|id, _| linked.contains(&Entry::File(*id)));
        self.life += 1;
        self.down = false;
        self.faults = FaultPlan::default();
    }

    pub(super) fn node(&mut self, id: NodeId) -> io::Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or_else(crashed)
    }
}

/// Counts a fault's counter down; true when it strikes.
pub(super) fn count_down(counter: &mut Option<u64>) -> bool {
    match counter {
        Some(0) => {
            *counter = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

pub(super) fn crashed() -> io::Error {
    io::Error::other("the simulated disk has crashed")
}

pub(super) fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} does not exist", path.display()),
    )
}
