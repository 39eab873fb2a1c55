//! Batches on their way: built when they are first sent, numbered, and kept until they are settled,
//! with who waits for what becomes of them.

use std::sync::Arc;

use flumen_protocol::{
    batch::{Batch, BatchBuilder, BatchError, Codec, ProducerSequence},
    ids::ProducerId,
};

use super::Shared;
use crate::producer::{accounts::Share, completion::Completion, delivery::Identity};

/// A batch on its way: built when it is first sent, and kept until it is settled.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) form: Form,
    pub(super) _memory: Memory,
}

#[derive(Debug)]
pub(super) enum Form {
    Gathered(Box<BatchBuilder>),
    Built(Batch, Identity),
    /// It could not be built, or is being built.
    Gone,
}

impl Outgoing {
    /// The encoded batch under this identity.
    pub(super) fn batch(
        &mut self,
        identity: Identity,
        producer_id: ProducerId,
        codec: Codec,
    ) -> Result<&Batch, BatchError> {
        let sequence = identity.of(producer_id);
        let batch = match std::mem::replace(&mut self.form, Form::Gone) {
            Form::Gathered(builder) => builder.build_sequenced(codec, sequence)?,
            Form::Built(batch, earlier) if earlier == identity => batch,
            Form::Built(batch, _) => batch.sequenced(sequence),
            Form::Gone => return Err(BatchError::Malformed("it could not be built before")),
        };
        self.form = Form::Built(batch, identity);
        match &self.form {
            Form::Built(batch, _) => Ok(batch),
            Form::Gathered(_) | Form::Gone => unreachable!("it was just built"),
        }
    }
}

/// Gives the bytes of a batch back when it is gone.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) shared: Arc<Shared>,
    pub(super) bytes: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.accumulator.lock().release(self.bytes);
        self.shared.room.made();
    }
}

/// Who waits for the outcome of a batch.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) completion: Arc<Completion>,
    pub(super) records: u32,
    pub(super) shares: Vec<Share>,
}

impl Identity {
    pub(super) fn of(self, producer_id: ProducerId) -> ProducerSequence {
        ProducerSequence {
            producer_id,
            epoch: self.epoch,
            sequence: self.sequence,
        }
    }
}
