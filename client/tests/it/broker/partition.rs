//! A partition in memory, with the rules by which duplicates are recognised.

use std::collections::HashMap;

use flumen_protocol::{
    batch::{Batch, BatchBuilder, Headers, ProducerSequence, RecordRef},
    error::{ErrorCode, WireError},
    ids::Offset,
    message::{ProduceOutcome, ProduceReceipt},
};

#[derive(Default)]
pub(super) struct Partition {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) batches: Vec<Batch>,
    pub(super) producers: HashMap<u64, Known>,
}

#[derive(Default)]
pub(super) struct Known {
    pub(super) epoch: u32,
    pub(super) next: u64,
    pub(super) receipts: HashMap<u64, ProduceReceipt>,
    /// The epoch before, and what was answered to its batches.
    pub(super) fenced: (u32, HashMap<u64, ProduceReceipt>),
}

impl Partition {
    pub(super) fn append(&mut self, batch: Batch) -> Offset {
        let base = Offset(self.end);
        let batch = batch.placed(base, 77);
        self.end = batch.end_offset().0;
        if batch.record_count() > 0 {
            self.batches.push(batch);
        }
        base
    }

    pub(super) fn take(&mut self, batch: Batch, keep: Option<u32>) -> ProduceOutcome {
        let ProducerSequence {
            producer_id,
            epoch,
            sequence,
        } = batch.header().producer;
        let known = self.producers.entry(producer_id.0).or_default();
        if epoch < known.epoch {
            let (fenced, receipts) = &known.fenced;
            if let Some(receipt) = receipts.get(&sequence).filter(|_| *fenced == epoch) {
                let duplicate = true;
                return Ok(ProduceReceipt {
                    duplicate,
                    ..*receipt
                });
            }
            return Err(WireError::new(
                ErrorCode::ProducerFenced,
                "an earlier epoch",
            ));
        }
        let next = if epoch > known.epoch { 0 } else { known.next };
        if sequence > next {
            return Err(WireError::new(
                ErrorCode::OutOfSequence,
                format!("expected {next}"),
            ));
        }
        if sequence < next {
            let mut receipt = known.receipts[&sequence];
            receipt.duplicate = true;
            return Ok(receipt);
        }
        let records = batch.record_count();
        let stored = keep.unwrap_or(records);
        let batch = if stored < records {
            first(&batch, stored)
        } else {
            batch
        };
        let base = self.append(batch);
        let receipt = ProduceReceipt {
            base_offset: (stored > 0).then_some(base),
            stored,
            append_time_ms: 77,
            duplicate: false,
        };
        let known = self.producers.entry(producer_id.0).or_default();
        if epoch > known.epoch {
            known.fenced = (known.epoch, std::mem::take(&mut known.receipts));
        }
        known.epoch = epoch;
        known.next = sequence + 1;
        known.receipts.insert(sequence, receipt);
        Ok(receipt)
    }
}

/// A batch of the first records of another.
fn first(batch: &Batch, count: u32) -> Batch {
    let mut builder = BatchBuilder::new();
    let columns = batch.columns().unwrap();
    for record in columns.records().take(count as usize) {
        let headers = Headers::from_encoded(record.headers.as_encoded());
        builder.push(&RecordRef { headers, ..record }).unwrap();
    }
    builder.build(flumen_client::Codec::None).unwrap()
}
