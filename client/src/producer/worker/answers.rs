//! Reading the answers to batches, and telling those who wait what became of them.

use std::{sync::Arc, time::Instant};

use flumen_protocol::{
    error::{ErrorCode, WireError},
    message::ProduceAcks,
};
use flumen_transport::stream::FrameReader;

use super::{End, Worker, outgoing::Waiter};
use crate::{
    connection::backoff::Backoff,
    producer::{
        completion::BatchOutcome,
        delivery::{DeliveryError, Resolved},
        error::SendError,
    },
};

impl Worker {
    pub(super) async fn read(&self, reader: &mut FrameReader, backoff: &mut Backoff) -> End {
        loop {
            let acks = match reader.next::<ProduceAcks>().await {
                Ok(Some((acks, 0))) => acks,
                Ok(Some(_)) => return End::Lost("an answer came with a payload".to_owned()),
                Ok(None) => return End::Lost("the broker ended the stream".to_owned()),
                Err(error) => return End::Lost(error.to_string()),
            };
            let now = Instant::now();
            *self.waiting_since.lock() = now;
            for outcome in acks.outcomes {
                let refusal = outcome.as_ref().err().cloned();
                match &refusal {
                    None => {
                        backoff.reset();
                        self.clear_setback();
                    }
                    Some(error) => {
                        if let Some(leader) = error.leader {
                            self.shared.client.cluster().hear(leader);
                        }
                    }
                }
                let resolved = self.delivery.lock().on_outcome(now, outcome);
                match resolved {
                    Ok(resolved) => {
                        if let Some(refusal) = refusal.filter(|_| resolved.is_none()) {
                            self.note_refusal(refusal);
                        }
                        self.settle(resolved);
                    }
                    Err(unexpected) => return End::Lost(unexpected.to_string()),
                }
            }
            self.signal.notify_one();
        }
    }

    /// A batch was refused and is sent again.
    fn note_refusal(&self, error: WireError) {
        match error.code {
            // What came before it was refused, or may be stored: that is the reason to tell.
            ErrorCode::OutOfSequence | ErrorCode::ProducerFenced => {}
            _ => self.note_setback(error.text),
        }
    }

    /// Tells those who wait what became of their batches.
    pub(super) fn settle(&self, resolved: impl IntoIterator<Item = Resolved<Waiter>>) {
        for Resolved { waiter, result } in resolved {
            let result = result.map_err(|error| {
                let error = self.explain(error);
                for share in waiter.shares {
                    if !self.shared.accumulator.lock().note_failure(share, &error) {
                        let records = share.unawaited;
                        tracing::warn!(topic = %self.shared.topic, records, %error, "messages of a dropped producer failed");
                    }
                }
                Arc::new(error)
            });
            waiter.completion.complete(BatchOutcome {
                result,
                records: waiter.records,
            });
        }
    }

    fn explain(&self, error: DeliveryError) -> SendError {
        let error = match error {
            DeliveryError::NotSent(None) => {
                DeliveryError::NotSent(self.last_failure.lock().clone())
            }
            DeliveryError::GivenUp(None) => {
                DeliveryError::GivenUp(self.last_failure.lock().clone())
            }
            error => error,
        };
        let after = self.shared.options.delivery_timeout;
        SendError::of_delivery(&error, &self.shared.topic, after)
    }
}
