//! Opening a log whose files may be damaged, to keep what is whole of it.
//!
//! What lies behind the first damage is not thrown away: its files are set aside under other names
//! until whoever salvages has got the records from elsewhere.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use flumen_protocol::{
    ids::{Offset, PartitionId},
    topic::Cleanup,
};
use tokio_util::sync::CancellationToken;

use super::{
    LogCheckpoint, LogOptions, LogStore, OpenError, PartitionLog, ReadError, SegmentCheckpoint,
    names::{SegmentKey, parse_set_aside, set_aside_path, topic_dir},
    recover::removed_to,
    scan::Scan,
    segment::Segment,
    store::StoreShared,
};

impl LogStore {
    /// Opens what is whole of a partition's log that `checkpoint` describes: it ends where the
    /// first batch is missing or damaged. Reads all of it, and blocks.
    ///
    /// # Errors
    /// When files cannot be read or renamed, or nobody waits for it any more.
    pub fn salvage(
        &self,
        id: PartitionId,
        options: LogOptions,
        checkpoint: &LogCheckpoint,
        cancelled: &CancellationToken,
    ) -> Result<PartitionLog, OpenError> {
        let removed_to = removed_to(&self.found(id), checkpoint);
        let mut whole = checkpoint.clone();
        let mut first = None;
        for (at, promised) in checkpoint.segments.iter().enumerate() {
            if promised.end_offset > removed_to && self.is_damaged(id, promised, cancelled)? {
                first = Some(at);
                break;
            }
        }
        if let Some(first) = first {
            // Elsewhere compaction may have gone further: a key that is deleted there, with its
            // tombstone gone, must not live on here in what lies before the damage.
            let first = match options.cleanup {
                Cleanup::Compact => 0,
                Cleanup::Delete => first,
            };
            for aside in &checkpoint.segments[first..] {
                set_aside(self.shared(), SegmentKey::of(id, aside))?;
            }
            whole.segments.truncate(first);
            let last = whole.segments.last();
            whole.end_offset = last.map_or(Offset(0), |last| last.end_offset);
            whole.end_offset = whole.end_offset.max(whole.start_offset);
            whole.compacted_to = whole.compacted_to.min(whole.end_offset);
        }
        self.open_partition(id, options, &whole)
    }

    fn is_damaged(
        &self,
        id: PartitionId,
        promised: &SegmentCheckpoint,
        cancelled: &CancellationToken,
    ) -> Result<bool, OpenError> {
        let key = SegmentKey::of(id, promised);
        let verified = verify(self.shared(), key, promised, cancelled);
        if cancelled.is_cancelled() {
            // Whatever was found, it was not looked at to the end.
            return Err(OpenError::Io {
                path: key.segment_path(&self.shared().dir),
                source: std::io::ErrorKind::Interrupted.into(),
            });
        }
        if let Err(error) = &verified {
            tracing::error!(partition = %id, from = %promised.base_offset, %error,
                "the records from there on have to come from another replica");
        }
        Ok(verified.is_err())
    }

    /// Removes what [`LogStore::salvage`] has set aside: the records are here again. Blocks.
    pub fn remove_set_aside(&self, partitions: &[PartitionId]) {
        let shared = self.shared();
        let partitions: BTreeSet<_> = partitions.iter().collect();
        let topics: BTreeSet<_> = partitions.iter().map(|id| id.topic).collect();
        for topic in topics {
            // A directory that is not there has nothing in it.
            let files = shared.disk.list(&topic_dir(&shared.dir, topic));
            for file in files.unwrap_or_default() {
                let aside = file.name().and_then(|name| parse_set_aside(topic, name));
                if aside.is_some_and(|id| partitions.contains(&id)) {
                    shared.remove_file(&file.path);
                }
            }
        }
    }
}

/// Why a segment is not what was promised.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "{} ends with offset {found} and not with {promised}",
        path.display()
    )]
    Other {
        path: PathBuf,
        found: Offset,
        promised: Offset,
    },
}

/// Reads a segment from one end to the other, unless it is cancelled.
fn verify(
    store: &StoreShared,
    key: SegmentKey,
    promised: &SegmentCheckpoint,
    cancelled: &CancellationToken,
) -> Result<(), Damage> {
    let segment = Segment::recovered(key, promised);
    let open = store.files.get(&segment)?;
    let scanned = scan(&segment, &store.dir, &open, cancelled);
    store.files.forget(&segment);
    let found = scanned?;
    if found == promised.end_offset {
        return Ok(());
    }
    Err(Damage::Other {
        path: key.segment_path(&store.dir),
        found,
        promised: promised.end_offset,
    })
}

/// Where the last batch of a segment ends.
fn scan(
    segment: &Segment,
    dir: &Path,
    open: &super::open_files::OpenSegment,
    cancelled: &CancellationToken,
) -> Result<Offset, ReadError> {
    let mut scan = Scan::new(segment, dir, open);
    let mut end = segment.base_offset();
    while let Some(batch) = scan.next_batch()? {
        end = batch.end_offset();
        if cancelled.is_cancelled() {
            break;
        }
    }
    Ok(end)
}

fn set_aside(store: &StoreShared, key: SegmentKey) -> Result<(), OpenError> {
    let path = key.segment_path(&store.dir);
    match store.disk.rename(&path, &set_aside_path(&path)) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(OpenError::Io { path, source })
        }
        _ => Ok(()),
    }
}
