//! `flumen produce`: lines become records.

pub(crate) mod lines;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use flumen_client::{Codec, FlushError, Message, Producer, Raw, SendError};
use flumen_protocol::topic::TopicName;
use serde::Serialize;
use serde_json::Value;

use self::lines::{Line, Lines};
use crate::{
    connect::Connection,
    output::{self, OutputFormat},
};

const EXAMPLES: &str = "\
Examples:
  echo 'hello' | flumen produce greetings
  flumen produce quakes examples/data/earthquakes.ndjson --key-json id
  printf 'user-1\\tsigned in\\n' | flumen produce audit --key-separator '\\t'
  tail -f app.log | flumen produce logs --header host=\"$(hostname)\" --compression zstd

Each line becomes a record, without its line end. The command ends when all records are durable;
when it fails, it says how many are, also with --output json.";

/// What the values are, when they are JSON.
const JSON: &str = "application/json";

/// Send lines from a file or standard input as records
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    topic: TopicName,
    /// The file to read; without it, or with `-`, standard input
    file: Option<PathBuf>,
    /// Lines are JSON objects, and this field of each is the record's key
    #[arg(long, value_name = "FIELD", conflicts_with = "key_separator")]
    key_json: Option<String>,
    /// What stands before this text in a line is the record's key, what follows its value
    #[arg(long, value_name = "SEP", value_parser = parse_separator)]
    key_separator: Option<String>,
    /// A header of every record; can be given several times
    #[arg(long = "header", value_name = "K=V", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// How batches are compressed; default: as the topic says
    #[arg(long, value_name = "none|lz4|zstd")]
    compression: Option<Codec>,
    /// How many records travel together at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_records: Option<u32>,
    /// What the values are, such as application/json, for those who consume them
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Send everything to this partition, whatever the keys
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Serialize)]
struct Summary {
    topic: String,
    /// Records that are durable, or that a plugin took.
    records: u64,
    /// Records that were refused or are lost.
    failed: u64,
    /// How many of those that failed may be durable all the same.
    unknown: u64,
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let mut lines = Lines::open(arguments.file.clone())?;
    let client = arguments.connection.connect().await?;
    let mut builder = client.producer::<Raw>(arguments.topic.as_str());
    if let Some(codec) = arguments.compression {
        builder = builder.compression(codec);
    }
    if let Some(records) = arguments.batch_records {
        builder = builder.batch_records(records);
    }
    match (&arguments.content_type, &arguments.key_json) {
        (Some(content_type), _) => builder = builder.content_type(content_type),
        (None, Some(_)) => builder = builder.content_type(JSON),
        (None, None) => {}
    }
    let producer = builder.build().await?;

    let started = Instant::now();
    let progress = output::progress(None, "records");
    let mut summary = Summary {
        topic: arguments.topic.to_string(),
        records: 0,
        failed: 0,
        unknown: 0,
        bytes: 0,
        seconds: 0.0,
        records_per_second: 0.0,
    };
    let outcome = send_all(&producer, &mut lines, &arguments, &mut summary, &progress).await;
    progress.finish_and_clear();
    // What was taken is still delivered when a later line cannot be.
    let flushed = producer.close().await;
    client.close().await;
    let mut first = None;
    if let Err(failures) = flushed {
        summary.count(&failures);
        first = Some(failures.first.into());
    }
    if let Err(error) = outcome {
        first = Some(match error.downcast::<SendError>() {
            Ok(SendError::Earlier(failures)) => {
                summary.count(&failures);
                failures.first.clone().into()
            }
            Ok(error) => error.into(),
            Err(error) => error,
        });
    }
    summary.seconds = started.elapsed().as_secs_f64();
    summary.records_per_second = summary.records as f64 / summary.seconds.max(f64::EPSILON);
    if let Some(error) = first {
        if output == OutputFormat::Json {
            output.print(&summary, |_| Ok(()))?;
        }
        return Err(error.context(summary.failure()));
    }
    output.print(&summary, |out| {
        Ok(writeln!(
            out,
            "{}, {}, in {:.1} s to topic {} ({} records/s)",
            output::counted(summary.records, "record"),
            output::bytes(summary.bytes),
            summary.seconds,
            summary.topic,
            output::count(summary.records_per_second as u64),
        )?)
    })
}

impl Summary {
    /// Takes failed records out of those that were sent.
    fn count(&mut self, failures: &FlushError) {
        self.failed += failures.failed;
        self.unknown += failures.unknown;
        self.records = self.records.saturating_sub(failures.failed);
    }

    fn failure(&self) -> String {
        let stored = output::count(self.records);
        let sent = output::counted(self.records + self.failed, "record");
        let text = format!(
            "not every line is stored in topic {}: of {sent} sent, {stored} are stored",
            self.topic
        );
        match self.unknown {
            0 => text,
            unknown => format!("{text}, and {} more may be", output::count(unknown)),
        }
    }
}

async fn send_all(
    producer: &Producer<Raw>,
    lines: &mut Lines,
    arguments: &Arguments,
    summary: &mut Summary,
    progress: &indicatif::ProgressBar,
) -> Result<()> {
    while let Some(chunk) = lines.next().await {
        for line in chunk? {
            let number = line.number;
            let length = line.text.len() as u64;
            let message = message(line, arguments).with_context(|| format!("line {number}"))?;
            producer.enqueue(message).await?;
            summary.records += 1;
            summary.bytes += length;
        }
        progress.set_position(summary.records);
    }
    Ok(())
}

fn message(line: Line, arguments: &Arguments) -> Result<Message<Raw>> {
    let (key, value) = split(line.text, arguments)?;
    let mut message = Message::new(value);
    if let Some(key) = key {
        message = message.key_bytes(key);
    }
    for (name, value) in &arguments.headers {
        message = message.header(name, value);
    }
    if let Some(partition) = arguments.partition {
        message = message.partition(partition);
    }
    Ok(message)
}

/// The key, if there is to be one, and the value.
fn split(text: Bytes, arguments: &Arguments) -> Result<(Option<Bytes>, Bytes)> {
    if let Some(separator) = &arguments.key_separator {
        let at = find(&text, separator.as_bytes())
            .ok_or_else(|| anyhow!("{separator:?} is not in it, so that it has no key"))?;
        let value = text.slice(at + separator.len()..);
        return Ok((Some(text.slice(..at)), value));
    }
    if let Some(field) = &arguments.key_json {
        let object: Value = serde_json::from_slice(&text).context("it is not JSON")?;
        let key = match object.get(field) {
            Some(Value::String(key)) => key.clone(),
            Some(Value::Null) | None => {
                return Err(anyhow!("it has no field {field:?} to take the key from"));
            }
            Some(key) => key.to_string(),
        };
        return Ok((Some(key.into()), text));
    }
    Ok((None, text))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no header; write NAME=VALUE")),
    }
}

/// A separator, in which `\t` stands for a tab, as shells make it hard to type one.
fn parse_separator(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a separator cannot be empty".to_owned());
    }
    Ok(text.replace("\\t", "\t"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn split_with(flags: &[&str], line: &str) -> Result<(Option<Bytes>, Bytes)> {
        let all = ["produce", "topic"].iter().chain(flags);
        let arguments = Command::try_parse_from(all).unwrap().arguments;
        split(Bytes::copy_from_slice(line.as_bytes()), &arguments)
    }

    #[test]
    fn a_key_stands_before_the_first_separator() {
        let (key, value) = split_with(&["--key-separator", "\\t"], "a\tb\tc").unwrap();
        assert_eq!((key.unwrap(), value), ("a".into(), "b\tc".into()));
        assert!(split_with(&["--key-separator", ":"], "abc").is_err());
    }

    #[test]
    fn a_key_is_taken_from_a_json_field_and_the_value_stays_whole() {
        let line = r#"{"id": "x", "n": 7}"#;
        let (key, value) = split_with(&["--key-json", "id"], line).unwrap();
        assert_eq!((key.unwrap(), value), ("x".into(), line.into()));
        assert_eq!(
            split_with(&["--key-json", "n"], line).unwrap().0.unwrap(),
            "7"
        );
        assert!(split_with(&["--key-json", "absent"], line).is_err());
        assert!(split_with(&["--key-json", "id"], "not JSON").is_err());
    }

    #[test]
    fn without_flags_a_line_is_a_value() {
        assert_eq!(split_with(&[], "a:b").unwrap(), (None, "a:b".into()));
    }
}
