//! A disk in memory that crashes, tears, fills up and fails when a test says so.
//!
//! It keeps two versions of everything: what a running process sees, and what would be left after
//! the power went. A crash ends the life of every handle and gives a new one, whose contents are
//! the durable version plus whatever part of the rest [`CrashKeep`] lets through:
//!
//! ```
//! # use flumen_broker::disk::{CrashKeep, Disk, File, SimulatedDisk};
//! # use std::path::Path;
//! let disk = SimulatedDisk::new();
//! let file = disk.create(Path::new("/a")).unwrap();
//! file.write_all_at(b"synced", 0).unwrap();
//! file.sync_data().unwrap();
//! disk.sync_dir(Path::new("/")).unwrap();
//! file.write_all_at(b"UNSYNC", 0).unwrap();
//!
//! let disk = disk.crash(CrashKeep::Nothing);
//! let mut bytes = [0; 6];
//! disk.open(Path::new("/a")).unwrap().read_exact_at(&mut bytes, 0).unwrap();
//! assert_eq!(&bytes, b"synced");
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{DirEntry, Disk, File, FileSystem, parent_of};

/// The unit a torn write tears into: a drive writes a sector whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// What a crash leaves of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKeep {
    /// Nothing: the power failed and no cache was written back.
    Nothing,
    /// Everything: the process died and the operating system lives.
    Everything,
    /// A choice drawn from this seed: some writes whole, some torn into sectors, some not at all,
    /// in any order; and the first few of the changed names.
    Random(u64),
}

/// What goes wrong, and when. The default is a disk without faults.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// Bytes all files may have together; growing past it fails with `StorageFull`.
    pub capacity_bytes: Option<u64>,
    /// Counts down with each write; the one that finds 0 fails, half of it written.
    pub fail_write_in: Option<u64>,
    /// Counts down with each sync of a file; the one that finds 0 fails, and what it should have
    /// synced will never be durable, as in Linux.
    pub fail_sync_in: Option<u64>,
    /// Counts down with each operation that changes something; the one that finds 0 fails, and so
    /// does all that follows, until [`SimulatedDisk::crash`].
    pub crash_in: Option<u64>,
    /// How long each sync of a file takes.
    pub sync_delay: Duration,
}

/// A file system in memory. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimulatedDisk {
    shared: Arc<Mutex<State>>,
    life: u64,
}

type NodeId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Dir,
    File(NodeId),
}

/// A change of names that is not yet durable.
#[derive(Debug)]
enum NameChange {
    Set(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// A change of a file's contents that is not yet durable.
#[derive(Debug)]
enum DataChange {
    Write(u64, Vec<u8>),
    Resize(u64),
}

#[derive(Debug, Default)]
struct Node {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<DataChange>,
}

#[derive(Default)]
struct State {
    life: u64,
    down: bool,
    operations: u64,
    faults: FaultPlan,
    nodes: HashMap<NodeId, Node>,
    node_next: NodeId,
    current: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    pending: Vec<NameChange>,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimulatedDisk")
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl SimulatedDisk {
    /// An empty disk with a root directory.
    pub fn new() -> Self {
        let mut state = State::default();
        state.current.insert(PathBuf::from("/"), Entry::Dir);
        state.durable.insert(PathBuf::from("/"), Entry::Dir);
        Self {
            shared: Arc::new(Mutex::new(state)),
            life: 0,
        }
    }

    /// Sets what is to go wrong from now on.
    pub fn set_faults(&self, faults: FaultPlan) {
        self.shared.lock().faults = faults;
    }

    /// Operations so far that changed something: the points at which a crash makes a difference.
    pub fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    /// Whether a planned crash has come.
    pub fn is_down(&self) -> bool {
        self.shared.lock().down
    }

    /// Cuts the power and turns it on again. Handles from before fail from now on, as those of a
    /// dead process would; the one returned is the next life. Faults are cleared.
    #[must_use = "the old handle is dead"]
    pub fn crash(&self, keep: CrashKeep) -> Self {
        let mut state = self.shared.lock();
        state.crash(keep);
        Self {
            shared: Arc::clone(&self.shared),
            life: state.life,
        }
    }

    /// Runs `operation` if this handle's life goes on.
    fn with<T>(&self, operation: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.shared.lock();
        state.check_alive(self.life)?;
        operation(&mut state)
    }

    /// The same, for an operation that changes something.
    fn change<T>(&self, operation: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.with(|state| {
            if state.count_operation() {
                return Err(crashed());
            }
            operation(state)
        })
    }

    fn handle(&self, node: NodeId) -> Arc<dyn File> {
        Arc::new(SimulatedFile {
            disk: self.clone(),
            node,
        })
    }
}

fn crashed() -> io::Error {
    io::Error::other("the simulated disk has crashed")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} does not exist", path.display()),
    )
}

impl State {
    fn check_alive(&self, life: u64) -> io::Result<()> {
        if self.down || self.life != life {
            return Err(crashed());
        }
        Ok(())
    }

    /// Counts an operation, and tells whether the planned crash comes with it.
    fn count_operation(&mut self) -> bool {
        self.operations += 1;
        self.down |= count_down(&mut self.faults.crash_in);
        self.down
    }

    fn check_dir(&self, dir: &Path) -> io::Result<()> {
        match self.current.get(dir) {
            Some(Entry::Dir) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found(dir)),
        }
    }

    fn check_room(&self, more: u64) -> io::Result<()> {
        if more > self.free_bytes() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        let Some(capacity) = self.faults.capacity_bytes else {
            return u64::MAX;
        };
        let used: u64 = self
            .current
            .values()
            .filter_map(|entry| match entry {
                Entry::File(node) => Some(self.nodes[node].current.len() as u64),
                Entry::Dir => None,
            })
            .sum();
        capacity.saturating_sub(used)
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    fn crash(&mut self, keep: CrashKeep) {
        let mut rng = StdRng::seed_from_u64(match keep {
            CrashKeep::Random(seed) => seed,
            CrashKeep::Nothing | CrashKeep::Everything => 0,
        });
        let pending = std::mem::take(&mut self.pending);
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
}

/// Counts a fault's counter down; true when it strikes.
fn count_down(counter: &mut Option<u64>) -> bool {
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

impl NameChange {
    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Set(path, _) | Self::Remove(path) => parent_of(path) == dir,
            Self::Rename(from, to) => parent_of(from) == dir || parent_of(to) == dir,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Set(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            Self::Remove(path) => names.retain(|name, _| !name.starts_with(path)),
            Self::Rename(from, to) => {
                let moved: Vec<_> = names
                    .iter()
                    .filter(|(name, _)| name.starts_with(from))
                    .map(|(name, entry)| (name.clone(), *entry))
                    .collect();
                for (name, entry) in moved {
                    names.remove(&name);
                    let target = match name.strip_prefix(from) {
                        Ok(rest) if !rest.as_os_str().is_empty() => to.join(rest),
                        _ => to.clone(),
                    };
                    names.insert(target, entry);
                }
            }
        }
    }
}

impl Node {
    fn change(&mut self, change: DataChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn crash(&mut self, keep: CrashKeep, rng: &mut StdRng) {
        for change in std::mem::take(&mut self.pending) {
            match keep {
                CrashKeep::Nothing => {}
                CrashKeep::Everything => change.apply(&mut self.durable),
                CrashKeep::Random(_) => match rng.random_range(0..3) {
                    0 => {}
                    1 => change.apply(&mut self.durable),
                    _ => change.apply_torn(&mut self.durable, rng),
                },
            }
        }
        self.current = self.durable.clone();
    }
}

impl DataChange {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => write_into(contents, *offset, bytes),
            Self::Resize(len) => contents.resize(*len as usize, 0),
        }
    }

    /// Applies a random choice of the sectors.
    fn apply_torn(&self, contents: &mut Vec<u8>, rng: &mut StdRng) {
        let Self::Write(offset, bytes) = self else {
            return self.apply(contents);
        };
        let (mut at, end) = (*offset, offset + bytes.len() as u64);
        while at < end {
            let next = end.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
            if rng.random() {
                let sector = &bytes[(at - offset) as usize..(next - offset) as usize];
                write_into(contents, at, sector);
            }
            at = next;
        }
    }
}

fn write_into(contents: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[start..end].copy_from_slice(bytes);
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.with(|state| match state.current.get(path) {
            Some(Entry::File(node)) => Ok(self.handle(*node)),
            Some(Entry::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found(path)),
        })
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.change(|state| {
            state.check_dir(parent_of(path))?;
            match state.current.get(path) {
                Some(Entry::Dir) => Err(io::ErrorKind::IsADirectory.into()),
                Some(Entry::File(id)) => {
                    let id = *id;
                    if let Some(node) = state.nodes.get_mut(&id) {
                        node.change(DataChange::Resize(0));
                    }
                    Ok(self.handle(id))
                }
                None => {
                    let id = state.node_next;
                    state.node_next += 1;
                    state.nodes.insert(id, Node::default());
                    state.change_name(NameChange::Set(path.to_path_buf(), Entry::File(id)));
                    Ok(self.handle(id))
                }
            }
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.with(|state| {
            state.check_dir(dir)?;
            let entries = state
                .current
                .iter()
                .filter(|(name, _)| name.parent() == Some(dir) && name.as_path() != dir);
            Ok(entries
                .map(|(name, entry)| DirEntry {
                    path: name.clone(),
                    is_dir: *entry == Entry::Dir,
                })
                .collect())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            state.check_dir(parent_of(to))?;
            if !state.current.contains_key(from) {
                return Err(not_found(from));
            }
            if state.current.get(to) == Some(&Entry::Dir) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.change_name(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(|state| match state.current.get(path) {
            Some(Entry::File(_)) => {
                state.change_name(NameChange::Remove(path.to_path_buf()));
                Ok(())
            }
            Some(Entry::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found(path)),
        })
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change(|state| {
            state.check_dir(dir)?;
            state.change_name(NameChange::Remove(dir.to_path_buf()));
            Ok(())
        })
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change(|state| {
            let mut missing: Vec<_> = dir
                .ancestors()
                .take_while(|ancestor| !state.current.contains_key(*ancestor))
                .map(Path::to_path_buf)
                .collect();
            if let Some(existing) = dir.ancestors().nth(missing.len()) {
                state.check_dir(existing)?;
            }
            while let Some(path) = missing.pop() {
                state.current.insert(path.clone(), Entry::Dir);
                state.durable.insert(path, Entry::Dir);
            }
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|state| {
            state.check_dir(dir)?;
            let pending = std::mem::take(&mut state.pending);
            for change in pending {
                if change.touches(dir) {
                    change.apply(&mut state.durable);
                } else {
                    state.pending.push(change);
                }
            }
            Ok(())
        })
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.with(|state| {
            state.check_dir(dir)?;
            Ok(state.free_bytes())
        })
    }

    fn file_system(&self, dir: &Path) -> io::Result<Arc<dyn FileSystem>> {
        self.with(|state| {
            state.check_dir(dir)?;
            Ok(Arc::new(SimulatedFileSystem(self.clone())) as Arc<dyn FileSystem>)
        })
    }
}

/// The whole disk.
#[derive(Debug)]
struct SimulatedFileSystem(SimulatedDisk);

impl FileSystem for SimulatedFileSystem {
    fn sync(&self) -> io::Result<()> {
        self.0.change(|state| {
            if count_down(&mut state.faults.fail_sync_in) {
                state
                    .nodes
                    .values_mut()
                    .for_each(|node| node.pending.clear());
                return Err(io::Error::other("the simulated disk fails this sync"));
            }
            for change in std::mem::take(&mut state.pending) {
                change.apply(&mut state.durable);
            }
            state.nodes.values_mut().for_each(Node::sync);
            Ok(())
        })
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    node: NodeId,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimulatedFile({})", self.node)
    }
}

impl SimulatedFile {
    fn resize(&self, len: u64, only_grow: bool) -> io::Result<()> {
        self.disk.change(|state| {
            let present = state.nodes[&self.node].current.len() as u64;
            if only_grow && len <= present {
                return Ok(());
            }
            if only_grow {
                state.check_room(len - present)?;
            }
            let node = state.node(self.node)?;
            node.change(DataChange::Resize(len));
            Ok(())
        })
    }
}

impl State {
    fn node(&mut self, id: NodeId) -> io::Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or_else(crashed)
    }
}

impl File for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.with(|state| {
            let contents = &state.node(self.node)?.current;
            let start = contents.len().min(offset as usize);
            let count = buffer.len().min(contents.len() - start);
            buffer[..count].copy_from_slice(&contents[start..start + count]);
            Ok(count)
        })
    }

    fn read_onto(&self, buffer: &mut Vec<u8>, bytes_max: usize, offset: u64) -> io::Result<usize> {
        self.disk.with(|state| {
            let contents = &state.node(self.node)?.current;
            let start = contents.len().min(offset as usize);
            let count = bytes_max.min(contents.len() - start);
            buffer.extend_from_slice(&contents[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes: Vec<u8> = slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        self.disk.with(|state| {
            let crash = state.count_operation();
            let present = state.node(self.node)?.current.len() as u64;
            state.check_room((offset + bytes.len() as u64).saturating_sub(present))?;
            let fails = count_down(&mut state.faults.fail_write_in);
            if fails {
                bytes.truncate(bytes.len() / 2);
            }
            let node = state.node(self.node)?;
            node.change(DataChange::Write(offset, bytes));
            if crash {
                Err(crashed())
            } else if fails {
                Err(io::Error::other("the simulated disk fails this write"))
            } else {
                Ok(())
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let delay = self.disk.with(|state| Ok(state.faults.sync_delay))?;
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        self.disk.change(|state| {
            let fails = count_down(&mut state.faults.fail_sync_in);
            let node = state.node(self.node)?;
            if fails {
                node.pending.clear();
                return Err(io::Error::other("the simulated disk fails this sync"));
            }
            node.sync();
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.resize(len, false)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.resize(len, true)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk
            .with(|state| Ok(state.node(self.node)?.current.len() as u64))
    }
}
