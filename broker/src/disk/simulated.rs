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
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use self::{
    file::SimulatedFile,
    names::{Entry, NameChange, NodeId},
    node::{DataChange, Node},
    state::{State, count_down, crashed, not_found},
};
use super::{DirEntry, Disk, File, FileSystem, parent_of};

mod file;
mod names;
mod node;
mod state;

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
    /// Directories cannot be synced.
    pub fail_dir_syncs: bool,
    /// In this directory, files can be neither renamed nor removed.
    pub fail_names_in: Option<PathBuf>,
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

    /// Bytes that all files have together.
    pub fn used_bytes(&self) -> u64 {
        self.shared.lock().used_bytes()
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
            fail_if(state.fails_names(to))?;
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
                fail_if(state.fails_names(path))?;
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
                // It is synced into its parent, and with it whatever happened there before.
                state.sync_names(parent_of(&path));
                state.current.insert(path.clone(), Entry::Dir);
                state.durable.insert(path, Entry::Dir);
            }
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|state| {
            state.check_dir(dir)?;
            fail_if(state.faults.fail_dir_syncs)?;
            state.sync_names(dir);
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

fn fail_if(fails: bool) -> io::Result<()> {
    if fails {
        return Err(io::Error::other("the simulated disk fails"));
    }
    Ok(())
}

/// The whole disk.
#[derive(Debug)]
struct SimulatedFileSystem(SimulatedDisk);

impl FileSystem for SimulatedFileSystem {
    fn sync(&self) -> io::Result<()> {
        self.0.change(|state| {
            if count_down(&mut state.faults.fail_sync_in) {
                state.nodes.values_mut().for_each(Node::fail_sync);
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
