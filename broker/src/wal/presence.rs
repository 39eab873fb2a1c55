//! Whether the files of the log are still there while it is in use.
//!
//! What somebody removes under a running broker goes on to be written and synced, as the system
//! keeps the file for as long as it is open; the next start would miss it. So the writer goes on in
//! another file, and nothing new is let in until checkpoints have made needless what was lost.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use super::{WalError, engine::Engine, segment::Segment};

impl Engine {
    /// Looks for the files of the log, and leaves the one that is written to if any is gone. Tells
    /// whether segments are missing that are still needed.
    pub(super) fn look_for_files(&self) -> Result<bool, WalError> {
        let before: Vec<_> = self.segments.read().iter().cloned().collect();
        let Some(there) = self.list() else {
            return Ok(false);
        };
        self.space.drop_missing(&there);
        let suspects = before.iter().filter(|s| !there.contains(&s.path));
        let missing: Vec<_> = suspects.filter(|s| self.is_missing(s)).collect();
        let Some(first) = missing.first() else {
            self.space.set_missing(None);
            if self.space.trouble().is_some() {
                // What could not be used again may be by now.
                self.space.request_recycling();
            }
            return Ok(false);
        };
        let is_news = self.space.set_missing(Some(first.path.as_path()));
        if is_news {
            for segment in &missing {
                tracing::error!(path = %segment.path.display(),
                    "a segment of the write-ahead log is gone; checkpoints are taken to do \
                     without it, and until then no records");
            }
            self.leave_segment()?;
        }
        Ok(true)
    }

    /// The files in the directory, which is made again if it is gone; `None` if that is not known.
    fn list(&self) -> Option<BTreeSet<PathBuf>> {
        let (disk, dir) = (self.space.disk(), &self.options.dir);
        match disk.list(dir) {
            Ok(entries) => Some(entries.into_iter().map(|entry| entry.path).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.create_dir_all(dir).ok().map(|()| BTreeSet::new())
            }
            Err(error) => {
                tracing::warn!(%error, dir = %dir.display(), "cannot look for the files of the \
                    write-ahead log");
                None
            }
        }
    }

    /// Whether a segment that is part of the log has no file. One that is not needed any more
    /// leaves the log first, and then its name.
    fn is_missing(&self, segment: &Arc<Segment>) -> bool {
        let opened = self.space.disk().open(&segment.path);
        let is_gone = opened.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let segments = self.segments.read();
        is_gone && segments.iter().any(|known| Arc::ptr_eq(known, segment))
    }
}
