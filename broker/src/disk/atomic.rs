//! Small files that are replaced as a whole: checkpoints, identities, manifests.

use std::{io, path::Path};

use super::{Disk, parent_of};

/// The ending of a file that is being written. One that a crash left behind is overwritten by the
/// next write of the same file.
const TEMPORARY_EXTENSION: &str = "tmp";

/// Replaces the file at `path` by `bytes`, durably: after a crash at any moment it has either its
/// old contents or all of the new ones, and the new ones once this has returned.
///
/// Two threads must not write the same path at the same time.
///
/// # Errors
/// Any failure of the disk; the old file is then still whole.
pub fn write_file_atomically(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
        .to_os_string();
    name.push(".");
    name.push(TEMPORARY_EXTENSION);
    let temporary = path.with_file_name(name);
    let written = (|| {
        let file = disk.create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        disk.rename(&temporary, path)
    })();
    if let Err(error) = written {
        // Frees the space when it was a full disk; otherwise the next write replaces it.
        drop(disk.remove_file(&temporary));
        return Err(error);
    }
    disk.sync_dir(parent_of(path))
}

/// Removes the file at `path`, if there is one, durably: it is not there again after a loss of power.
///
/// # Errors
/// Any failure of the disk.
pub fn remove_file_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // One that is gone may be so in memory only.
        _ => disk.sync_dir(parent_of(path)),
    }
}

/// Reads a whole file of at most `bytes_max`; `None` if there is none.
///
/// # Errors
/// `InvalidData` if the file is longer, and any failure of the disk.
pub fn read_file(disk: &dyn Disk, path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > bytes_max as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} has {len} bytes, more than the {bytes_max} such a file may have",
                path.display()
            ),
        ));
    }
    let mut bytes = Vec::with_capacity(len as usize);
    file.read_onto(&mut bytes, len as usize, 0)?;
    Ok(Some(bytes))
}
