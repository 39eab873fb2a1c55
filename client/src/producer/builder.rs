//! Settings of a producer.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use flumen_protocol::{
    batch::Codec,
    limits::{BATCH_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, RECORDS_PER_BATCH_MAX},
    size::Size,
    topic::Name,
};
use serde::Serialize;

use super::{
    Handle, Producer, ProducerOptions, accumulator::AccumulatorOptions, registry::DeliveryKey,
};
use crate::{client::Client, config::TIMEOUT_MAX, payload::Format, request::RequestError};

/// How long a record waits for others to share its batch. Zero: a batch leaves as soon as
/// the connection can take it, and records gather only while batches are on their way. That
/// is fast for one and efficient for many, so there is rarely a reason to change it.
pub const LINGER: Duration = Duration::ZERO;

/// Bytes at which a batch is complete.
pub const BATCH_BYTES: usize = 1024 * 1024;

/// Bytes of all records that wait for their receipts.
pub const MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Batches of one partition that may be on their way at once.
pub const IN_FLIGHT_BATCHES_MAX: usize = 32;

/// How long a message may take from being handed over to its receipt.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_mins(1);

/// Says how a [`Producer`] works.
///
/// ```no_run
/// # use flumen_client::{Client, Codec};
/// # async fn run(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let producer = client
///     .producer::<serde_json::Value>("events")
///     .json()
///     .compression(Codec::Zstd)
///     .build()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is awaited"]
pub struct ProducerBuilder<T> {
    client: Client,
    topic: String,
    format: Format,
    content_type: Option<String>,
    compression: Option<Codec>,
    batch_bytes: usize,
    batch_records_max: u32,
    options: ProducerOptions,
    is_dedicated: bool,
    marker: PhantomData<fn(T)>,
}

impl<T: Serialize + 'static> ProducerBuilder<T> {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        Self {
            client,
            topic,
            format: Format::of::<T>(),
            content_type: None,
            compression: None,
            batch_bytes: BATCH_BYTES,
            batch_records_max: RECORDS_PER_BATCH_MAX,
            options: ProducerOptions {
                linger: LINGER,
                memory_bytes_max: MEMORY_BYTES_MAX,
                in_flight_max: IN_FLIGHT_BATCHES_MAX,
                delivery_timeout: DELIVERY_TIMEOUT,
            },
            is_dedicated: false,
            marker: PhantomData,
        }
    }

    /// Sends values as JSON.
    pub fn json(mut self) -> Self {
        self.format = Format::Json;
        self
    }

    /// Sets the content type that travels with the messages. The default names the format
    /// and the type, such as `postcard; type=Order`; for raw bytes it is empty.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets the compression of batches. Default: that of the topic.
    pub fn compression(mut self, codec: Codec) -> Self {
        self.compression = Some(codec);
        self
    }

    /// Sets how long a record waits for others to share its batch; less than the delivery
    /// time-out. Default: [`LINGER`].
    pub fn linger(mut self, linger: Duration) -> Self {
        self.options.linger = linger;
        self
    }

    /// Sets the bytes at which a batch is complete; a larger record goes alone. Default:
    /// [`BATCH_BYTES`]. A broker that takes less (`limits.batch_bytes_max`) gets less.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// Sets the records at which a batch is complete. Default:
    /// [`RECORDS_PER_BATCH_MAX`].
    pub fn batch_records(mut self, records: u32) -> Self {
        self.batch_records_max = records;
        self
    }

    /// Sets the bytes of all records that may wait for their receipts, of all producers that
    /// share the delivery; beyond that, handing over another one waits. Default:
    /// [`MEMORY_BYTES_MAX`].
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.options.memory_bytes_max = bytes;
        self
    }

    /// Sets how many batches of one partition may be on their way at once. Default:
    /// [`IN_FLIGHT_BATCHES_MAX`].
    pub fn in_flight_batches(mut self, batches: usize) -> Self {
        self.options.in_flight_max = batches;
        self
    }

    /// Sets how long a message may take from being handed over to its receipt. Default:
    /// [`DELIVERY_TIMEOUT`]; at most [`TIMEOUT_MAX`]. Messages of one batch are given up together
    /// with the first: up to a tenth of that time early, or up to the linger if that is longer.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.options.delivery_timeout = timeout;
        self
    }

    /// Gives the producer a delivery of its own, shared with its clones only: memory, batches
    /// and streams that no other producer of the client uses. For producers whose batches must
    /// not be refused because of what others send, and for one that fills its memory while
    /// others must not wait. Default: a shared one (see [`Producer`]).
    pub fn dedicated(mut self) -> Self {
        self.is_dedicated = true;
        self
    }

    /// Looks the topic up and makes the producer.
    ///
    /// # Errors
    /// When the topic does not exist, no broker can be reached, or a setting cannot be used.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves nothing behind.
    pub async fn build(self) -> Result<Producer<T>, RequestError> {
        let topic = Name::new(self.topic.clone())?;
        let content_type = self.check()?;
        let Some(metadata) = self.client.topic(&topic).await? else {
            return Err(RequestError::UnknownTopic { topic });
        };
        let limits = AccumulatorOptions {
            batch_bytes: self.batch_bytes.min(self.client.batch_bytes_max()),
            batch_records_max: self.batch_records_max,
            memory_bytes_max: self.options.memory_bytes_max,
        };
        let key = DeliveryKey {
            topic: metadata.id,
            content_type,
            codec: self.compression.unwrap_or(metadata.config.compression),
            limits,
            options: self.options,
        };
        let client = self.client;
        let (shared, account) = if self.is_dedicated {
            key.start(client, metadata)
        } else {
            client.deliveries().join(key, client.clone(), metadata)
        };
        Ok(Producer {
            handle: Arc::new(Handle {
                shared,
                account,
                format: self.format,
            }),
            marker: PhantomData,
        })
    }

    /// The content type, if all settings can be used.
    fn check(&self) -> Result<String, RequestError> {
        let setting = |text: String| Err(RequestError::Setting { text });
        let content_type = self
            .content_type
            .clone()
            .unwrap_or_else(|| self.format.content_type::<T>());
        if content_type.len() > CONTENT_TYPE_BYTES_MAX {
            return setting(format!(
                "the content type {content_type:?} is longer than {}; set a shorter one",
                Size::of(CONTENT_TYPE_BYTES_MAX)
            ));
        }
        if !(1..=BATCH_BYTES_MAX).contains(&self.batch_bytes) {
            return setting(format!(
                "a batch has 1 B to {}, not {}",
                Size::of(BATCH_BYTES_MAX),
                Size::of(self.batch_bytes)
            ));
        }
        if !(1..=RECORDS_PER_BATCH_MAX).contains(&self.batch_records_max) {
            return setting(format!("a batch has 1 to {RECORDS_PER_BATCH_MAX} records"));
        }
        if self.options.in_flight_max == 0 || self.options.memory_bytes_max == 0 {
            return setting("a producer needs room for one batch at least".to_owned());
        }
        let ProducerOptions {
            linger,
            delivery_timeout,
            ..
        } = self.options;
        if delivery_timeout > TIMEOUT_MAX {
            return setting(format!(
                "the delivery time-out cannot be {delivery_timeout:?}: {TIMEOUT_MAX:?} is the most"
            ));
        }
        if linger >= delivery_timeout {
            return setting(format!(
                "the delivery time-out of {delivery_timeout:?} would end before a batch leaves: \
                 set one that is longer than the linger of {linger:?}"
            ));
        }
        Ok(content_type)
    }
}
