//! `flumen produce`: lines become records.

mod json;
pub(crate) mod key;
pub(crate) mod lines;
mod receipts;
mod record;
mod sender;
mod summary;

use std::{
    convert::Infallible,
    iter,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use flumen_client::{Client, Codec};
use flumen_protocol::topic::TopicName;
use indicatif::ProgressBar;
use tokio::sync::watch;

use self::{
    lines::{Line, Lines},
    record::{Record, RecordFlags},
    sender::{Sender, Sending},
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
  echo '{\"key\":\"user-1\",\"value\":{\"age\":7},\"headers\":{\"from\":\"web\"}}' \\
      | flumen produce users --format json
  # copy a topic, with keys, headers, times, tombstones and partitions
  flumen consume users --from beginning --until-end --format json \\
      | flumen produce users-2 --format json

Each line becomes a record, without its line end.

With --format json, each line is an object:
  value           any JSON value: a text stands for itself, without its quotes; {\"base64\": …} for
                  bytes; null for no value, which deletes the key in a compacted topic; anything
                  else for its JSON, as it is written
  value_encoding  json, text or base64, to say which of them the value is
  key             a text, a number, true, false, or {\"base64\": …}
  headers         [[\"name\", \"value\"], …] or {\"name\": \"value\", …}
  timestamp       a time such as \"2026-01-31T12:00:00Z\", or milliseconds since 1970; else now
  partition       where the record goes; else the key decides, as always with --repartition
  content_type    what the value is, for those who consume it; --content-type goes before it
Only the value must be there. An offset is passed over, and a field of another name ends the
command, as does any other line that is no record: the error says which line it is.

The command ends when all records are durable; when it fails, it says how many are, and which line
was the first that is not, also with --output json. While the broker takes nothing, such as with a
full disk, records are sent again for a minute, or for as long as --timeout says, and the reason is
told on stderr. Ctrl-C reads no further line, waits a moment for what is on its way, and says what
is stored, what is not and what may be; the exit code is 130.";

/// How long what is on its way may still be acknowledged after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// Send lines from a file or standard input as records
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    topic: TopicName,
    /// The file to read; without it, or with `-`, standard input
    file: Option<PathBuf>,
    #[command(flatten)]
    record: RecordFlags,
    /// How batches are compressed; default: as the topic says
    #[arg(long, value_name = "none|lz4|zstd")]
    compression: Option<Codec>,
    /// How many records travel together at most
    #[arg(long, value_name = "N", value_parser = whole(1..=65_536_u32))]
    batch_records: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    arguments.record.check()?;
    let (mut lines, client) = match open(&arguments).await {
        Ok(opened) => opened,
        Err(error) => return summary::print_not_begun(&arguments.topic, error, output),
    };
    let sending = Sending {
        topic: &arguments.topic,
        compression: arguments.compression,
        batch_records: arguments.batch_records,
        delivery_timeout: arguments.connection.request_timeout(),
    };
    let sender = match Sender::new(&client, sending, arguments.record.content_type()).await {
        Ok(sender) => sender,
        Err(error) => {
            let error = Named::topic(&arguments.topic).explain(&client, error).await;
            client.close().await;
            return summary::print_not_begun(&arguments.topic, error, output);
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
            &sender,
            lines,
            &arguments.record,
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
        never = tell_why_it_waits(&sender, &progress, stop.subscribe()) => match never {},
    };
    progress.finish_and_clear();
    client.close().await;
    let summary = Summary::new(&arguments.topic, &outcome, started.elapsed());
    summary.print(outcome, sent, signal, output)
}

/// The lines, and a client to send them with.
async fn open(arguments: &Arguments) -> Result<(Lines, Client)> {
    let line_bytes_max = arguments.record.line_bytes_max();
    let lines = Lines::open(arguments.file.clone(), line_bytes_max)?;
    Ok((lines, arguments.connection.connect().await?))
}

/// Tells on stderr why records wait. What comes of those that wait when the command is told to stop
/// is said in its summary.
async fn tell_why_it_waits(
    sender: &Sender<'_>,
    progress: &ProgressBar,
    stopped: watch::Receiver<bool>,
) -> Infallible {
    let mut waiting = Waiting::new("records wait no longer");
    loop {
        tokio::time::sleep(waiting::POLL).await;
        let setback = sender.setback();
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

/// Sends lines until they end, one of them fails, or it is told to stop.
async fn send_all(
    sender: &Sender<'_>,
    lines: &mut Lines,
    flags: &RecordFlags,
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
        let sent = send_chunk(sender, chunk, flags, outcome).await;
        outcome.receipts.settle_ready();
        sent?;
        if outcome.receipts.first.is_some() {
            return Ok(());
        }
        progress.set_position(outcome.sent);
    }
}

/// Sends lines until one of them is no record, or is not taken.
async fn send_chunk(
    sender: &Sender<'_>,
    lines: Vec<Line>,
    flags: &RecordFlags,
    outcome: &mut Outcome,
) -> Result<()> {
    let Some(mut number) = lines.first().map(|line| line.number) else {
        return Ok(());
    };
    let mut failed = None;
    let records = lines.into_iter().map_while(|line| {
        let record = flags.record(line.text);
        record.map_err(|error| failed = Some(error)).ok()
    });
    // Those before a line that is no record are sent.
    let records: Vec<_> = records.collect();
    let mut records = records.into_iter().peekable();
    while let Some(next) = records.peek() {
        let content_type = next.content_type.clone();
        let run = iter::from_fn(|| records.next_if(|record| record.content_type == content_type));
        let content_type = content_type.as_deref().unwrap_or(flags.content_type());
        let sent = send_run(sender, run, content_type, &mut number, outcome).await;
        if outcome.receipts.first.is_some() {
            // Nothing is sent behind a record that is known to have failed.
            return Ok(());
        }
        if let Err(error) = sent {
            failed = Some(error);
            break;
        }
    }
    let Some(failed) = failed else {
        return Ok(());
    };
    outcome.line_not_taken = Some(number);
    Err(failed.context(format!("line {number}")))
}

/// Sends records of one content type, until one of them is not taken. `number` is that of the line
/// that comes next.
async fn send_run(
    sender: &Sender<'_>,
    records: impl Iterator<Item = Record>,
    content_type: &str,
    number: &mut u64,
    outcome: &mut Outcome,
) -> Result<()> {
    let producer = sender.of_type(content_type, &mut outcome.receipts).await?;
    if outcome.receipts.first.is_some() {
        return Ok(());
    }
    let (mut receipts, mut lengths) = (Vec::new(), Vec::new());
    let messages = records.map(|record| {
        lengths.push(record.bytes);
        record.message
    });
    let taken = producer.submit_all(messages, &mut receipts).await;
    for (receipt, length) in receipts.into_iter().zip(lengths) {
        outcome.receipts.push(*number, receipt).await;
        outcome.sent += 1;
        outcome.bytes += length;
        *number += 1;
    }
    taken.map_err(|error| error.source.into())
}
