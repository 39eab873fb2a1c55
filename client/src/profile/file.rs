//! How the files of profiles are written: one writer at a time, each file in one step and for its
//! owner's eyes only.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Waits until nobody else writes in the directory; nobody does until the lock is dropped. None
/// where the directory cannot be locked: what the user asked for is not left undone for that.
pub(super) fn lock(directory: &Path) -> Option<File> {
    let directory = File::open(directory).ok()?;
    directory.lock().ok()?;
    Some(directory)
}

/// As [`lock`], unless somebody else writes there now.
pub(super) fn try_lock(directory: &Path) -> Option<File> {
    let directory = File::open(directory).ok()?;
    directory.try_lock().ok()?;
    Some(directory)
}

/// Writes a file; a reader sees the old one or the new one, also after a power cut.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Temporary::beside(path)?.replace(path, text)
}

/// As [`write`], for a file that is there already. Tells whether it was written: a link stays as it
/// is, and so does a file that would get another owner, group or mode by it.
pub(super) fn write_again(path: &Path, text: &str) -> io::Result<bool> {
    let temporary = Temporary::beside(path)?;
    if !is_like(&fs::symlink_metadata(path)?, &temporary.file.metadata()?) {
        return Ok(false);
    }
    temporary.replace(path, text).map(|()| true)
}

#[cfg(unix)]
fn is_like(old: &fs::Metadata, new: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The mode has the type in it.
    let of = |file: &fs::Metadata| (file.uid(), file.gid(), file.mode(), file.nlink());
    of(old) == of(new)
}

#[cfg(not(unix))]
fn is_like(old: &fs::Metadata, _: &fs::Metadata) -> bool {
    old.is_file()
}

/// A file that is removed unless it has taken the place of another one.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        let unique = format!("tmp{}-{:x}", std::process::id(), rand::random::<u32>());
        let path = path.with_extension(unique);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let file = options.open(&path)?;
        Ok(Self { path, file })
    }

    fn replace(mut self, path: &Path, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        // Otherwise the name may be on disk before the text.
        self.file.sync_all()?;
        fs::rename(&self.path, path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the renaming there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}
