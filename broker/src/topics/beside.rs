//! Records that plugins send to other topics, on their way to whoever leads those.
//!
//! What goes to a partition that is led here joins its queue at once. What goes elsewhere waits in a
//! line of its own for each partition: one request is under way at a time, which keeps the order, and
//! carries all that came meanwhile. It goes on its way at once, whether its outcome is asked for yet
//! or ever: the batch that it came from may be stored already.

use std::collections::HashMap;

use flumen_protocol::{batch::Batch, error::WireError, ids::PartitionId, topic::TopicName};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{Topics, partition};
use crate::{
    shard::{AppendError, Appended, DataShard},
    shards::Shards,
};

/// Bytes of batches in one request, unless a single batch is larger.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// An append to another topic on its way, perhaps at another broker.
pub(crate) type SideAppend = BoxFuture<'static, Result<(), WireError>>;

type Outcome = Result<Appended, AppendError>;

/// What the plugins of one produce stream send elsewhere.
pub(crate) struct Beside {
    topics: Topics,
    /// The partition that the stream produces to: records go to the one that corresponds to it.
    index: u32,
    lines: Mutex<HashMap<PartitionId, mpsc::UnboundedSender<Waiting>>>,
}

/// A batch in a line. There are no more of them than batches of the stream under way.
struct Waiting {
    batch: Batch,
    outcome: oneshot::Sender<Outcome>,
}

impl Topics {
    /// The way of a produce stream to other topics.
    pub(crate) fn beside(&self, index: u32) -> Beside {
        Beside {
            topics: self.clone(),
            index,
            lines: Mutex::default(),
        }
    }
}

impl Beside {
    /// Sends a batch on its way. Batches for one topic arrive in the order of these calls, as long as
    /// its leader stays the same.
    pub(crate) async fn append(
        &self,
        name: &TopicName,
        batch: Batch,
    ) -> Result<SideAppend, WireError> {
        let topic = self.topics.find(name).await?;
        let partition = partition(&topic, self.index % topic.config.partitions);
        let led_here = self.topics.shards.data_of(partition);
        if let Some(shard) = led_here.filter(DataShard::leads) {
            let room = shard.make_room(batch.encoded_len()).await?;
            let append = room.append(partition, batch);
            return Ok(Box::pin(async { Ok(append.await.map(drop)?) }));
        }
        let outcome = self.stand_in_line(partition, batch);
        Ok(Box::pin(async {
            let outcome = outcome.await.unwrap_or(Err(AppendError::Stopped));
            Ok(outcome.map(drop)?)
        }))
    }

    fn stand_in_line(&self, partition: PartitionId, batch: Batch) -> oneshot::Receiver<Outcome> {
        let (tx, rx) = oneshot::channel();
        let waiting = Waiting { batch, outcome: tx };
        let mut lines = self.lines.lock();
        let line = lines.entry(partition).or_insert_with(|| {
            let (line, waiting) = mpsc::unbounded_channel();
            let shards = self.topics.shards.clone();
            tokio::spawn(serve(shards, partition, waiting));
            line
        });
        // Its task ends with the sender only.
        let _ = line.send(waiting);
        rx
    }
}

/// Sends what waits in a line, until nothing does and nobody can join it.
async fn serve(shards: Shards, partition: PartitionId, mut line: mpsc::UnboundedReceiver<Waiting>) {
    let mut next = line.recv().await;
    while let Some(first) = next.take() {
        let mut bytes = first.batch.encoded_len();
        let (mut batches, mut waiters) = (vec![first.batch], vec![first.outcome]);
        while let Ok(waiting) = line.try_recv() {
            bytes += waiting.batch.encoded_len();
            if bytes > REQUEST_BYTES_MAX {
                next = Some(waiting);
                break;
            }
            batches.push(waiting.batch);
            waiters.push(waiting.outcome);
        }
        let outcomes = shards.append_at_leader(partition, batches).await;
        for (at, waiter) in waiters.into_iter().enumerate() {
            let outcome = match &outcomes {
                Ok(outcomes) => outcomes
                    .get(at)
                    .cloned()
                    .unwrap_or(Err(AppendError::Deposed)),
                Err(error) => Err(error.clone()),
            };
            // Its stream may be gone.
            let _ = waiter.send(outcome);
        }
        if next.is_none() {
            next = line.recv().await;
        }
    }
}
