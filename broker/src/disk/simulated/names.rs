//! The names of a simulated disk, and changes of them that a crash may undo.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::super::parent_of;

/// A file, whatever its name.
pub(super) type NodeId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Dir,
    File(NodeId),
}

/// A change of names that is not yet durable.
#[derive(Debug)]
pub(super) enum NameChange {
    Set(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    pub(super) fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Set(path, _) | Self::Remove(path) => parent_of(path) == dir,
            Self::Rename(from, to) => parent_of(from) == dir || parent_of(to) == dir,
        }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
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
