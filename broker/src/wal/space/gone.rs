//! Files that somebody has removed, though the log uses them or was about to.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use super::{Space, SpaceState};
use crate::wal::WalError;

impl Space {
    /// Takes note of a segment in use whose file is gone, or that there is none; true if that one
    /// is news.
    pub(in crate::wal) fn set_missing(&self, path: Option<&Path>) -> bool {
        let missing = path.map(Path::to_owned);
        let before = std::mem::replace(&mut self.state.lock().missing, missing.clone());
        missing.is_some() && before != missing
    }

    /// Forgets the files ahead of the writer that are gone. A standby takes those behind it along:
    /// their numbers must follow each other.
    pub(in crate::wal) fn drop_missing(&self, there: &BTreeSet<PathBuf>) {
        let mut state = self.state.lock();
        // A file in hand has a name that changes.
        if state.preparing || state.in_hand > 0 {
            return;
        }
        let is_gone = |path: &PathBuf| {
            let is_gone = || {
                let opened = self.disk.open(path);
                opened.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            };
            let is_gone = !there.contains(path) && is_gone();
            if is_gone {
                tracing::warn!(path = %path.display(),
                    "a file that was prepared for the write-ahead log is gone");
            }
            is_gone
        };
        let before = state.spares.len();
        state.spares.retain(|spare| !is_gone(&spare.path));
        state.files -= (before - state.spares.len()) as u64;
        if let Some(at) = state.standbys.iter().position(|next| is_gone(&next.path)) {
            for standby in state.standbys.split_off(at) {
                drop(self.disk.remove_file(&standby.path));
                state.files -= 1;
                state.sequence_next -= 1;
            }
        }
        drop(state);
        self.work.ring();
    }
}

impl SpaceState {
    /// What is wrong with the files of the log, if anything is.
    pub(super) fn trouble(&self) -> Option<WalError> {
        let gone = self.missing.clone().map(|path| WalError::Gone { path });
        let stuck = || self.stuck.clone();
        gone.or_else(|| stuck().map(|(path, reason)| WalError::Stuck { path, reason }))
    }
}
