//! The room on the disk: files made and filled ahead of the writer, recycled behind it, and set
//! aside for what is about to be proposed.
//!
//! A file on its way is first a *spare* (allocated, so that writing to it cannot fail for lack of
//! space), then a *standby*: one of the next segments, complete with header and name. The writer
//! takes the first standby, and waits for the disk only if there is none. Spares are zero-filled while there is nothing
//! better to do: a write into blocks that were never written makes the next sync slow, and one
//! into pages that were never touched makes the write slow.

mod gone;
mod recycle;

use std::{collections::VecDeque, io, path::PathBuf, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    WalError, WalOptions,
    record::{RECORD_HEADER_BYTES, record_bytes},
    segment::{
        AtomicPosition, Position, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, segment_path,
        spare_path,
    },
};
use crate::{
    disk::{Disk, File, is_full},
    executor::Bell,
};

/// How long to wait before another try to make a segment on a full disk.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Zeros written at a time: few, so that the writer never waits long for a file being filled.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];
/// Files kept ahead of the writer, standbys included.
const AHEAD: usize = 2;
/// Standbys made of the spares there are: making one waits for two syncs, which take as long as
/// several segments need to fill while the disk is busy.
const STANDBYS_MAX: usize = 4;
/// Segments of room that no entry gets, so that votes and purges always find some. A small command
/// may take half of it.
const KEPT_BACK: u64 = 1;

/// What room is set aside for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// What is about to be proposed, and may be refused.
    New,
    /// The same, but small, and maybe what makes room: it may take some of what is kept back.
    Command,
    /// What a leader elsewhere has taken in: it has to come here some day.
    Decided,
}

/// A file that is not yet part of the log.
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    /// Up to here it is known to have been written to.
    pub(super) filled: u64,
}

/// The files that are not part of the log, and the room promised to those who reserved it.
pub(super) struct Space {
    disk: Arc<dyn Disk>,
    options: WalOptions,
    /// How far the log was written.
    head: AtomicPosition,
    state: Mutex<SpaceState>,
    /// Wakes the thread that prepares files.
    pub(super) work: Bell,
    /// Wakes a writer that waits for a segment.
    ready: Condvar,
}

struct SpaceState {
    standbys: VecDeque<Arc<Segment>>,
    spares: Vec<Spare>,
    /// Files that were segments, and may be again after a crash: they are removed.
    doubtful: Vec<PathBuf>,
    /// Spares that a thread has in hand, to fill them or to make them into a segment: no disk is
    /// waited for under the lock, which every reservation takes.
    in_hand: u64,
    /// Whether a thread is making a standby.
    preparing: bool,
    /// Files in all: the log's, the standbys, the spares, and the doubtful.
    files: u64,
    sequence_next: u64,
    spare_next: u64,
    /// What the states at the beginning of a segment take.
    opening_bytes: u64,
    reserved: u64,
    /// The largest record so far: as much may be left over at the end of each segment.
    record_bytes_largest: u64,
    /// Something new was refused for want of room, and nothing was taken or recycled since.
    is_full: bool,
    /// Why no file could be made.
    error: Option<Arc<str>>,
    /// A segment in use whose file is gone.
    missing: Option<PathBuf>,
    /// A segment that cannot be used again, and why.
    stuck: Option<(PathBuf, Arc<str>)>,
    recycle: bool,
    /// Nobody waits for room any more.
    closing: bool,
    stopped: bool,
}

/// What comes of one step of the preparing thread.
pub(super) enum Step {
    /// There is more to do.
    Again,
    /// There is nothing to do until the bell rings.
    Wait,
    /// The same, but to try again after this time.
    WaitFor(Duration),
    /// There is something that only the caller can do.
    Task(Task),
}

/// What the preparing thread should do next.
pub(super) enum Task {
    /// See which segments are no longer needed, and hand them to [`Space::recycle`].
    Recycle,
    Stop,
}

impl Space {
    /// `files` are those of the log; `head` is where writing goes on.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        standbys: VecDeque<Arc<Segment>>,
        spares: Vec<Spare>,
        spare_next: u64,
        files: u64,
        head: Position,
    ) -> Self {
        let state = SpaceState {
            files: files + (standbys.len() + spares.len()) as u64,
            sequence_next: head.sequence() + 1 + standbys.len() as u64,
            standbys,
            spares,
            doubtful: Vec::new(),
            in_hand: 0,
            preparing: false,
            spare_next,
            opening_bytes: 0,
            reserved: 0,
            record_bytes_largest: RECORD_HEADER_BYTES as u64,
            is_full: false,
            error: None,
            missing: None,
            stuck: None,
            recycle: false,
            closing: false,
            stopped: false,
        };
        Self {
            disk,
            options,
            head: AtomicPosition::new(head),
            state: Mutex::new(state),
            work: Bell::default(),
            ready: Condvar::new(),
        }
    }

    /// Sets room aside for entries with so many bytes of payload each, and returns what to give
    /// back. The log grows beyond its bound only for what is [`Claim::Decided`].
    pub(super) fn reserve(
        &self,
        payloads: &[u64],
        oldest: u64,
        claim: Claim,
    ) -> Result<u64, WalError> {
        let largest = payloads.iter().copied().max().unwrap_or(0);
        let bytes_max = self.options.entry_bytes_max();
        if largest > bytes_max {
            return Err(WalError::TooLarge {
                bytes: largest,
                bytes_max,
            });
        }
        let cost: u64 = payloads.iter().map(|bytes| record_bytes(*bytes)).sum();
        let mut state = self.state.lock();
        if claim == Claim::New
            && let Some(trouble) = state.trouble()
        {
            return Err(trouble);
        }
        state.record_bytes_largest = state.record_bytes_largest.max(record_bytes(largest));
        while state.reserved + cost > self.free(&state, claim) {
            if state.files >= self.files_max() {
                state.recycle = true;
                self.work.ring();
                if claim != Claim::Decided {
                    state.is_full |= claim == Claim::New;
                    return Err(self.full(oldest));
                }
            }
            // The thread that prepares files is behind; allocating one takes about a millisecond.
            if let Err(error) = self.make_spare(&mut state) {
                let reason = state.error.insert(error.to_string().into()).clone();
                self.work.ring();
                return Err(self.no_space(reason));
            }
        }
        state.is_full &= claim != Claim::New;
        state.reserved += cost;
        Ok(cost)
    }

    fn no_space(&self, reason: Arc<str>) -> WalError {
        WalError::NoSpace {
            dir: self.options.dir.clone(),
            reason,
        }
    }

    /// Why no file can be made at present, if so.
    pub(super) fn trouble(&self) -> Option<WalError> {
        let state = self.state.lock();
        let no_space = || state.error.clone().map(|reason| self.no_space(reason));
        state.trouble().or_else(no_space)
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(super) fn give_back(&self, cost: u64) {
        self.state.lock().reserved -= cost;
    }

    fn full(&self, oldest: u64) -> WalError {
        let head = self.head.get();
        WalError::Full {
            bytes: (head.sequence() - oldest) * self.options.segment_bytes + head.offset(),
            bytes_max: self.options.bytes_max,
        }
    }

    fn files_max(&self) -> u64 {
        self.options.bytes_max / self.options.segment_bytes
    }

    /// The room for reserved records in the files that are there.
    fn free(&self, state: &SpaceState, claim: Claim) -> u64 {
        // Each segment ends with a seal, and with what the first record that did not fit left over.
        let lost = record_bytes(0) + state.record_bytes_largest;
        let segment = self.options.segment_bytes;
        let whole = segment.saturating_sub(SEGMENT_HEADER_BYTES + state.opening_bytes + lost);
        let ahead = (state.spares.len() + state.standbys.len()) as u64 + state.in_hand;
        let rest = segment.saturating_sub(self.head.get().offset() + lost);
        let kept_back = whole * KEPT_BACK / if claim == Claim::Command { 2 } else { 1 };
        rest + (whole * ahead).saturating_sub(kept_back)
    }

    /// Whether the last that was new got no room, and none was made since.
    pub(super) fn is_full(&self) -> bool {
        self.state.lock().is_full
    }

    /// Tells what the states at the beginning of a segment will take.
    pub(super) fn set_opening_bytes(&self, bytes: u64) {
        self.state.lock().opening_bytes = bytes;
    }

    /// Tells how far the log was written.
    pub(super) fn advance(&self, head: Position) {
        self.head.raise(head);
    }

    /// Takes the next segment. Makes it, if there is none ready; waits, while the disk is full.
    pub(super) fn take_standby(&self, opening_bytes: u64) -> Result<Arc<Segment>, WalError> {
        let mut state = self.state.lock();
        state.opening_bytes = opening_bytes;
        loop {
            // Beyond `bytes_max` if need be: the purge that makes room needs room itself.
            let prepared = if state.standbys.is_empty() {
                self.prepare_standby(&mut state)
            } else {
                Ok(())
            };
            if let Some(segment) = state.standbys.pop_front() {
                state.recycle = true;
                self.work.ring();
                return Ok(segment);
            }
            match prepared {
                Err(error) if !is_full(&error) => {
                    return Err(WalError::failed(
                        "make a segment in",
                        &self.options.dir,
                        &error,
                    ));
                }
                _ if state.closing => return Err(WalError::Closed),
                // Nobody could make room while the only thread waits for it.
                #[cfg(feature = "simulation")]
                Err(error) if crate::executor::simulation::is_on() => {
                    let dir = &self.options.dir;
                    return Err(WalError::failed("make a segment in", dir, &error));
                }
                Err(error) => {
                    if state.error.is_none() {
                        tracing::error!(%error, dir = %self.options.dir.display(),
                            "writes wait for room for another write-ahead log segment");
                    }
                    state.error = Some(error.to_string().into());
                    self.ready.wait_for(&mut state, RETRY_INTERVAL);
                }
                Ok(()) => {}
            }
        }
    }

    /// Runs on the thread that prepares files: does what is to be done, and returns when there is
    /// something that only the caller can do.
    pub(super) fn prepare(&self) -> Task {
        let mut state = self.state.lock();
        loop {
            match self.step(&mut state) {
                Step::Again => {}
                Step::Wait => self.work.wait(&mut state),
                Step::WaitFor(time) => {
                    self.work.wait_for(&mut state, time);
                }
                Step::Task(task) => return task,
            }
        }
    }

    /// The same, step by step.
    #[cfg(feature = "simulation")]
    pub(super) fn prepare_step(&self) -> Step {
        self.step(&mut self.state.lock())
    }

    fn step(&self, state: &mut MutexGuard<'_, SpaceState>) -> Step {
        if state.stopped {
            return Step::Task(Task::Stop);
        }
        if std::mem::take(&mut state.recycle) {
            return Step::Task(Task::Recycle);
        }
        match self.prepare_one(state) {
            Ok(true) => {
                state.error = None;
                self.ready.notify_all();
                Step::Again
            }
            Ok(false) => {
                state.error = None;
                if state.stuck.is_none() {
                    return Step::Wait;
                }
                state.recycle = true;
                Step::WaitFor(RETRY_INTERVAL)
            }
            Err(error) => {
                let text: Arc<str> = error.to_string().into();
                if state.error.as_ref() != Some(&text) {
                    tracing::warn!(%error, dir = %self.options.dir.display(),
                        "cannot prepare a write-ahead log segment; trying again each second");
                }
                state.error = Some(text);
                state.recycle |= state.stuck.is_some();
                Step::WaitFor(RETRY_INTERVAL)
            }
        }
    }

    /// One step of preparation; false if there is nothing to do.
    fn prepare_one(&self, state: &mut MutexGuard<'_, SpaceState>) -> io::Result<bool> {
        let room = state.files < self.files_max();
        let filled = |spare: &Spare| spare.filled == self.options.segment_bytes;
        let wanted = match state.spares.last() {
            _ if state.standbys.len() >= STANDBYS_MAX => false,
            Some(spare) => state.standbys.is_empty() || filled(spare),
            None => state.standbys.is_empty() && room,
        };
        if wanted {
            self.prepare_standby(state)?;
            return Ok(true);
        }
        if state.standbys.len() + state.spares.len() < AHEAD && room {
            self.make_spare(state)?;
            return Ok(true);
        }
        self.fill_one(state)
    }

    /// Makes a standby, or waits for the one that another thread is making.
    fn prepare_standby(&self, state: &mut MutexGuard<'_, SpaceState>) -> io::Result<()> {
        if state.preparing || (state.spares.is_empty() && state.in_hand > 0) {
            self.ready.wait(state);
            return Ok(());
        }
        state.preparing = true;
        let result = self.make_standby(state);
        state.preparing = false;
        self.ready.notify_all();
        result
    }

    fn make_standby(&self, state: &mut MutexGuard<'_, SpaceState>) -> io::Result<()> {
        if state.spares.is_empty() {
            self.make_spare(state)?;
        }
        // The one that was used last: its pages are the likeliest to be still in memory.
        let Some(spare) = state.spares.pop() else {
            return Ok(());
        };
        state.in_hand += 1;
        let sequence = state.sequence_next;
        let made = MutexGuard::unlocked(state, || {
            make_segment(&*self.disk, &self.options, &spare, sequence)
        });
        state.in_hand -= 1;
        match made {
            Ok(segment) => {
                state.sequence_next += 1;
                state.standbys.push_back(Arc::new(segment));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(path = %spare.path.display(),
                    "a file that was prepared for the write-ahead log is gone");
                state.files -= 1;
                // With the directory nothing can be made; else another one takes its place.
                self.disk.list(&self.options.dir).map(drop)
            }
            Err(error) => {
                if is_full(&error) {
                    state.spares.push(spare);
                } else {
                    // After a failed sync the file may hold anything: it is not tried again.
                    drop(self.disk.remove_file(&spare.path));
                    state.files -= 1;
                }
                Err(error)
            }
        }
    }

    fn make_spare(&self, state: &mut MutexGuard<'_, SpaceState>) -> io::Result<()> {
        let number = state.spare_next;
        state.spare_next += 1;
        state.files += 1;
        let made = MutexGuard::unlocked(state, || create_spare(&*self.disk, &self.options, number));
        match made {
            // In front: those that are filled are used first.
            Ok(spare) => state.spares.insert(0, spare),
            Err(error) => {
                state.files -= 1;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Fills a piece of a spare.
    fn fill_one(&self, state: &mut MutexGuard<'_, SpaceState>) -> io::Result<bool> {
        let len = self.options.segment_bytes;
        let Some(at) = state.spares.iter().rposition(|spare| spare.filled < len) else {
            return Ok(false);
        };
        let mut spare = state.spares.remove(at);
        state.in_hand += 1;
        let result = MutexGuard::unlocked(state, || {
            let count = (ZEROS.len() as u64).min(len - spare.filled);
            spare
                .file
                .write_all_at(&ZEROS[..count as usize], spare.filled)?;
            spare.filled += count;
            if spare.filled == len {
                spare.file.sync_data()?;
            }
            Ok(true)
        });
        if result.is_err() {
            // Filling is a matter of speed; what is wrong with the disk shows elsewhere.
            spare.filled = len;
        }
        state.in_hand -= 1;
        let at = at.min(state.spares.len());
        state.spares.insert(at, spare);
        self.ready.notify_all();
        result
    }

    /// Tells a writer not to wait for room any longer.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.ready.notify_all();
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.work.ring_for_all();
        self.ready.notify_all();
    }
}

/// Creates a file of a segment's size.
pub(super) fn create_spare(
    disk: &dyn Disk,
    options: &WalOptions,
    number: u64,
) -> io::Result<Spare> {
    let path = spare_path(&options.dir, number);
    let file = disk.create(&path)?;
    if let Err(error) = file.allocate(options.segment_bytes) {
        // Gives back what it could allocate.
        drop(disk.remove_file(&path));
        return Err(error);
    }
    Ok(Spare {
        path,
        file,
        filled: 0,
    })
}

/// Makes a spare into a segment: header, sync, name. Whoever sees the name sees a whole header.
pub(super) fn make_segment(
    disk: &dyn Disk,
    options: &WalOptions,
    spare: &Spare,
    sequence: u64,
) -> io::Result<Segment> {
    let header = SegmentHeader {
        sequence,
        tag: rand::random(),
        len: options.segment_bytes,
    };
    spare.file.write_all_at(&header.to_bytes(), 0)?;
    spare.file.sync_data()?;
    let path = segment_path(&options.dir, sequence);
    disk.rename(&spare.path, &path)?;
    disk.sync_dir(&options.dir)?;
    Ok(Segment::new(header, path, Arc::clone(&spare.file)))
}
