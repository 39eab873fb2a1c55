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
    failure::Interrupted,
    hint::Named,
    number::whole,
    output::{self, OutputFormat},
    stop,
};

const EXAMPLES: &str = "\
Examples:
  # records to come, until Ctrl-C
  flumen consume orders
  # all records that are there now
  flumen consume orders --from beginning --until-end
  flumen consume orders --from -1h --format json | jq .value
  flumen consume orders --from 2026-01-31T12:00:00Z --count 10
  flumen consume orders --partition 3 --from 1200
  # from a copy nearby
  flumen consume orders --zone eu-1

Formats:
  value        the value alone
  key-value    the key, a tab, the value
  json         an object with partition, offset, timestamp, key, value and headers; a value that
               is JSON stands as it is, any other text as a string, other bytes as {\"base64\": …}

Ctrl-C is the usual end without --count and --until-end, and exit code 0. With one of them it ends
the command too early, and the exit code is 130.";

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
    #[arg(long, value_name = "N", value_parser = whole(0..=u32::MAX))]
    partition: Option<u32>,
    /// Stop after so many records
    #[arg(long, value_name = "N", value_parser = whole(0..=u64::MAX))]
    count: Option<u64>,
    /// Stop at the end of the topic as it is now
    #[arg(long)]
    until_end: bool,
    /// How records are printed; default: value, or json with --output json
    #[arg(long, value_enum)]
    format: Option<RecordFormat>,
    /// Read from a broker of this zone that has a copy, else from the leader; default: the zone
    /// of the profile
    #[arg(long, value_name = "ZONE", env = "FLUMEN_ZONE")]
    zone: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments, output: OutputFormat) -> Result<()> {
    let format = arguments.format.unwrap_or(match output {
        OutputFormat::Text => RecordFormat::Value,
        OutputFormat::Json => RecordFormat::Json,
    });
    let client = arguments
        .connection
        .connect_in(arguments.zone.as_deref())
        .await?;
    let mut builder = client
        .consumer::<Raw>(arguments.topic.as_str())
        .from(arguments.from);
    if let Some(partition) = arguments.partition {
        builder = builder.partition(partition, arguments.from);
    }
    if arguments.until_end {
        builder = builder.until_end();
    }
    let outcome = match builder.with_tombstones().build().await {
        Ok(mut consumer) => print_until_stopped(&mut consumer, format, &arguments).await,
        Err(ConsumeError::Setup(error)) => {
            let named = Named::topic(&arguments.topic);
            Err(named.explain(&client, error).await)
        }
        Err(error) => Err(error.into()),
    };
    client.close().await;
    outcome
}

/// A signal is the usual end of consuming without an end, and an error before any other end.
async fn print_until_stopped(
    consumer: &mut Consumer<Option<Raw>>,
    format: RecordFormat,
    arguments: &Arguments,
) -> Result<()> {
    let count_max = arguments.count.unwrap_or(u64::MAX);
    let progress = output::progress(arguments.count, "records");
    let mut count = 0;
    let outcome = tokio::select! {
        printed = print(consumer, format, count_max, &progress, &mut count) => printed,
        signal = stop::requested() => match signal.context("cannot listen to signals") {
            Ok(signal) if arguments.count.is_some() || arguments.until_end => {
                let of = arguments.count.map(|of| format!(" of {}", output::count(of)));
                let so_far = format!(
                    "after {}{}",
                    output::counted(count, "record"),
                    of.unwrap_or_default()
                );
                Err(Interrupted { signal, so_far }.into())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        },
    };
    progress.finish_and_clear();
    outcome
}

/// Prints records until the consumer ends or `count_max` is reached.
async fn print(
    consumer: &mut Consumer<Option<Raw>>,
    format: RecordFormat,
    count_max: u64,
    progress: &indicatif::ProgressBar,
    count: &mut u64,
) -> Result<()> {
    let mut passed_over = 0;
    let mut lines = Vec::new();
    while *count < count_max {
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
        let left = usize::try_from(count_max - *count).unwrap_or(usize::MAX);
        for (offset, record) in batch.records().take(left) {
            format.write(&mut lines, partition, offset, &record)?;
            *count += 1;
        }
        // Written batch by batch, so that whoever reads sees each as soon as it is here.
        progress.suspend(|| write(&lines))?;
        lines.clear();
        progress.set_position(*count);
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
