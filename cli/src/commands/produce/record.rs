//! What becomes of a line: a record, as the flags say.

use anyhow::Result;
use bytes::Bytes;
use flumen_client::{Message, Raw};
use flumen_protocol::limits::RECORD_BYTES_MAX;

use super::{json, key::KeyFlags};
use crate::{failure::usage, number::whole};

/// What the values are, when they are JSON.
const JSON: &str = "application/json";

/// A record's bytes as text in JSON have six characters each at most, such as `\u0000`; and as many
/// bytes again as a record may have are enough for what stands around them.
const JSON_LINE_BYTES_MAX: usize = 7 * RECORD_BYTES_MAX;

/// What a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LineFormat {
    /// The value
    #[default]
    Value,
    /// An object with value, key, headers, timestamp and partition
    Json,
}

/// Flags that say what a line is, and what its record has besides.
#[derive(Debug, clap::Args)]
pub(super) struct RecordFlags {
    /// What each line is
    #[arg(long, value_enum, default_value_t)]
    format: LineFormat,
    #[command(flatten)]
    key: KeyFlags,
    /// A header of every record; can be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// What the values are, such as application/json, for those who consume them
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Send everything to this partition, whatever the keys
    #[arg(long, value_name = "N", value_parser = whole(0..=u32::MAX))]
    partition: Option<u32>,
    /// With --format json, let the keys choose the partitions, whatever the records say
    #[arg(long, conflicts_with = "partition")]
    repartition: bool,
}

/// A record to send.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) message: Message<Raw>,
    /// Where it belongs; else the key decides.
    pub(super) partition: Option<u32>,
    /// What its value is, if it says so.
    pub(super) content_type: Option<String>,
    /// Bytes of what was written for it.
    pub(super) bytes: u64,
}

impl RecordFlags {
    /// Refuses what makes no sense, whatever the lines are.
    pub(super) fn check(&self) -> Result<()> {
        let problem = match self.format {
            LineFormat::Json if self.key.is_given() => {
                "--key-json and --key-separator cannot be used with --format json: there, each \
                 record has a key of its own"
            }
            LineFormat::Value if self.repartition => "--repartition needs --format json",
            _ => return Ok(()),
        };
        Err(usage(problem))
    }

    /// How long a line may be.
    pub(super) fn line_bytes_max(&self) -> usize {
        match self.format {
            LineFormat::Value => RECORD_BYTES_MAX,
            LineFormat::Json => JSON_LINE_BYTES_MAX,
        }
    }

    /// What the value of a record is that does not say so itself; empty if nobody does.
    pub(super) fn content_type(&self) -> &str {
        match &self.content_type {
            Some(content_type) => content_type,
            None if self.key.key_json.is_some() => JSON,
            None => "",
        }
    }

    /// The record of a line.
    pub(super) fn record(&self, line: Bytes) -> Result<Record> {
        let mut record = match self.format {
            LineFormat::Value => self.by_value(line)?,
            LineFormat::Json => json::record(&line)?,
        };
        for (name, value) in &self.headers {
            record.message = record.message.header(name, value);
        }
        if self.repartition {
            record.partition = None;
        }
        if let Some(partition) = self.partition.or(record.partition) {
            record.message = record.message.partition(partition);
        }
        if self.content_type.is_some() {
            record.content_type = None;
        }
        Ok(record)
    }

    fn by_value(&self, line: Bytes) -> Result<Record> {
        let bytes = line.len() as u64;
        let (key, value) = self.key.split(line)?;
        let mut message = Message::new(value);
        if let Some(key) = key {
            message = message.key_bytes(key);
        }
        Ok(Record {
            message,
            partition: None,
            content_type: None,
            bytes,
        })
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no header; write NAME=VALUE")),
    }
}
