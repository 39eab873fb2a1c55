//! The disk as the broker sees it: a few blocking calls behind two traits.
//!
//! Everything that is durable goes through [`Disk`] and [`File`], so that every room above can be
//! run against [`SimulatedDisk`], which crashes, tears, fills up and fails on demand. What the two
//! implementations must have in common is written down once, as the conformance suite in the
//! tests of this module.
//!
//! The contract is POSIX without its surprises:
//! - data is durable after [`File::sync_data`] of the file, a name (created, renamed or removed)
//!   only after [`Disk::sync_dir`] of its directory;
//! - what was not synced may be there after a crash, or not, or in parts, in any order;
//! - writes are complete or an error; after an error the written range holds anything;
//! - an open file stays usable after it was renamed or removed.
//!
//! All calls block. None belongs on an async worker thread.

use std::{
    fmt, io,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

mod atomic;
#[cfg(target_os = "linux")]
mod direct;
mod real;
mod simulated;
mod work;

pub use atomic::{read_file, remove_file_durably, write_file_atomically};
pub use real::RealDisk;
pub use simulated::{CrashKeep, FaultPlan, SimulatedDisk};
pub(crate) use work::{disk_work, disk_work_once_there_is_room};

/// Bytes of a block: what begins at a multiple of it, in a file and in memory, is written past
/// the page cache without a copy. Disks ask for 512 or 4,096.
pub const BLOCK_BYTES: usize = 4096;

/// A file system, or what stands in for one.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file for reading and writing, empty; one that exists is cut to nothing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Lists a directory, sorted by name. A missing directory is `NotFound`.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Renames a file or a directory; a file in its place is replaced in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all that is in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Creates a directory and its parents; those that exist are left alone. Each directory that
    /// is made is synced into its parent, since callers would forget the parents they cannot see.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: what was created, renamed and removed in it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Bytes that can still be written to the file system that holds `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// The file system that holds `dir`, to sync thousands of files at once. To be opened before
    /// they are written: it tells of the failures since then.
    fn file_system(&self, dir: &Path) -> io::Result<Arc<dyn FileSystem>>;
}

/// Whether the disk may take later what it did not take now.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A whole file system.
pub trait FileSystem: fmt::Debug + Send + Sync {
    /// Makes everything durable that was written before: contents, lengths and names, of all
    /// files (`syncfs`). A failure is as final as that of [`File::sync_data`].
    fn sync(&self) -> io::Result<()>;
}

/// An open file. Positions are explicit, so one handle serves many threads.
pub trait File: fmt::Debug + Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads up to `bytes_max` bytes at `offset` and appends them to `buffer`, without the zeroing
    /// that a buffer for [`File::read_at`] costs; fewer only at the end of the file.
    fn read_onto(&self, buffer: &mut Vec<u8>, bytes_max: usize, offset: u64) -> io::Result<usize>;

    /// Writes all of `slices`, one after the other, at `offset`; the file grows as needed.
    /// The slices are used up: their state afterwards is unspecified.
    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Like [`File::write_at`], for a large write that is not read back soon: where the system
    /// can, the bytes go to the disk without a copy of them staying in the page cache. Blocks
    /// until the disk has them, and makes nothing durable.
    fn write_through(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(slices, offset)
    }

    /// Makes the file's contents and its length durable (`fdatasync`). A failure means that what
    /// was written since the last sync is lost or not, and another try would not tell: treat it as
    /// final.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file, or extends it with a hole that reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves room up to `len`, which reads as zeros where nothing was written, and extends the
    /// file to it. Fails with `StorageFull` when there is none; later writes below `len` do not.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.read_at(buffer, offset)? == buffer.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(&mut [IoSlice::new(bytes)], offset)
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The full path.
    pub path: PathBuf,
    /// Whether it is a directory.
    pub is_dir: bool,
}

impl DirEntry {
    /// The last part of the path, where it is UTF-8.
    pub fn name(&self) -> Option<&str> {
        self.path.file_name()?.to_str()
    }
}

/// The directory that holds `path`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
