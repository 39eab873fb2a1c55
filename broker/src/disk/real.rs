//! The operating system's file system.

use std::{fs, io, io::IoSlice, path::Path, sync::Arc};

use rustix::{
    buffer::spare_capacity,
    fs::FallocateFlags,
    io::{Errno, pread, pwritev, retry_on_intr},
};

use super::{DirEntry, Disk, File, FileSystem, parent_of};

/// Slices that one `pwritev` takes (`UIO_MAXIOV` of Linux).
const SLICES_PER_CALL_MAX: usize = 1024;

/// Zeros written at a time where the file system cannot allocate.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The disk of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The disk, as the rooms take it.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile::new(file)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Ok(Arc::new(RealFile::new(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = fs::read_dir(dir)?
            .map(|entry| {
                let entry = entry?;
                Ok(DirEntry {
                    is_dir: entry.file_type()?.is_dir(),
                    path: entry.path(),
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = parent_of(dir);
        if parent != dir {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.sync_dir(parent),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn file_system(&self, dir: &Path) -> io::Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(RealFileSystem(fs::File::open(dir)?)))
    }
}

/// A file system, by a directory in it. Linux tells a handle of the failures since it was opened.
#[derive(Debug)]
struct RealFileSystem(fs::File);

impl FileSystem for RealFileSystem {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    #[cfg(target_os = "linux")]
    direct: super::direct::DirectHandle,
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            match retry_on_intr(|| pread(&self.file, &mut *rest, offset + done as u64))? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    fn read_onto(&self, buffer: &mut Vec<u8>, bytes_max: usize, offset: u64) -> io::Result<usize> {
        buffer.reserve_exact(bytes_max);
        let before = buffer.len();
        while buffer.len() - before < bytes_max {
            let done = buffer.len() - before;
            let at = offset + done as u64;
            // The capacity may be more than was asked for; only the last read may then run over.
            let count = retry_on_intr(|| pread(&self.file, spare_capacity(buffer), at))?;
            if count == 0 {
                break;
            }
        }
        buffer.truncate(before + bytes_max);
        Ok(buffer.len() - before)
    }

    fn write_at(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // Leading empty slices would make a write of nothing look like a stuck disk.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let batch = &slices[..slices.len().min(SLICES_PER_CALL_MAX)];
            let written = retry_on_intr(|| pwritev(&self.file, batch, offset))?;
            if written == 0 && batch.iter().any(|slice| !slice.is_empty()) {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut slices, written);
            offset += written as u64;
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn write_through(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.direct.write(&self.file, slices, offset)? {
            return Ok(());
        }
        self.write_at(slices, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match retry_on_intr(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.allocate_by_writing(len),
            Err(error) => Err(error.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl RealFile {
    fn new(file: fs::File) -> Self {
        Self {
            file,
            #[cfg(target_os = "linux")]
            direct: super::direct::DirectHandle::default(),
        }
    }

    /// Extends the file with written zeros. Holes below its present length stay holes: those who
    /// allocate do so for a new file.
    fn allocate_by_writing(&self, len: u64) -> io::Result<()> {
        let mut offset = self.len()?;
        while offset < len {
            let count = (len - offset).min(ZEROS.len() as u64) as usize;
            self.write_all_at(&ZEROS[..count], offset)?;
            offset += count as u64;
        }
        Ok(())
    }
}
