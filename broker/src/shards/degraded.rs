//! What keeps a broker from taking records, in words for those who run it.

use flumen_protocol::size::Size;

use super::Shards;
use crate::wal::Wal;

impl Shards {
    /// That no records are taken at the moment, or soon will not be, or none of some partitions, or
    /// that nobody gets here with any, and why; `None` if all is well. Others had better lead
    /// meanwhile.
    pub fn degraded(&self) -> Option<String> {
        let partitions = || self.shared.logs.degraded_partitions();
        self.takes_none()
            .or_else(partitions)
            .or_else(|| self.unreachable())
    }

    /// That no records are taken at the moment, or soon will not be, and why, wherever they would come
    /// from.
    pub(crate) fn takes_none(&self) -> Option<String> {
        let wal = &self.shared.parts.raft.wal;
        let wal_trouble = || wal.trouble().map(|trouble| trouble.to_string());
        let logs = || self.shared.logs.degraded();
        let refuses = self.failure().or_else(logs).or_else(wal_trouble);
        refuses
            .map(|reason| format!("takes no records: {reason}"))
            .or_else(|| self.without_checkpoints())
            .or_else(|| self.full_of_closed_shards())
    }

    /// Why others do not reach this broker, if so, as the rest of a sentence about it.
    pub(crate) fn unreachable(&self) -> Option<String> {
        self.shared.unreachable.lock().clone()
    }

    /// Says why others do not reach this broker, or that they do, and gives what was said before.
    pub(crate) fn set_unreachable(&self, reason: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.shared.unreachable.lock(), reason)
    }

    /// What it means that no checkpoints can be taken, if so.
    fn without_checkpoints(&self) -> Option<String> {
        let trouble = self.shared.checkpointer.trouble()?;
        let wal = &self.shared.parts.raft.wal;
        let (used, most) = used_of(wal);
        Some(if wal.is_full() {
            format!("takes no records: the write-ahead log is full ({used} of {most}): {trouble}")
        } else {
            format!(
                "{trouble}; without one the write-ahead log gets no shorter, and records are taken \
                 until it is full ({used} of {most})"
            )
        })
    }

    /// That the write-ahead log is full, if shards are closed whose part of it has to stay.
    fn full_of_closed_shards(&self) -> Option<String> {
        let wal = &self.shared.parts.raft.wal;
        if !wal.is_full() {
            return None;
        }
        // Most that are closed leave nothing there.
        let holding = wal.shards_to_checkpoint();
        let mut closed = self.unrepaired();
        closed.retain(|shard| holding.contains(shard));
        if closed.is_empty() {
            return None;
        }
        let closed: Vec<_> = closed.iter().map(ToString::to_string).collect();
        let (used, most) = used_of(wal);
        Some(format!(
            "takes no records: the write-ahead log is full ({used} of {most}), and what it has of \
             shard {} stays until the damaged files are repaired from other brokers",
            closed.join(", ")
        ))
    }
}

/// How much of the write-ahead log is in use, and how much may be.
fn used_of(wal: &Wal) -> (Size, Size) {
    let usage = wal.usage();
    (Size(usage.bytes), Size(usage.bytes_max))
}
