//! Where consume streams get their batches from.

use std::{sync::Arc, time::Duration};

use flumen_protocol::{
    batch::Batch,
    error::{ErrorCode, WireError},
    ids::{Offset, ShardId, TopicId},
    message::StartAt,
    topic::TopicName,
};

use super::{Topics, partition};
use crate::{
    log::{ReadError, ReadOutcome},
    shard::{News, PartitionReader, Subscription},
};

/// A damaged replica is left alone by consumers for so long. If it still leads then, no other can.
const REPAIR_BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// A partition that is consumed, and the place reached in it.
#[derive(Debug)]
pub struct ConsumeSource {
    index: u32,
    shard: ShardId,
    next_offset: Offset,
    reader: PartitionReader,
    /// Where the partition ended at its leader, when that was asked, if it answered.
    end_at_leader: Option<Offset>,
    /// Whether other brokers have replicas, which repair one that is damaged.
    is_replicated: bool,
    subscription: Option<Subscription>,
}

/// Batches and how far the partition reached when they were taken.
#[derive(Debug)]
pub struct Fetched {
    /// Consecutive batches; the first may begin before the offset that was wanted.
    pub batches: Vec<Batch>,
    /// The partition's end, as far as it is known here.
    pub end_offset: Offset,
}

impl Topics {
    /// Finds a consumer's place in a partition: of the topic `id`, if that says which is meant.
    pub async fn source(
        &self,
        name: &TopicName,
        id: Option<TopicId>,
        index: u32,
        at: StartAt,
    ) -> Result<ConsumeSource, WireError> {
        let topic = self.find_with(name, &[index]).await?;
        if id.is_some_and(|id| id != topic.id) {
            let text = format!("topic {name} was made anew, or this broker has not heard of that");
            return Err(WireError::new(ErrorCode::Unavailable, text));
        }
        let reader = self.reader(&topic, index)?;
        let known = match at {
            StartAt::Beginning => true,
            StartAt::Offset(offset) => offset <= reader.end_offset(),
            StartAt::End | StartAt::Time(_) => false,
        };
        // What this replica does not have may be at the leader, and what this leader has not
        // applied yet may be acknowledged.
        if !known {
            self.confirm_leadership(&topic, &[index]).await?;
        }
        let (start, end) = (reader.start_offset(), reader.end_offset());
        let next_offset = match at {
            StartAt::Beginning => start,
            StartAt::End => end,
            StartAt::Offset(offset) if offset > end => {
                let text = format!(
                    "offset {offset} lies past the end {end} of partition {index} of topic {name}"
                );
                return Err(WireError::new(ErrorCode::OffsetOutOfRange, text));
            }
            StartAt::Offset(offset) => offset.max(start),
            StartAt::Time(time_ms) => offset_for_time(&reader, time_ms).await?,
        };
        // Its bounds were those of an empty log, if it is not.
        check_is_here(&reader)?;
        Ok(ConsumeSource {
            index,
            shard: self.shards.shard_of(partition(&topic, index)),
            next_offset,
            reader,
            end_at_leader: None,
            is_replicated: self.is_replicated(partition(&topic, index)),
            subscription: None,
        })
    }
}

/// The first offset whose record's time is at or after `time_ms`; the end if there is none.
pub(super) async fn offset_for_time(
    reader: &PartitionReader,
    time_ms: i64,
) -> Result<Offset, WireError> {
    let end = reader.end_offset();
    let reader = reader.clone();
    let found = blocking(move || reader.log().offset_for_time(time_ms)).await?;
    Ok(found.map_or(end, |offset| offset.min(end)))
}

impl ConsumeSource {
    /// The partition's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The shard that the partition lives in.
    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// The first offset that is delivered next.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The partition's end, if it is known: what lies before it may not be here yet.
    pub fn end_offset(&self) -> Option<Offset> {
        self.end_at_leader
            .map(|end| end.max(self.reader.end_offset()))
    }

    /// Takes note of where the partition ends at its leader.
    pub(crate) fn reaches(&mut self, end_at_leader: Offset) {
        self.end_at_leader = Some(end_at_leader);
    }

    /// Takes note that nobody says any more where the partition ends.
    pub(crate) fn loses_touch(&mut self) {
        self.end_at_leader = None;
    }

    /// Takes the next batches, of about `bytes_max` together and at least one if there is
    /// any. Reads from the disk wait on a thread of their own.
    pub async fn fetch(&mut self, bytes_max: usize) -> Result<Fetched, WireError> {
        let reached = self.reader.end_offset();
        let end_offset = self.end_offset().unwrap_or(reached);
        let nothing = Fetched {
            batches: Vec::new(),
            end_offset,
        };
        let batches = match self.reader.read(self.next_offset, bytes_max) {
            ReadOutcome::Memory(batches) => batches,
            ReadOutcome::Disk(read) => match unless_panicked(move || read.run()).await? {
                Ok(batches) => batches,
                Err(error) => {
                    check_is_here(&self.reader)?;
                    match error {
                        // Removed while it was being read.
                        ReadError::OutOfRange { start, .. } if start > self.next_offset => {
                            self.next_offset = start;
                            return Ok(nothing);
                        }
                        error if self.is_replicated && self.is_being_repaired() => {
                            return Err(damaged_here(self.index, &error));
                        }
                        error => return Err(storage_failed(&error)),
                    }
                }
            },
            ReadOutcome::End => Vec::new(),
            // Retention or compaction has passed the consumer by: it goes on with what is left.
            ReadOutcome::OutOfRange { start, .. } if start > self.next_offset => {
                check_is_here(&self.reader)?;
                self.next_offset = start;
                return Ok(nothing);
            }
            ReadOutcome::OutOfRange { start, end } => {
                let text = format!(
                    "offset {} lies outside of the partition, which holds {start} to {end}",
                    self.next_offset
                );
                return Err(WireError::new(ErrorCode::OffsetOutOfRange, text));
            }
        };
        self.next_offset = match batches.last() {
            Some(last) => last.end_offset(),
            None => {
                check_is_here(&self.reader)?;
                // Compaction has left nothing up to there, or retention had not when this replica was
                // filled. To look again would find the same.
                self.next_offset.max(reached)
            }
        };
        Ok(Fetched {
            batches,
            end_offset,
        })
    }

    /// Whether damage that was found is about to be repaired: another replica leads then.
    fn is_being_repaired(&self) -> bool {
        let damaged = self.reader.damaged_for();
        damaged.is_some_and(|since| since < REPAIR_BEGINS_WITHIN)
    }

    /// From now on reports to `news`, as `token`, when it has something again after
    /// [`ConsumeSource::has_more`] said that it has not.
    pub fn report_to(&mut self, news: &Arc<News>, token: u32) {
        self.subscription = Some(self.reader.subscribe(news, token));
    }

    /// Whether there is something at or behind the next offset. If not, it will be reported.
    pub fn has_more(&self) -> Result<bool, WireError> {
        let offset = self.next_offset;
        let has_news = match &self.subscription {
            Some(subscription) => subscription.arm(offset),
            None => self.reader.end_offset() > offset,
        };
        if has_news {
            check_is_here(&self.reader)?;
        }
        Ok(has_news)
    }
}

/// Refuses a log that has ended: what it does not have any more may be elsewhere, so that nobody may be
/// passed by for its bounds. A reader is told before its log ends.
fn check_is_here(reader: &PartitionReader) -> Result<(), WireError> {
    if reader.has_moved() {
        return Err(WireError::new(
            ErrorCode::NotLeader,
            "the partition is on other brokers now; ask for its leader",
        ));
    }
    if reader.is_deleted() {
        return Err(WireError::new(
            ErrorCode::UnknownTopic,
            "the topic was deleted",
        ));
    }
    Ok(())
}

async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, WireError>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    unless_panicked(work)
        .await?
        .map_err(|error| storage_failed(&error))
}

async fn unless_panicked<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, WireError> {
    let done = crate::executor::spawn_blocking(work).await;
    done.map_err(|error| WireError::new(ErrorCode::Internal, error.to_string()))
}

/// Another replica is about to lead, and this one is repaired: the consumer goes on there.
fn damaged_here(partition: u32, error: &ReadError) -> WireError {
    tracing::debug!(partition, %error, "what a consumer wants is damaged here");
    let text = format!("the replica of partition {partition} here is damaged; ask for its leader");
    WireError::new(ErrorCode::NotLeader, text)
}

fn storage_failed(error: &impl std::fmt::Display) -> WireError {
    WireError::new(ErrorCode::StorageFailed, error.to_string())
}
