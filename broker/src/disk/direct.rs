//! Writing past the page cache (`O_DIRECT`).
//!
//! The page cache costs a copy into pages that often were never touched before, and pushes out
//! what readers want. A write past it must begin and end at whole blocks, in the file and in
//! memory: what is left over on either side goes through the page cache as ever.

use std::{
    cell::RefCell,
    fs,
    io::{self, IoSlice},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    sync::OnceLock,
};

use rustix::fs::OFlags;

/// What positions, lengths and memory must be a multiple of. Disks ask for 512 or 4,096.
const BLOCK: usize = 4096;
/// Bytes that are copied together and written at once.
const STAGING_BYTES: usize = 1024 * 1024;
/// Below this, the page cache is as fast, and one more open file is not worth it.
const DIRECT_BYTES_MIN: usize = 256 * 1024;

/// A second handle of a file, opened when it is first needed.
#[derive(Debug, Default)]
pub(super) struct DirectHandle(OnceLock<Option<fs::File>>);

impl DirectHandle {
    /// Writes `slices` at `offset` and returns true, or false if that is not for this handle: the
    /// write is small, or the file system cannot do it.
    pub(super) fn write(
        &self,
        file: &fs::File,
        slices: &[IoSlice<'_>],
        offset: u64,
    ) -> io::Result<bool> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if len < DIRECT_BYTES_MIN {
            return Ok(false);
        }
        let Some(direct) = self.0.get_or_init(|| open_direct(file)) else {
            return Ok(false);
        };
        let mut source = Source::new(slices, len);
        let mut at = offset;
        let into_block = (offset % BLOCK as u64) as usize;
        if into_block > 0 {
            at += source.write_next(BLOCK - into_block, file, at)?;
        }
        while source.left >= BLOCK {
            let count = source.left.min(STAGING_BYTES) / BLOCK * BLOCK;
            at += source.write_next(count, direct, at)?;
        }
        if source.left > 0 {
            source.write_next(source.left, file, at)?;
        }
        Ok(true)
    }
}

/// The same file once more: by its descriptor, since its name may have changed.
fn open_direct(file: &fs::File) -> Option<fs::File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut options = fs::OpenOptions::new();
    options
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32);
    let opened = options.open(path);
    opened
        .inspect_err(|error| tracing::debug!(%error, "large writes go through the page cache"))
        .ok()
}

/// What is left to write.
struct Source<'a> {
    slices: &'a [IoSlice<'a>],
    /// Bytes of the first slice that are written.
    taken: usize,
    left: usize,
}

impl<'a> Source<'a> {
    fn new(slices: &'a [IoSlice<'a>], left: usize) -> Self {
        Self {
            slices,
            taken: 0,
            left,
        }
    }

    /// Writes the next `count` bytes, at most [`STAGING_BYTES`].
    fn write_next(&mut self, count: usize, to: &fs::File, at: u64) -> io::Result<u64> {
        STAGING.with_borrow_mut(|staging| {
            let staging = &mut staging.get()[..count];
            self.copy_to(staging);
            to.write_all_at(staging, at)
        })?;
        Ok(count as u64)
    }

    fn copy_to(&mut self, mut out: &mut [u8]) {
        while let Some(slice) = self.slices.first()
            && !out.is_empty()
        {
            let rest = &slice[self.taken..];
            let count = rest.len().min(out.len());
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&rest[..count]);
            out = later;
            self.taken += count;
            self.left -= count;
            if self.taken == slice.len() {
                self.slices = &self.slices[1..];
                self.taken = 0;
            }
        }
    }
}

thread_local! {
    static STAGING: RefCell<Staging> = const { RefCell::new(Staging(Vec::new())) };
}

/// Memory that begins at a block's boundary; one for each thread that writes.
struct Staging(Vec<u8>);

impl Staging {
    fn get(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; STAGING_BYTES + BLOCK];
        }
        let start = self.0.as_ptr().align_offset(BLOCK);
        &mut self.0[start..start + STAGING_BYTES]
    }
}
