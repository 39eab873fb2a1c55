//! The typed client of the Flumen message queue: producers and consumers of your own types,
//! and administration of topics and plugins.
//!
//! ```no_run
//! use flumen_client::{Client, Message, Profile};
//!
//! #[derive(Debug, serde::Serialize, serde::Deserialize)]
//! struct Order { id: u64, item: String }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(Profile::load(None)?).await?;
//!
//! let producer = client.producer::<Order>("orders").build().await?;
//! let order = Order { id: 7, item: "tea".to_owned() };
//! let receipt = producer.send(Message::new(order).key("customer-7")).await?;
//! println!("durable at {:?}", receipt.offset);
//!
//! let mut orders = client.consumer::<Order>("orders").build().await?;
//! while let Some(order) = orders.next().await {
//!     println!("{:?}", order?.value);
//! }
//! # Ok(()) }
//! ```
//!
//! # What a receipt means
//! [`Producer::send`] returns a [`Receipt`] once the broker has acknowledged the message: it
//! is durable as the broker's sync policy says. With `always`, the default, it is synced to
//! disk on a majority of its replicas; with `every <duration>` it is written by a majority,
//! and a power loss of a majority may lose the last such interval.
//!
//! # What an error means
//! Every wait has a time-out, and what timed out is *unknown*, not failed:
//! [`SendError::is_unknown`] and [`RequestError::is_unknown`] tell the two apart. Lost
//! connections are made again in the background; producers then repeat what has no receipt
//! and the broker recognises what it has already, consumers go on where they were.
//!
//! The text of an error stands alone: it says what was attempted, on what, and why it failed, the
//! words of its causes included. [`source`](std::error::Error::source) gives these as values; who
//! prints the causes one by one prints them twice.
//!
//! # Map
//! | module | what it holds |
//! | --- | --- |
//! | [`Client`] | the connection to a cluster; makes all that follows |
//! | [`Producer`] | typed values in, durable receipts out |
//! | [`Consumer`] | the messages of a topic as a stream |
//! | [`Admin`] | topics, plugins, status |
//! | [`profile`] | where a user keeps what it takes to reach a cluster |
//! | [`config`] | time-outs, by name |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod client;
mod cluster;
pub mod config;
mod connection;
mod consumer;
mod message;
mod payload;
mod producer;
pub mod profile;
mod request;
mod search;
mod setback;

pub use flumen_protocol::{
    batch::{BatchError, Codec, HeaderRef, Headers, PushError, RecordRef},
    error::ErrorCode,
    ids::{BrokerId, Offset, ShardId, TopicId},
    limits::RECORDS_PER_BATCH_MAX,
    message::{
        BindingStatus, BrokerOverview, BrokerState, BrokerStatus, ClusterStatus,
        PartitionDescription, PartitionExtent, PluginDescription, ReplicaStatus, ShardOverview,
        ShardStatus, StartAt, TopicDescription, TopicSummary,
    },
    plugin::{BindingConfig, Digest, ErrorPolicy, HookPoint, PluginInfo, World},
    topic::{
        Cleanup, InvalidName, InvalidTopicConfig, Name, NoSuchPartition, TopicChanges, TopicConfig,
        TopicName,
    },
};

pub use crate::{
    admin::{Admin, AdminError},
    client::{Client, ClientBuilder},
    connection::ConnectError,
    consumer::{BUFFER_BYTES, ConsumeError, Consumer, ConsumerBuilder, ReceivedBatch},
    message::{HeaderMap, Message, Received},
    payload::{DecodeError, EncodeError, Format, OCTET_STREAM, Raw},
    producer::{
        BATCH_BYTES, DELIVERY_TIMEOUT, FlushError, IN_FLIGHT_BATCHES_MAX, LINGER, MEMORY_BYTES_MAX,
        PendingReceipt, Producer, ProducerBuilder, Receipt, SendAllError, SendError,
    },
    profile::{Profile, ProfileError, Profiles},
    request::RequestError,
    setback::{Setback, SetbackWatch},
};
