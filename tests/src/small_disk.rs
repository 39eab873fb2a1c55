//! A file system that fills up soon: a tmpfs of its own, which needs the right to mount one.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted tmpfs. It goes when it is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts one; `None` where that is not allowed.
    ///
    /// # Panics
    /// When there is no directory to mount it on.
    pub fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]);
        let mounted = mount.arg(dir.path()).status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes room away, which removing the file gives back.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn fill(&self, bytes: usize) -> PathBuf {
        let path = self.path().join("ballast");
        std::fs::write(&path, vec![1; bytes]).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a failed test the broker may still be there.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
