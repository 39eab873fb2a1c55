//! `flumen produce`: lines become records.

mod key;
pub(crate) mod lines;
mod receipts;
mod summary;

use std::{
    convert::Infallible,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use flumen_client::{Client, Codec, Message, Producer, Raw};
use flumen_protocol::topic::TopicName;
use indicatif::ProgressBar;
use tokio::sync::watch;

use self::{
    key::KeyFlags,
    lines::{Line, Lines},
    summary::{Outcome, Summary},
};
use crate::{
    connect::Connection,
    hint::Named,
    number::whole,
    output::{self, OutputFormat},
    stop::{self, Signal},
    waiting::{self, Waiting},
};

const EXAMPLES: &str = "\
Examples:
  echo 'hello' | flumen produce greetings
  flumen produce quakes examples/data/earthquakes.ndjson --key-json id
  printf 'user-1\\tsigned in\\n' | flumen produce audit --key-separator '\\t'
  tail -f app.log | flumen produce logs --header host=\"$(hostname)\" --compression zstd

Each line becomes a record, without its line end. The command ends when all records are durable;
when it fails, it says how many are, and which line was the first that is not, also with
--output json. While the broker takes nothing, such as with a full disk, records are sent again for
a minute, or for as long as --timeout says, and the reason is told on stderr. Ctrl-C reads no
further line, waits a moment for what is on its way, and says what is stored, what is not and what
may be; the exit code is 130.";

/// How long what is on its way may still be acknowledged after a signal.
const GRACE: Duration = Duration::from_secs(2);

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
    #[command(flatten)]
    key: KeyFlags,
    /// A header of every record; can be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// How batches are compressed; default: as the topic says
    #[arg(long, value_name = "none|lz4|zstd")]
    compression: Option<Codec>,
    /// How many records travel together at most
    #[arg(long, value_name = "N", value_parser = whole(1..=65_536_u32))]
    batch_records: Option<u32>,
    /// What the values are, such as application/json, for those who consume them
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Send everything to this partition, whatever the keys
    #[arg(long, value_name = "N", value_parser = whole(0..=u32::MAX))]
    partition: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let mut lines = Lines::open(arguments.file.clone())?;
    let client = arguments.connection.connect().await?;
    let producer = match build(&client, &arguments).await {
        Ok(producer) => producer,
        Err(error) => {
            let error = Named::topic(&arguments.topic).explain(&client, error).await;
            client.close().await;
            return Err(error);
        }
    };

    let started = Instant::now();
    let progress = output::progress(None, "records");
    let mut outcome = Outcome::default();
    let stop = watch::Sender::new(false);
    let sending = async {
        let stopped = stop.subscribe();
        let lines = &mut lines;
        let sent = send_all(
            &producer,
            lines,
            &arguments,
            &mut outcome,
            &progress,
            stopped,
        )
        .await;
        // What was taken is still delivered when a later line cannot be.
        outcome.receipts.settle_all().await;
        sent
    };
    let (sent, signal) = tokio::select! {
        ended = until_stopped(sending, &client, &stop) => ended,
        never = tell_why_it_waits(&producer, &progress, stop.subscribe()) => match never {},
    };
    progress.finish_and_clear();
    client.close().await;
    let summary = Summary::new(&arguments.topic, &outcome, started.elapsed());
    summary.print(outcome, sent, signal, output)
}

/// Tells on stderr why records wait. What comes of those that wait when the command is told to stop
/// is said in its summary.
async fn tell_why_it_waits(
    producer: &Producer<Raw>,
    progress: &ProgressBar,
    stopped: watch::Receiver<bool>,
) -> Infallible {
    let mut waiting = Waiting::new("records wait no longer");
    loop {
        tokio::time::sleep(waiting::POLL).await;
        let setback = producer.setback();
        if setback.is_some() || !*stopped.borrow() {
            waiting.look(setback, progress);
        }
    }
}

/// Sends to the end, or until a signal comes: then no more lines are read, and what has no
/// receipt after [`GRACE`] is given up.
async fn until_stopped(
    sending: impl Future<Output = Result<()>>,
    client: &Client,
    stop: &watch::Sender<bool>,
) -> (Result<()>, Option<Signal>) {
    let mut sending = pin!(sending);
    let signal = tokio::select! {
        sent = &mut sending => return (sent, None),
        signal = stop::requested() => signal,
    };
    stop.send_replace(true);
    let signal = match signal.context("cannot listen to signals") {
        Ok(signal) => signal,
        Err(error) => {
            let sent = sending.await;
            return (sent.and(Err(error)), None);
        }
    };
    let sent = match tokio::time::timeout(GRACE, &mut sending).await {
        Ok(sent) => sent,
        Err(_) => {
            client.close().await;
            sending.await
        }
    };
    (sent, Some(signal))
}

async fn build(
    client: &Client,
    arguments: &Arguments,
) -> Result<Producer<Raw>, flumen_client::RequestError> {
    let mut builder = client.producer::<Raw>(arguments.topic.as_str());
    if let Some(codec) = arguments.compression {
        builder = builder.compression(codec);
    }
    if let Some(after) = arguments.connection.request_timeout() {
        builder = builder.delivery_timeout(after);
    }
    if let Some(records) = arguments.batch_records {
        builder = builder.batch_records(records);
    }
    match (&arguments.content_type, &arguments.key.key_json) {
        (Some(content_type), _) => builder = builder.content_type(content_type),
        (None, Some(_)) => builder = builder.content_type(JSON),
        (None, None) => {}
    }
    builder.build().await
}

/// Sends lines until they end, one of them fails, or it is told to stop.
async fn send_all(
    producer: &Producer<Raw>,
    lines: &mut Lines,
    arguments: &Arguments,
    outcome: &mut Outcome,
    progress: &ProgressBar,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        let chunk = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            chunk = lines.next() => chunk,
            // Input that goes on, such as that of `tail -f`, may bring no line for long.
            () = outcome.receipts.until_one_fails() => return Ok(()),
        };
        let Some(chunk) = chunk else {
            outcome.all_read = true;
            return Ok(());
        };
        let chunk = chunk.inspect_err(|_| {
            // All lines before it were sent.
            outcome.line_not_taken = Some(outcome.sent + 1);
        })?;
        let sent = send_chunk(producer, chunk, arguments, outcome).await;
        outcome.receipts.settle_ready();
        sent?;
        if outcome.receipts.first.is_some() {
            return Ok(());
        }
        progress.set_position(outcome.sent);
    }
}

/// Sends lines until one of them is no message, or is not taken.
async fn send_chunk(
    producer: &Producer<Raw>,
    lines: Vec<Line>,
    arguments: &Arguments,
    outcome: &mut Outcome,
) -> Result<()> {
    let Some(first) = lines.first().map(|line| line.number) else {
        return Ok(());
    };
    let lengths: Vec<_> = lines.iter().map(|line| line.text.len() as u64).collect();
    let mut not_a_message = None;
    let messages = lines.into_iter().map_while(|line| {
        let message = message(line, arguments);
        message.map_err(|error| not_a_message = Some(error)).ok()
    });
    let mut receipts = Vec::with_capacity(lengths.len());
    let taken = producer.submit_all(messages, &mut receipts).await;
    let failed: Option<anyhow::Error> = match taken {
        Ok(()) => not_a_message,
        Err(error) => Some(error.source.into()),
    };
    let not_taken = first + receipts.len() as u64;
    for ((number, receipt), length) in (first..).zip(receipts).zip(lengths) {
        outcome.receipts.push(number, receipt).await;
        outcome.sent += 1;
        outcome.bytes += length;
    }
    let Some(failed) = failed else {
        return Ok(());
    };
    outcome.line_not_taken = Some(not_taken);
    Err(failed.context(format!("line {not_taken}")))
}

fn message(line: Line, arguments: &Arguments) -> Result<Message<Raw>> {
    let (key, value) = arguments.key.split(line.text)?;
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

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no header; write NAME=VALUE")),
    }
}
