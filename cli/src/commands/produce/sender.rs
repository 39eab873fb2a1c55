//! The producer of each content type: it belongs to a producer, and not to a record.

use anyhow::Result;
use flumen_client::{Client, Codec, Producer, Raw, RequestError, Setback};
use flumen_protocol::topic::TopicName;
use parking_lot::Mutex;
use std::time::Duration;

use super::receipts::Receipts;

/// How records are sent, whatever their content type.
#[derive(Debug)]
pub(super) struct Sending<'a> {
    pub(super) topic: &'a TopicName,
    pub(super) compression: Option<Codec>,
    pub(super) batch_records: Option<u32>,
    pub(super) delivery_timeout: Option<Duration>,
}

/// One producer at a time, of the content type that was sent last.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    client: &'a Client,
    sending: Sending<'a>,
    current: Mutex<(String, Producer<Raw>)>,
}

impl<'a> Sender<'a> {
    pub(super) async fn new(
        client: &'a Client,
        sending: Sending<'a>,
        content_type: &str,
    ) -> Result<Self, RequestError> {
        let producer = sending.producer(client, content_type).await?;
        Ok(Self {
            client,
            sending,
            current: Mutex::new((content_type.to_owned(), producer)),
        })
    }

    /// The producer of records of this content type. Before it changes, all that was sent has its
    /// receipt: otherwise records of one partition could overtake each other.
    pub(super) async fn of_type(
        &self,
        content_type: &str,
        receipts: &mut Receipts,
    ) -> Result<Producer<Raw>, RequestError> {
        if let Some(producer) = self.current_of(content_type) {
            return Ok(producer);
        }
        receipts.settle_all().await;
        let producer = self.sending.producer(self.client, content_type).await?;
        *self.current.lock() = (content_type.to_owned(), producer.clone());
        Ok(producer)
    }

    /// Why records wait.
    pub(super) fn setback(&self) -> Option<Setback> {
        self.current.lock().1.setback()
    }

    fn current_of(&self, content_type: &str) -> Option<Producer<Raw>> {
        let current = self.current.lock();
        (current.0 == content_type).then(|| current.1.clone())
    }
}

impl Sending<'_> {
    async fn producer(
        &self,
        client: &Client,
        content_type: &str,
    ) -> Result<Producer<Raw>, RequestError> {
        let mut builder = client
            .producer::<Raw>(self.topic.as_str())
            .content_type(content_type);
        if let Some(codec) = self.compression {
            builder = builder.compression(codec);
        }
        if let Some(after) = self.delivery_timeout {
            builder = builder.delivery_timeout(after);
        }
        if let Some(records) = self.batch_records {
            builder = builder.batch_records(records);
        }
        builder.build().await
    }
}
