//! Records that plugins send to other topics, on their way to whoever leads those.
//!
//! What goes to a partition that is led here joins its queue at once. What goes elsewhere is sent once
//! the batch that it came from is on its way: had that found no room, its producer would send it again.
//! It waits in a line of its own for each partition: one request is under way at a time, which keeps the
//! order, and carries all that came meanwhile. It is sent whether its outcome is asked for or not, as
//! what it came from may be stored already.

use std::{collections::HashMap, sync::Arc};

use flumen_protocol::{batch::Batch, error::WireError, ids::PartitionId};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{Topics, partition};
use crate::{
    plugins::SideBatch,
    shard::{AppendError, Appended, DataShard, PendingAppend},
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

/// A batch for another topic.
pub(crate) enum Prepared {
    /// It is led here, and on its way.
    Here(PendingAppend),
    /// Another broker leads it.
    Elsewhere(PartitionId, Batch),
}

/// A batch in a line.
struct Waiting {
    batch: Batch,
    outcome: oneshot::Sender<Outcome>,
    /// What the batch that it came from takes of the budgets, until this one is settled, too.
    taken: Held,
}

/// What is given back by being dropped.
pub(crate) type Held = Arc<dyn Send + Sync>;

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
    /// Finds out where batches go, and has those join the queue there that go to partitions led here;
    /// none before all were found to have a place.
    pub(crate) async fn prepare(&self, side: Vec<SideBatch>) -> Result<Vec<Prepared>, WireError> {
        let mut places = Vec::with_capacity(side.len());
        for SideBatch { topic, batch } in side {
            let topic = self.topics.find(&topic).await?;
            let partition = partition(&topic, self.index % topic.config.partitions);
            let led_here = self.topics.shards.data_of(partition);
            let led_here = led_here.filter(DataShard::leads);
            if let Some(shard) = &led_here {
                shard.check_partition(partition)?;
            }
            places.push((partition, led_here, batch));
        }
        let mut prepared = Vec::with_capacity(places.len());
        for (partition, led_here, batch) in places {
            prepared.push(match led_here {
                None => Prepared::Elsewhere(partition, batch),
                Some(shard) => {
                    let room = shard.make_room(batch.encoded_len()).await?;
                    Prepared::Here(room.append(partition, batch))
                }
            });
        }
        Ok(prepared)
    }

    /// Sends a batch on its way. Batches for one topic arrive in the order of these calls, as long as
    /// its leader stays the same.
    pub(crate) fn send(&self, prepared: Prepared, taken: Held) -> SideAppend {
        match prepared {
            Prepared::Here(append) => Box::pin(async { Ok(append.await.map(drop)?) }),
            Prepared::Elsewhere(partition, batch) => {
                let outcome = self.stand_in_line(partition, batch, taken);
                Box::pin(async {
                    let outcome = outcome.await.unwrap_or(Err(AppendError::Stopped));
                    Ok(outcome.map(drop)?)
                })
            }
        }
    }

    fn stand_in_line(
        &self,
        partition: PartitionId,
        batch: Batch,
        taken: Held,
    ) -> oneshot::Receiver<Outcome> {
        let (tx, rx) = oneshot::channel();
        let waiting = Waiting {
            batch,
            outcome: tx,
            taken,
        };
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
        let (mut batches, mut waiters) = (vec![first.batch], vec![(first.outcome, first.taken)]);
        while let Ok(waiting) = line.try_recv() {
            bytes += waiting.batch.encoded_len();
            if bytes > REQUEST_BYTES_MAX {
                next = Some(waiting);
                break;
            }
            batches.push(waiting.batch);
            waiters.push((waiting.outcome, waiting.taken));
        }
        let outcomes = shards.append_at_leader(partition, batches).await;
        for (at, (waiter, _taken)) in waiters.into_iter().enumerate() {
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
