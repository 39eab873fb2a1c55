//! An open file of a simulated disk.

use std::{fmt, io, io::IoSlice, thread};

use super::{DataChange, File, NodeId, SimulatedDisk, count_down, crashed};

pub(super) struct SimulatedFile {
    pub(super) disk: SimulatedDisk,
    pub(super) node: NodeId,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimulatedFile({})", self.node)
    }
}

impl SimulatedFile {
    fn resize(&self, len: u64, only_grow: bool) -> io::Result<()> {
        self.disk.change(|state| {
            let present = state.nodes[&self.node].current.len() as u64;
            if only_grow && len <= present {
                return Ok(());
            }
            if only_grow {
                state.check_room(len - present)?;
            }
            let node = state.node(self.node)?;
            node.change(DataChange::Resize(len));
            Ok(())
        })
    }
}

impl File for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.with(|state| {
            let contents = &state.node(self.node)?.current;
            let start = contents.len().min(offset as usize);
            let count = buffer.len().min(contents.len() - start);
            buffer[..count].copy_from_slice(&contents[start..start + count]);
            Ok(count)
        })
    }

    fn read_onto(&self, buffer: &mut Vec<u8>, bytes_max: usize, offset: u64) -> io::Result<usize> {
        self.disk.with(|state| {
            let contents = &state.node(self.node)?.current;
            let start = contents.len().min(offset as usize);
            let count = bytes_max.min(contents.len() - start);
            buffer.extend_from_slice(&contents[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        for slice in slices.iter() {
            bytes.extend_from_slice(slice);
        }
        self.disk.with(|state| {
            let crash = state.count_operation();
            let present = state.node(self.node)?.current.len() as u64;
            state.check_room((offset + bytes.len() as u64).saturating_sub(present))?;
            let fails = count_down(&mut state.faults.fail_write_in);
            if fails {
                bytes.truncate(bytes.len() / 2);
            }
            let node = state.node(self.node)?;
            node.change(DataChange::Write(offset, bytes));
            if crash {
                Err(crashed())
            } else if fails {
                Err(io::Error::other("the simulated disk fails this write"))
            } else {
                Ok(())
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let delay = self.disk.with(|state| Ok(state.faults.sync_delay))?;
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        self.disk.change(|state| {
            let fails = count_down(&mut state.faults.fail_sync_in);
            let node = state.node(self.node)?;
            if fails {
                node.fail_sync();
                return Err(io::Error::other("the simulated disk fails this sync"));
            }
            node.sync();
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.resize(len, false)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.resize(len, true)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk
            .with(|state| Ok(state.node(self.node)?.current.len() as u64))
    }
}
