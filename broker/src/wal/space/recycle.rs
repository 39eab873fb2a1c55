//! Segments that nothing needs any more are used again.

use std::{io, path::PathBuf, sync::Arc};

use super::{Space, Spare};
use crate::wal::segment::{Segment, spare_path};

impl Space {
    /// Asks the preparing thread to look for segments that are no longer needed.
    pub(in crate::wal) fn request_recycling(&self) {
        self.state.lock().recycle = true;
        self.work.ring();
    }

    /// Makes segments that are no longer needed, oldest first, into spares. Returns those that the
    /// disk does not let be used again, which stay part of the log.
    pub(in crate::wal) fn recycle<'a>(&self, segments: &'a [Arc<Segment>]) -> &'a [Arc<Segment>] {
        let mut stuck = self.remove_doubtful();
        if segments.is_empty() {
            self.note_stuck(stuck);
            return &[];
        }
        let first_number = {
            let mut state = self.state.lock();
            let first = state.spare_next;
            state.spare_next += segments.len() as u64;
            first
        };
        let mut spares = Vec::new();
        let mut done = 0;
        for (number, segment) in (first_number..).zip(segments) {
            match self.recycle_one(segment, number, spares.len()) {
                Ok(spare) => spares.extend(spare),
                Err(error) => {
                    stuck = Some((segment.path.clone(), error));
                    break;
                }
            }
            done += 1;
        }
        // Before a spare's header is overwritten, its old name must be gone for good.
        match self.disk.sync_dir(&self.options.dir) {
            Ok(()) => self.state.lock().spares.append(&mut spares),
            Err(error) => {
                tracing::warn!(%error, dir = %self.options.dir.display(),
                    "write-ahead log segments cannot be used again, and are replaced by new ones");
                let doubtful = spares.into_iter().map(|spare| spare.path);
                self.state.lock().doubtful.extend(doubtful);
                stuck = stuck.or_else(|| self.remove_doubtful());
            }
        }
        self.note_stuck(stuck);
        self.state.lock().is_full &= done == 0;
        self.ready.notify_all();
        &segments[done..]
    }

    /// Removes the files whose old names a crash may bring back: with what was in them that does no
    /// harm. Their room comes back in other files. Returns one that cannot be removed, if any.
    fn remove_doubtful(&self) -> Option<(PathBuf, io::Error)> {
        let doubtful = std::mem::take(&mut self.state.lock().doubtful);
        let mut stuck = None;
        for path in doubtful {
            match self.disk.remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.state.lock().doubtful.push(path.clone());
                    stuck = Some((path, error));
                }
                _ => self.state.lock().files -= 1,
            }
        }
        stuck
    }

    fn note_stuck(&self, stuck: Option<(PathBuf, io::Error)>) {
        let stuck = stuck.map(|(path, error)| (path, Arc::from(error.to_string())));
        let mut state = self.state.lock();
        if let Some((path, reason)) = stuck.as_ref().filter(|_| stuck != state.stuck) {
            tracing::error!(path = %path.display(), %reason,
                "cannot use a write-ahead log segment again");
        }
        state.stuck = stuck;
    }

    /// Makes a segment into a spare, if it is one that is wanted.
    fn recycle_one(
        &self,
        segment: &Segment,
        number: u64,
        recycled: usize,
    ) -> io::Result<Option<Spare>> {
        let surplus = self.state.lock().files - recycled as u64 > self.files_max();
        let path = spare_path(&self.options.dir, number);
        let is_wanted = segment.len == self.options.segment_bytes && !surplus;
        let done = if is_wanted {
            self.disk.rename(&segment.path, &path)
        } else {
            self.disk.remove_file(&segment.path)
        };
        let is_gone = matches!(&done, Err(error) if error.kind() == io::ErrorKind::NotFound);
        if is_gone {
            tracing::warn!(path = %segment.path.display(),
                "a write-ahead log segment that nothing needs any more was gone");
        } else {
            done?;
        }
        if is_gone || !is_wanted {
            self.state.lock().files -= 1;
            return Ok(None);
        }
        Ok(Some(Spare {
            path,
            file: Arc::clone(&segment.file),
            filled: segment.len,
        }))
    }
}
