//! `flumen consume`: records become lines.

pub(crate) mod format;
mod start;

use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result, bail};
use flumen_client::{ConsumeError, Consumer, Raw, StartAt};
use flumen_protocol::topic::TopicName;

use self::format::RecordFormat;
use crate::{
    connect::Connection,
    output::{self, OutputFormat},
    stop,
};

const EXAMPLES: &str = "\
Examples:
  flumen consume orders                                  records to come, until Ctrl-C
  flumen consume orders --from beginning --until-end     all records that are there now
  flumen consume orders --from -1h --format json | jq .value
  flumen consume orders --from 2026-01-31T12:00:00Z --count 10
  flumen consume orders --partition 3 --from 1200

Formats:
  value        the value alone
  key-value    the key, a tab, the value
  json         an object with partition, offset, timestamp, key, value and headers; a value that
               is JSON stands as it is, any other text as a string, other bytes as {\"base64\": …}";

/// Print records as lines
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    topic: TopicName,
    /// Where to start: beginning, end, an offset, a time such as 2026-01-31T12:00:00Z, or -1h
    #[arg(long, value_name = "START", default_value = "end", allow_hyphen_values = true, value_parser = start::parse)]
    from: StartAt,
    /// Read this partition only
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop at the end of the topic as it is now
    #[arg(long)]
    until_end: bool,
    /// How records are printed; default: value, or json with --output json
    #[arg(long, value_enum)]
    format: Option<RecordFormat>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let format = arguments.format.unwrap_or(match output {
        OutputFormat::Text => RecordFormat::Value,
        OutputFormat::Json => RecordFormat::Json,
    });
    let client = arguments.connection.connect().await?;
    let mut builder = client
        .consumer::<Raw>(arguments.topic.as_str())
        .from(arguments.from);
    if let Some(partition) = arguments.partition {
        builder = builder.partition(partition, arguments.from);
    }
    if arguments.until_end {
        builder = builder.until_end();
    }
    let mut consumer = builder.with_tombstones().build().await?;
    let count_max = arguments.count.unwrap_or(u64::MAX);
    let progress = output::progress(arguments.count, "records");
    let printed = tokio::select! {
        printed = print(&mut consumer, format, count_max, &progress) => printed,
        signal = stop::requested() => signal.map(|_| ()).context("cannot listen to signals"),
    };
    progress.finish_and_clear();
    client.close().await;
    printed
}

/// Prints records until the consumer ends or `count_max` is reached.
async fn print(
    consumer: &mut Consumer<Option<Raw>>,
    format: RecordFormat,
    count_max: u64,
    progress: &indicatif::ProgressBar,
) -> Result<()> {
    let mut count = 0;
    let mut passed_over = 0;
    let mut lines = Vec::new();
    while count < count_max {
        let Some(batch) = consumer.next_batch().await else {
            break;
        };
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => {
                progress.suspend(|| anstream::eprintln!("warning: {error}"));
                let is_passing = matches!(error, ConsumeError::Disconnected { .. });
                passed_over += u64::from(!is_passing);
                continue;
            }
        };
        let partition = batch.partition;
        let left = usize::try_from(count_max - count).unwrap_or(usize::MAX);
        for (offset, record) in batch.records().take(left) {
            format.write(&mut lines, partition, offset, &record)?;
            count += 1;
        }
        // Written batch by batch, so that whoever reads sees each as soon as it is here.
        progress.suspend(|| write(&lines))?;
        lines.clear();
        progress.set_position(count);
    }
    if passed_over > 0 {
        bail!("some records could not be read and were passed over, see the warnings above");
    }
    Ok(())
}

fn write(lines: &[u8]) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    out.write_all(lines)?;
    out.flush()
}
