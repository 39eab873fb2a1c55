//! Fetches the records that a replica misses, from whichever other replica has them.

use std::{sync::Arc, time::Duration};

use flumen_protocol::{
    batch::Batch,
    ids::{BrokerId, Offset, PartitionId, ShardId},
};

use prometheus_client::metrics::counter::Counter;

use super::{Range, TransferHead, TransferOpen};
use crate::{
    log::{LogStore, PartitionLog},
    peer::{PeerError, PeerNetwork, PeerReceiver, PeerService, encode},
    shard::types::LogId,
};

/// How long to wait before the replicas are asked again, after none had all that is missing.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// A replica that sends nothing for this long is given up for another one.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Where a shard's records come from.
#[derive(Clone, Debug)]
pub(crate) struct RecordSource {
    pub(crate) network: Arc<dyn PeerNetwork>,
    pub(crate) shard: ShardId,
    pub(crate) logs: LogStore,
    pub(crate) received_bytes: Counter,
}

/// A log that lacks records before `to`.
pub(in crate::shard::data) struct Wanted {
    pub(in crate::shard::data) log: PartitionLog,
    /// Up to where it has them.
    pub(in crate::shard::data) from: Offset,
    pub(in crate::shard::data) to: Offset,
}

/// Why a replica sent no more.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("a message of another version or damaged: {0}")]
    Malformed(#[from] postcard::Error),
    #[error("a damaged batch: {0}")]
    Batch(#[from] flumen_protocol::batch::BatchError),
    #[error(
        "batches of partition {partition} do not follow each other: offset {found} comes after {expected}"
    )]
    Order {
        partition: PartitionId,
        found: Offset,
        expected: Offset,
    },
    #[error("nothing came for {SILENCE_MAX:?}")]
    Silent,
    #[error("the stream ended early")]
    Ended,
}

impl RecordSource {
    /// Appends to the logs what they lack of what there is once `applied` is applied. Goes on until it is
    /// all there: a replica that fails is given up for another one of `replicas`, which is asked
    /// for them again each time round. Dropped, it leaves whole batches behind.
    pub(in crate::shard::data) async fn fetch(
        &self,
        replicas: impl Fn() -> Vec<BrokerId>,
        applied: Option<LogId>,
        mut wanted: Vec<Wanted>,
    ) {
        let mut is_told = false;
        loop {
            let replicas = replicas();
            for replica in &replicas {
                wanted.retain(|wanted| wanted.from < wanted.to);
                if wanted.is_empty() {
                    return;
                }
                if let Err(error) = self.fetch_from(*replica, applied, &mut wanted).await {
                    // One of them may be dead or removed meanwhile.
                    tracing::debug!(shard = %self.shard, broker = %replica, %error,
                        "records that this replica misses did not come; trying another one");
                }
            }
            wanted.retain(|wanted| wanted.from < wanted.to);
            if wanted.is_empty() {
                return;
            }
            if !is_told {
                is_told = true;
                tracing::warn!(shard = %self.shard, ?replicas,
                    "no other replica has sent all the records that this one misses; asking on");
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn fetch_from(
        &self,
        replica: BrokerId,
        applied: Option<LogId>,
        wanted: &mut [Wanted],
    ) -> Result<(), FetchError> {
        let ranges = wanted.iter().map(|wanted| Range {
            partition: wanted.log.id(),
            from: wanted.from,
            to: wanted.to,
        });
        let open = TransferOpen {
            shard: self.shard,
            applied,
            ranges: ranges.collect(),
        };
        let opened = self
            .network
            .open(replica, PeerService::Records, encode(&open));
        let mut stream = opened.await?;
        for range in wanted {
            let end = self.take(&mut *stream.receiver, range).await?;
            range.from = range.from.max(end);
        }
        Ok(())
    }

    /// Takes the messages of one range, and gives where it ends.
    async fn take(
        &self,
        receiver: &mut dyn PeerReceiver,
        range: &mut Wanted,
    ) -> Result<Offset, FetchError> {
        loop {
            let next = tokio::time::timeout(SILENCE_MAX, receiver.next()).await;
            let message = next.map_err(|_| FetchError::Silent)??;
            let message = message.ok_or(FetchError::Ended)?;
            let lengths = match postcard::from_bytes(&message.head)? {
                TransferHead::Batches(lengths) => lengths,
                TransferHead::RangeEnds(end) => return Ok(end.min(range.to)),
            };
            let mut bytes = message.parts.into_iter().next().unwrap_or_default();
            self.received_bytes.inc_by(bytes.len() as u64);
            for length in lengths {
                if bytes.len() < length as usize {
                    return Err(FetchError::Ended);
                }
                let batch = Batch::decode(bytes.split_to(length as usize))?;
                self.append(range, batch).await?;
            }
        }
    }

    async fn append(&self, range: &mut Wanted, batch: Batch) -> Result<(), FetchError> {
        if batch.end_offset() <= range.from {
            return Ok(());
        }
        if batch.base_offset() < range.from {
            return Err(FetchError::Order {
                partition: range.log.id(),
                found: batch.base_offset(),
                expected: range.from,
            });
        }
        self.logs.room().await;
        range.from = batch.end_offset();
        range.log.append(batch);
        Ok(())
    }
}
