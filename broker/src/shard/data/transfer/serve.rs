//! Sends records to the replicas that ask for them.

use std::sync::Arc;

use bytes::Bytes;
use flumen_protocol::{
    batch::Batch,
    ids::{BrokerId, Offset, ShardId},
};
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::{CHUNK_BYTES, Range, TransferHead, TransferOpen, vouched::Vouched};
use crate::{
    log::ReadOutcome,
    metrics::TransferMetrics,
    peer::{PeerHandler, PeerMessage, PeerStream, encode},
    shard::{
        data::{machine::DataMachine, partition::PartitionReader, state::Directory},
        log_storage::LogStorage,
        machine::Machine,
        pace::Pace,
        types::LogId,
    },
};

/// Sends records of this broker's shards to other brokers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RecordServer {
    shared: Arc<Shared>,
}

struct Shared {
    shards: RwLock<FxHashMap<ShardId, Arc<Source>>>,
    pace: Pace,
    transfers: TransferMetrics,
}

/// A shard whose records others may have.
struct Source {
    directory: Directory,
    machine: Arc<DataMachine>,
    vouched: Vouched,
}

/// Keeps a shard's records available to others until it is dropped.
pub(in crate::shard::data) struct Served {
    shared: Arc<Shared>,
    shard: ShardId,
    source: Arc<Source>,
}

impl Served {
    /// The entry of the log that is not applied here and that another replica vouches for.
    pub(in crate::shard::data) fn vouched(&self) -> Option<LogId> {
        let applied = self.source.machine.applied().index();
        self.source.vouched.after(applied)
    }

    /// As [`Served::vouched`]; it is forgotten then.
    pub(in crate::shard::data) fn take_vouched(&self) -> Option<LogId> {
        self.source.vouched.take()
    }

    /// From now on others get nothing, and what they are about to get is no proof that there was
    /// no more. To be called before anything of the shard goes.
    pub(in crate::shard::data) fn end(&self) {
        let mut shards = self.shared.shards.write();
        // The shard may have been opened or started again meanwhile.
        let served = shards.get(&self.shard);
        if served.is_some_and(|served| Arc::ptr_eq(served, &self.source)) {
            shards.remove(&self.shard);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}

impl Default for RecordServer {
    fn default() -> Self {
        Self::new(TransferMetrics::default(), Pace::default())
    }
}

impl RecordServer {
    /// Without shards, and with what is transferred counted and kept below a rate.
    pub(crate) fn new(transfers: TransferMetrics, pace: Pace) -> Self {
        let shared = Shared {
            shards: RwLock::default(),
            pace,
            transfers,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What is transferred.
    pub(in crate::shard::data) fn transfers(&self) -> &TransferMetrics {
        &self.shared.transfers
    }

    pub(in crate::shard::data) fn add(
        &self,
        shard: ShardId,
        directory: Directory,
        machine: Arc<DataMachine>,
        log: LogStorage,
    ) -> Served {
        let source = Arc::new(Source {
            directory,
            machine,
            vouched: Vouched::new(log),
        });
        let mut shards = self.shared.shards.write();
        shards.insert(shard, Arc::clone(&source));
        Served {
            shared: Arc::clone(&self.shared),
            shard,
            source,
        }
    }

    async fn serve(&self, head: Bytes, mut stream: PeerStream) -> Result<(), String> {
        let open: TransferOpen = postcard::from_bytes(&head).map_err(text)?;
        let source = self.source(open.shard)?;
        if let Some(applied) = open.applied
            && source.machine.applied().index() < Some(applied.index)
        {
            source.vouched.note(applied).await.map_err(text)?;
            return Err(format!("shard {} is itself behind here", open.shard));
        }
        for range in open.ranges {
            let found = source.directory.read().get(&range.partition).cloned();
            let end = match found.map(PartitionReader::new) {
                Some(reader) => self.send_range(&mut stream, &reader, range).await?,
                // It was deleted since; whoever asks will hear of that, too.
                None => range.to,
            };
            // What was not found may be gone from here only.
            let still = self.source(open.shard)?;
            if !Arc::ptr_eq(&still.machine, &source.machine) {
                return Err(format!("shard {} was opened anew", open.shard));
            }
            send(&mut stream, &TransferHead::RangeEnds(end), Vec::new()).await?;
        }
        stream.sender.finish();
        Ok(())
    }

    fn source(&self, shard: ShardId) -> Result<Arc<Source>, String> {
        let source = self.shared.shards.read().get(&shard).cloned();
        source.ok_or_else(|| format!("shard {shard} has no replica here"))
    }

    /// Sends what there is of a range, and tells up to where that is.
    async fn send_range(
        &self,
        stream: &mut PeerStream,
        reader: &PartitionReader,
        range: Range,
    ) -> Result<Offset, String> {
        let to = range.to.min(reader.end_offset());
        let mut at = range.from;
        while at < to {
            let batches = match reader.log().read(at, CHUNK_BYTES, to) {
                ReadOutcome::Memory(batches) => batches,
                ReadOutcome::Disk(read) => {
                    let read = crate::executor::spawn_blocking(move || read.run());
                    read.await.map_err(text)?.map_err(text)?
                }
                // Retention has been here meanwhile.
                ReadOutcome::OutOfRange { start, .. } if start > at => {
                    at = start;
                    continue;
                }
                ReadOutcome::End | ReadOutcome::OutOfRange { .. } => break,
            };
            let Some(last) = batches.last() else { break };
            at = last.end_offset();
            self.send_batches(stream, &batches).await?;
        }
        Ok(to.max(range.from))
    }

    async fn send_batches(&self, stream: &mut PeerStream, batches: &[Batch]) -> Result<(), String> {
        let lengths: Vec<u32> = batches.iter().map(|b| b.encoded_len() as u32).collect();
        let bytes: usize = lengths.iter().map(|length| *length as usize).sum();
        self.shared.pace.spend(bytes).await;
        let mut parts = Vec::with_capacity(2 * batches.len());
        for batch in batches {
            parts.push(Bytes::copy_from_slice(&batch.header().encode()));
            parts.push(batch.body().clone());
        }
        send(stream, &TransferHead::Batches(lengths), parts).await?;
        self.shared.transfers.sent_bytes.inc_by(bytes as u64);
        Ok(())
    }
}

async fn send(
    stream: &mut PeerStream,
    head: &TransferHead,
    parts: Vec<Bytes>,
) -> Result<(), String> {
    let head = encode(head);
    let sent = stream.sender.send(PeerMessage { head, parts }).await;
    sent.map_err(text)
}

impl PeerHandler for RecordServer {
    fn call(&self, _: BrokerId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("records travel on streams".to_owned()) })
    }

    fn stream(&self, from: BrokerId, head: Bytes, stream: PeerStream) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move {
            if let Err(reason) = this.serve(head, stream).await {
                tracing::debug!(broker = %from, reason, "records were not sent to the end");
            }
        })
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
