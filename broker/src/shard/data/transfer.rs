//! Records on their way to a replica that misses them: it names ranges of partitions, and a
//! replica that has them sends the batches as they are stored.
//!
//! Both have applied the same log, so that an offset means the same record on both: what a replica
//! has stays, and only the rest travels. Nothing but a chunk is in memory at a time.

mod fetch;
mod serve;
mod vouched;

use flumen_protocol::ids::{Offset, PartitionId, ShardId};
use serde::{Deserialize, Serialize};

use crate::shard::types::LogId;

pub(crate) use self::{fetch::RecordSource, serve::RecordServer};
pub(super) use self::{fetch::Wanted, serve::Served};

/// Bytes of batches in one message, grown to one batch.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Asks for ranges of partitions of a shard.
#[derive(Serialize, Deserialize)]
struct TransferOpen {
    shard: ShardId,
    /// Up to where the log must be applied by who answers: less would not know what there should
    /// be, and take partitions that it has not heard of for deleted ones. Whoever asks has applied
    /// it, or has a checkpoint of somebody who has: it is committed.
    applied: Option<LogId>,
    ranges: Vec<Range>,
}

/// The records from `from` on and before `to`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Range {
    partition: PartitionId,
    from: Offset,
    to: Offset,
}

/// Announces what comes: ranges in the order in which they were asked for.
#[derive(Serialize, Deserialize)]
enum TransferHead {
    /// Batches of these lengths are the message's part.
    Batches(Vec<u32>),
    /// The range was sent up to this offset; what it names before is not stored any more. Less
    /// than what was asked for if the replica has not applied more yet.
    RangeEnds(Offset),
}

/// The messages of this room, for the test that pins them.
#[cfg(test)]
pub(super) fn add_messages(schema: &mut flumen_schema::Schema) {
    schema.add::<TransferOpen>();
    schema.add::<TransferHead>();
}
