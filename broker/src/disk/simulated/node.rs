//! The contents of a simulated file: as a process sees them, as they would be after a crash, and
//! what lies between.

use rand::{RngExt, rngs::StdRng};

use super::CrashKeep;

/// The unit a torn write tears into: a drive writes a sector whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// A change of a file's contents that is not yet durable.
#[derive(Debug)]
pub(super) enum DataChange {
    Write(u64, Vec<u8>),
    Resize(u64),
}

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) current: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<DataChange>,
    /// Whether something was written that no sync makes durable any more.
    is_spoilt: bool,
}

impl Node {
    pub(super) fn change(&mut self, change: DataChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync that failed: what it should have made durable never will be.
    pub(super) fn fail_sync(&mut self) {
        self.is_spoilt |= !self.pending.is_empty();
        self.pending.clear();
    }

    pub(super) fn crash(&mut self, keep: CrashKeep, rng: &mut StdRng) {
        let all_is_kept = self.pending.is_empty() || keep == CrashKeep::Everything;
        for change in std::mem::take(&mut self.pending) {
            match keep {
                CrashKeep::Nothing => {}
                CrashKeep::Everything => change.apply(&mut self.durable),
                CrashKeep::Random(_) => match rng.random_range(0..3) {
                    0 => {}
                    1 => change.apply(&mut self.durable),
                    _ => change.apply_torn(&mut self.durable, rng),
                },
            }
        }
        // Copying whole files for nothing took a good part of the time of a run.
        if self.is_spoilt || !all_is_kept {
            self.current.clone_from(&self.durable);
            self.is_spoilt = false;
        }
    }
}

impl DataChange {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => write_into(contents, *offset, bytes),
            // Zeros that are allocated so cost nothing until they are written.
            Self::Resize(len) if contents.is_empty() => *contents = vec![0; *len as usize],
            Self::Resize(len) => contents.resize(*len as usize, 0),
        }
    }

    /// Applies a random choice of the sectors.
    fn apply_torn(&self, contents: &mut Vec<u8>, rng: &mut StdRng) {
        let Self::Write(offset, bytes) = self else {
            return self.apply(contents);
        };
        let (mut at, end) = (*offset, offset + bytes.len() as u64);
        while at < end {
            let next = end.min((at / SECTOR_BYTES + 1) * SECTOR_BYTES);
            if rng.random() {
                let sector = &bytes[(at - offset) as usize..(next - offset) as usize];
                write_into(contents, at, sector);
            }
            at = next;
        }
    }
}

fn write_into(contents: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[start..end].copy_from_slice(bytes);
}
