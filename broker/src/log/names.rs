//! The names of a partition's files, and how they are read back.
//!
//! All partitions of a topic share one directory, so that a topic with 10,000 partitions needs
//! one directory entry to be synced and not 10,000 directories to be made:
//!
//! ```text
//! <dir>/<topic>/p7-00000000000000001234-0.segment   batches from offset 1234 on
//! <dir>/<topic>/p7-00000000000000001234-0.index     its sparse index, once it is sealed
//! <dir>/<topic>/p7-00000000000000001000-5.start     retention removed what came before 1000
//! <dir>/<topic>/p7-…-0.segment.damaged              set aside until its records are here again
//! ```
//!
//! The last number of a segment is its generation: compaction never changes a file, it writes
//! the next generation beside it. The last number of a start is the version of the log with it.

use std::path::{Path, PathBuf};

use flumen_protocol::ids::{Offset, PartitionId, TopicId};

use super::SegmentCheckpoint;

/// Which segment a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SegmentKey {
    /// The partition.
    pub(super) partition: PartitionId,
    /// The offset that the segment begins at.
    pub(super) base_offset: Offset,
    /// How often compaction has rewritten it.
    pub(super) generation: u32,
}

impl SegmentKey {
    /// The segment that a checkpoint names.
    pub(super) fn of(partition: PartitionId, promised: &SegmentCheckpoint) -> Self {
        Self {
            partition,
            base_offset: promised.base_offset,
            generation: promised.generation,
        }
    }

    /// Where its batches are.
    pub(super) fn segment_path(&self, dir: &Path) -> PathBuf {
        self.path(dir, "segment")
    }

    /// Where its index is, once it is sealed.
    pub(super) fn index_path(&self, dir: &Path) -> PathBuf {
        self.path(dir, "index")
    }

    fn path(&self, dir: &Path, extension: &str) -> PathBuf {
        let name = format!(
            "p{}-{:020}-{}.{extension}",
            self.partition.index, self.base_offset, self.generation
        );
        topic_dir(dir, self.partition.topic).join(name)
    }
}

/// The directory of a topic.
pub(super) fn topic_dir(dir: &Path, topic: TopicId) -> PathBuf {
    dir.join(topic.to_string())
}

/// A file without contents whose name says that retention removed a log's front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StartMark {
    /// Where the log begins.
    pub(super) offset: Offset,
    /// The version of the log: checkpoints from it on say so themselves.
    pub(super) version: u64,
}

impl StartMark {
    /// Where it is.
    pub(super) fn path(&self, dir: &Path, partition: PartitionId) -> PathBuf {
        let Self { offset, version } = self;
        let name = format!("p{}-{offset:020}-{version}.start", partition.index);
        topic_dir(dir, partition.topic).join(name)
    }
}

/// Ends the names of files that were set aside.
const DAMAGED: &str = ".damaged";

/// What a file is called that was set aside, since it is damaged or lies behind one that is.
pub(super) fn set_aside_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DAMAGED);
    name.into()
}

/// The partition that a file was of before it was set aside. `None` if it was not.
pub(super) fn parse_set_aside(topic: TopicId, name: &str) -> Option<PartitionId> {
    let (partition, _) = parse(topic, name.strip_suffix(DAMAGED)?)?;
    Some(partition)
}

/// What a file in a topic's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// Batches or an index.
    Segment(SegmentKey),
    /// The mark of retention.
    Start(StartMark),
}

/// Reads a name in the directory of `topic`. `None` if it is no file of a log.
pub(super) fn parse(topic: TopicId, name: &str) -> Option<(PartitionId, FileKind)> {
    let (stem, extension) = name.strip_prefix('p')?.rsplit_once('.')?;
    let mut numbers = stem.split('-');
    let partition = PartitionId {
        topic,
        index: numbers.next()?.parse().ok()?,
    };
    let offset = Offset(numbers.next()?.parse().ok()?);
    let count = numbers.next()?;
    if numbers.next().is_some() {
        return None;
    }
    let kind = match extension {
        "start" => FileKind::Start(StartMark {
            offset,
            version: count.parse().ok()?,
        }),
        "segment" | "index" => FileKind::Segment(SegmentKey {
            partition,
            base_offset: offset,
            generation: count.parse().ok()?,
        }),
        _ => return None,
    };
    Some((partition, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_as_they_were_written() {
        let dir = Path::new("/logs");
        let partition = PartitionId {
            topic: TopicId(3),
            index: 12,
        };
        let key = SegmentKey {
            partition,
            base_offset: Offset(u64::MAX),
            generation: 4,
        };
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        for path in [key.segment_path(dir), key.index_path(dir)] {
            let read = parse(TopicId(3), &name(path));
            assert_eq!(read, Some((partition, FileKind::Segment(key))));
        }
        let mark = StartMark {
            offset: Offset(9),
            version: u64::MAX,
        };
        let read = parse(TopicId(3), &name(mark.path(dir, partition)));
        assert_eq!(read, Some((partition, FileKind::Start(mark))));
        for name in [
            "p1.segment",
            "p1-2.segment",
            "p1-2-3-4.segment",
            "notes.txt",
            "p-1-2.index",
        ] {
            assert_eq!(parse(TopicId(3), name), None, "{name}");
        }
    }
}
