//! What Raft entries say, and how they lie in the write-ahead log: a short postcard head, then
//! the batches as they came. Large bodies are passed on as they are, without a copy.

use std::{fmt, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flumen_protocol::{
    batch::{Batch, HEADER_LEN},
    ids::{PartitionId, TopicId},
    topic::TopicConfig,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::types::{Entry, LogId, Membership, Payload};

/// The version of the encoding below, the first byte of every entry.
const VERSION: u8 = 1;

/// Bodies up to this many bytes are copied next to their header: below it, one more part of a
/// vectored write costs more than the copy.
const COPY_BYTES_MAX: usize = 4 * 1024;

/// A change to a shard's state machine.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Batches for partitions of a data shard, in the order in which they are applied.
    Append {
        /// The proposer's clock, so that all replicas store the same append time.
        time_ms: u64,
        batches: Vec<(PartitionId, Batch)>,
    },
    /// New partitions of a topic; those that exist are left alone.
    CreatePartitions {
        topic: TopicId,
        config: TopicConfig,
        indexes: Vec<u32>,
    },
    /// New settings for all partitions of a topic in this shard.
    ConfigurePartitions { topic: TopicId, config: TopicConfig },
    /// Removes all partitions of a topic in this shard.
    DeletePartitions { topic: TopicId },
    /// What the machine of another kind of shard understands, and bytes that go with it.
    Custom { command: Bytes, attachment: Bytes },
}

#[derive(Serialize, Deserialize)]
enum Head {
    Blank,
    Membership(Membership),
    Append {
        time_ms: u64,
        batches: Vec<(PartitionId, u32)>,
    },
    CreatePartitions {
        topic: TopicId,
        config: TopicConfig,
        indexes: Vec<u32>,
    },
    ConfigurePartitions {
        topic: TopicId,
        config: TopicConfig,
    },
    DeletePartitions {
        topic: TopicId,
    },
    Custom {
        command_bytes: u32,
        attachment_bytes: u32,
    },
}

/// Why bytes from the log are not an entry. The WAL's checksum has passed by then, so this is
/// another version's entry or a fault of the broker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DecodeError {
    #[error("entry has format version {0}; this build reads version {VERSION}")]
    UnknownVersion(u8),
    #[error("entry is cut short")]
    Truncated,
    #[error("entry head cannot be read: {0}")]
    Head(#[from] postcard::Error),
    #[error("entry holds no command")]
    NoCommand,
    #[error("entry holds a bad batch: {0}")]
    Batch(#[from] flumen_protocol::batch::BatchError),
}

impl Command {
    /// Bytes that the command will take in the log, nearly; what budgets count.
    pub(crate) fn len_bytes(&self) -> usize {
        match self {
            Self::Append { batches, .. } => {
                batches.iter().map(|(_, batch)| batch.encoded_len()).sum()
            }
            Self::Custom {
                command,
                attachment,
            } => command.len() + attachment.len(),
            Self::CreatePartitions { indexes, .. } => 128 + 5 * indexes.len(),
            Self::ConfigurePartitions { .. } | Self::DeletePartitions { .. } => 128,
        }
    }

    fn head(&self) -> Head {
        match self {
            Self::Append { time_ms, batches } => Head::Append {
                time_ms: *time_ms,
                batches: batches
                    .iter()
                    .map(|(partition, batch)| (*partition, batch.encoded_len() as u32))
                    .collect(),
            },
            Self::CreatePartitions {
                topic,
                config,
                indexes,
            } => Head::CreatePartitions {
                topic: *topic,
                config: config.clone(),
                indexes: indexes.clone(),
            },
            Self::ConfigurePartitions { topic, config } => Head::ConfigurePartitions {
                topic: *topic,
                config: config.clone(),
            },
            Self::DeletePartitions { topic } => Head::DeletePartitions { topic: *topic },
            Self::Custom {
                command,
                attachment,
            } => Head::Custom {
                command_bytes: command.len() as u32,
                attachment_bytes: attachment.len() as u32,
            },
        }
    }
}

/// The parts of an entry's encoding, to be written one after the other.
pub(crate) fn encode(payload: &Payload) -> Result<Vec<Bytes>, postcard::Error> {
    match payload {
        Payload::Blank => encode_parts(&Head::Blank, None),
        Payload::Membership(membership) => {
            encode_parts(&Head::Membership(membership.clone()), None)
        }
        Payload::Normal(command) => encode_parts(&command.head(), Some(command)),
    }
}

fn encode_parts(head: &Head, command: Option<&Command>) -> Result<Vec<Bytes>, postcard::Error> {
    let mut parts = Parts::default();
    let head = postcard::to_allocvec(head)?;
    parts.copied.put_u8(VERSION);
    parts.copied.put_u32_le(head.len() as u32);
    parts.copied.put_slice(&head);
    match command {
        Some(Command::Append { batches, .. }) => {
            for (_, batch) in batches {
                parts.copied.put_slice(&batch.header().encode());
                parts.push(batch.body());
            }
        }
        Some(Command::Custom {
            command,
            attachment,
        }) => {
            parts.push(command);
            parts.push(attachment);
        }
        _ => {}
    }
    Ok(parts.finish())
}

/// Small pieces run together, large ones stand alone.
#[derive(Default)]
struct Parts {
    done: Vec<Bytes>,
    copied: BytesMut,
}

impl Parts {
    fn push(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPY_BYTES_MAX {
            self.copied.put_slice(bytes);
        } else {
            self.done.push(self.copied.split().freeze());
            self.done.push(bytes.clone());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.copied.is_empty() {
            self.done.push(self.copied.freeze());
        }
        self.done
    }
}

/// Reads an entry back; batches are slices of `bytes`. The log's checksum covers them.
pub(crate) fn decode(term: u64, index: u64, mut bytes: Bytes) -> Result<Entry, DecodeError> {
    let payload = decode_payload(&mut bytes)?;
    Ok(openraft::Entry {
        log_id: log_id(term, index),
        payload,
    })
}

/// As [`decode`], for an entry from elsewhere: the batches' own checksums are verified.
pub(crate) fn decode_verified(term: u64, index: u64, bytes: Bytes) -> Result<Entry, DecodeError> {
    let entry = decode(term, index, bytes)?;
    if let Payload::Normal(command) = &entry.payload
        && let Command::Append { batches, .. } = &**command
    {
        for (_, batch) in batches {
            batch.check_crc()?;
        }
    }
    Ok(entry)
}

/// Bytes that an entry takes in a message, nearly; what limits count.
pub(crate) fn entry_len(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(command) => command.len_bytes(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}

/// A command as it travels to the broker that leads its shard.
pub(crate) fn encode_command(command: &Command) -> Result<Bytes, postcard::Error> {
    Ok(encode_parts(&command.head(), Some(command))?
        .concat()
        .into())
}

/// Reads what [`encode_command`] wrote.
pub(crate) fn decode_command(mut bytes: Bytes) -> Result<Arc<Command>, DecodeError> {
    match decode_payload(&mut bytes)? {
        Payload::Normal(command) => Ok(command),
        Payload::Blank | Payload::Membership(_) => Err(DecodeError::NoCommand),
    }
}

/// A log id in the standard mode of one leader per term.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

fn decode_payload(bytes: &mut Bytes) -> Result<Payload, DecodeError> {
    if bytes.len() < 5 {
        return Err(DecodeError::Truncated);
    }
    let version = bytes.get_u8();
    if version != VERSION {
        return Err(DecodeError::UnknownVersion(version));
    }
    let head_len = bytes.get_u32_le();
    let head: Head = postcard::from_bytes(&take(bytes, head_len)?)?;
    let command = match head {
        Head::Blank => return Ok(Payload::Blank),
        Head::Membership(membership) => return Ok(Payload::Membership(membership)),
        Head::Append { time_ms, batches } => Command::Append {
            time_ms,
            batches: batches
                .into_iter()
                .map(|(partition, len)| {
                    if (len as usize) < HEADER_LEN {
                        return Err(DecodeError::Truncated);
                    }
                    // The WAL's checksum covers the batch.
                    let batch = Batch::decode_unchecked_crc(take(bytes, len)?)?;
                    Ok((partition, batch))
                })
                .collect::<Result<_, DecodeError>>()?,
        },
        Head::CreatePartitions {
            topic,
            config,
            indexes,
        } => Command::CreatePartitions {
            topic,
            config,
            indexes,
        },
        Head::ConfigurePartitions { topic, config } => {
            Command::ConfigurePartitions { topic, config }
        }
        Head::DeletePartitions { topic } => Command::DeletePartitions { topic },
        Head::Custom {
            command_bytes,
            attachment_bytes,
        } => Command::Custom {
            command: take(bytes, command_bytes)?,
            attachment: take(bytes, attachment_bytes)?,
        },
    };
    Ok(Payload::Normal(Arc::new(command)))
}

fn take(bytes: &mut Bytes, len: u32) -> Result<Bytes, DecodeError> {
    if bytes.len() < len as usize {
        return Err(DecodeError::Truncated);
    }
    Ok(bytes.split_to(len as usize))
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { batches, .. } => write!(f, "append of {} batches", batches.len()),
            Self::CreatePartitions { topic, indexes, .. } => {
                write!(f, "creation of {} partitions of {topic}", indexes.len())
            }
            Self::ConfigurePartitions { topic, .. } => write!(f, "settings of topic {topic}"),
            Self::DeletePartitions { topic } => write!(f, "deletion of topic {topic}"),
            Self::Custom { command, .. } => write!(f, "command of {} bytes", command.len()),
        }
    }
}

/// openraft wants application data to be serde; peers exchange the same bytes as the log holds.
impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parts = encode_parts(&self.head(), Some(self)).map_err(ser::Error::custom)?;
        serializer.serialize_bytes(&parts.concat())
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = Bytes::deserialize(deserializer)?;
        match decode_payload(&mut bytes).map_err(de::Error::custom)? {
            Payload::Normal(command) => {
                Arc::try_unwrap(command).map_err(|_| de::Error::custom("a command is owned once"))
            }
            _ => Err(de::Error::custom("not a command")),
        }
    }
}

/// The entries of the log, for the test that pins the messages that they travel in.
#[cfg(test)]
pub(super) fn add_messages(schema: &mut flumen_schema::Schema) {
    schema.add::<Head>();
}
