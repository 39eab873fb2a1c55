//! Writing past the page cache (`O_DIRECT`).
//!
//! The page cache costs a copy into pages that often were never touched before, and pushes out
//! what readers want. A write past it must begin and end at whole blocks, in the file and in
//! memory. What happens to lie so is written from where it is; what lies between is copied to
//! where it does; and what is left over on either side goes through the page cache as ever.

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

use rustix::{
    fs::OFlags,
    io::{pwritev, retry_on_intr},
};

use super::BLOCK_BYTES as BLOCK;

/// Bytes that are copied together and written at once.
const STAGING_BYTES: usize = 1024 * 1024;
/// Below this, a copy costs less than one more slice of a write.
const UNCOPIED_BYTES_MIN: usize = 16 * 1024;
/// Slices that one write takes.
const SLICES_MAX: usize = 256;
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
            at += source.write_blocks(direct, at)?;
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
        let mut source = Self {
            slices,
            taken: 0,
            left,
        };
        source.skip(0);
        source
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

    /// Writes as many whole blocks as there is room to copy what must be copied.
    fn write_blocks(&mut self, to: &fs::File, at: u64) -> io::Result<u64> {
        STAGING.with_borrow_mut(|staging| {
            let mut staging = staging.get();
            let mut slices = Vec::new();
            let mut count = 0;
            while slices.len() < SLICES_MAX && self.left >= BLOCK {
                let whole = self.left / BLOCK * BLOCK;
                let to_copy = self.before_aligned().min(whole).min(staging.len());
                let slice = if to_copy > 0 {
                    let (copy, unused) = staging.split_at_mut(to_copy);
                    staging = unused;
                    self.copy_to(copy);
                    copy
                } else if let Some(aligned) = self.take_aligned() {
                    aligned
                } else {
                    break;
                };
                count += slice.len() as u64;
                slices.push(IoSlice::new(slice));
            }
            write_all(to, &mut slices, at)?;
            Ok(count)
        })
    }

    /// Bytes in front of the next ones that need not be copied; the end is at the boundary of a
    /// block.
    fn before_aligned(&self) -> usize {
        let mut before = 0;
        let mut taken = self.taken;
        for slice in self.slices {
            let rest = &slice[taken..];
            taken = 0;
            let into_block = before % BLOCK;
            let to_boundary = (BLOCK - into_block) % BLOCK;
            let lies_so = rest.as_ptr().addr() % BLOCK == into_block;
            if lies_so && rest.len() >= to_boundary + UNCOPIED_BYTES_MIN {
                return before + to_boundary;
            }
            before += rest.len();
        }
        usize::MAX
    }

    /// The whole blocks at the front that lie at the boundary of one in memory, too.
    fn take_aligned(&mut self) -> Option<&'a [u8]> {
        let rest = &self.slices.first()?[self.taken..];
        let count = rest.len() / BLOCK * BLOCK;
        if count == 0 || rest.as_ptr().addr() % BLOCK != 0 {
            return None;
        }
        self.skip(count);
        Some(&rest[..count])
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
            self.skip(count);
        }
    }

    /// Moves on within the first slice, or to the next one that is not empty.
    fn skip(&mut self, count: usize) {
        self.taken += count;
        self.left -= count;
        while let [first, others @ ..] = self.slices
            && first.len() == self.taken
        {
            self.slices = others;
            self.taken = 0;
        }
    }
}

fn write_all(to: &fs::File, mut slices: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    while !slices.is_empty() {
        let written = retry_on_intr(|| pwritev(to, slices, at))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
        at += written as u64;
    }
    Ok(())
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
