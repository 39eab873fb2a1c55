//! `flumen consume`: records become lines.

pub(crate) mod format;
mod start;

use std::{
    io::{self, IsTerminal as _, Write},
    pin::pin,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use flumen_client::{ConsumeError, Consumer, ConsumerBuilder, Raw, StartAt};
use flumen_protocol::topic::TopicName;
use indicatif::ProgressBar;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, timeout},
};

use self::format::RecordFormat;
use crate::{
    connect::Connection,
    failure::Interrupted,
    hint::Named,
    number::whole,
    output::{self, OutputFormat},
    stop,
    waiting::{self, Waiting},
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
  json         an object with partition, offset, timestamp, key, value, headers and content_type;
               a value that is JSON stands as it is, any other text as a string, other bytes as
               {\"base64\": …}; value_encoding says which: json, text or base64. `flumen produce
               --format json` reads it

While no broker can be read from, the command tries again, and the reason is told on stderr.

Ctrl-C is the usual end without --count and --until-end, and exit code 0. With one of them it ends
the command too early, and the exit code is 130. A second Ctrl-C ends it at once.";

/// How long somebody may still read what is being printed after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// Print records as lines
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The topic
    topic: TopicName,
    /// Where to start in each partition: beginning, end, an offset, a time such as 2026-01-31T12:00:00Z, or -1h
    #[arg(long, value_name = "START", default_value = "end", allow_hyphen_values = true, value_parser = start::parse)]
    from: StartAt,
    /// Read this partition only
    #[arg(long, value_name = "N", value_parser = whole(0..=u32::MAX))]
    partition: Option<u32>,
    /// Stop after so many records
    #[arg(long, value_name = "N", value_parser = whole(0..=u64::MAX))]
    count: Option<u64>,
    /// Stop at the end of the topic as it is now; while a partition has no leader, its end is not
    /// known, and is waited for
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
    let mut waiting = Waiting::new("records can be read");
    let outcome = match build(builder.with_tombstones(), &mut waiting).await {
        Ok(mut consumer) => print_until_stopped(&mut consumer, waiting, format, &arguments).await,
        Err(ConsumeError::Setup(error)) => {
            let named = Named::topic(&arguments.topic);
            Err(named.explain(&client, error).await)
        }
        Err(error) => Err(error.into()),
    };
    client.close().await;
    outcome
}

/// Builds the consumer, and tells why that takes long.
async fn build<T>(
    builder: ConsumerBuilder<T>,
    waiting: &mut Waiting,
) -> Result<Consumer<T>, ConsumeError> {
    let setbacks = builder.setbacks();
    let mut building = pin!(builder.build());
    let mut look = interval(waiting::POLL);
    loop {
        tokio::select! {
            built = &mut building => return built,
            _ = look.tick() => waiting.look(setbacks.setback(), &ProgressBar::hidden()),
        }
    }
}

/// A signal is the usual end of consuming without an end, and an error before any other end.
async fn print_until_stopped(
    consumer: &mut Consumer<Option<Raw>>,
    waiting: Waiting,
    format: RecordFormat,
    arguments: &Arguments,
) -> Result<()> {
    let progress = output::progress(arguments.count, "records");
    let mut printer = Printer {
        format,
        count_max: arguments.count.unwrap_or(u64::MAX),
        count: 0,
        progress: progress.clone(),
        waiting,
    };
    let stop = watch::Sender::new(false);
    let mut is_read = true;
    let outcome = {
        let mut printing = pin!(printer.print(consumer, stop.subscribe()));
        tokio::select! {
            printed = &mut printing => Ok(printed),
            signal = stop::requested() => {
                stop.send_replace(true);
                // What is being printed is not cut, unless nobody reads it. How that ends is of
                // no interest: whoever reads may have had the same signal.
                is_read = timeout(GRACE, printing).await.is_ok();
                Err(signal.context("cannot listen to signals"))
            }
        }
    };
    // On a terminal that nobody reads, the line belongs to what is being printed.
    if is_read {
        progress.finish_and_clear();
    }
    match outcome {
        Ok(printed) => printed,
        Err(Ok(signal)) if arguments.count.is_some() || arguments.until_end => {
            let of = arguments
                .count
                .map(|of| format!(" of {}", output::count(of)));
            let so_far = format!(
                "after {}{}",
                output::counted(printer.count, "record"),
                of.unwrap_or_default()
            );
            Err(Interrupted { signal, so_far }.into())
        }
        Err(Ok(_)) => Ok(()),
        Err(Err(error)) => Err(error),
    }
}

/// Prints records, and knows how many it has.
struct Printer {
    format: RecordFormat,
    count_max: u64,
    count: u64,
    progress: ProgressBar,
    waiting: Waiting,
}

impl Printer {
    /// Prints records until the consumer ends, there are enough, or it is told to stop.
    async fn print(
        &mut self,
        consumer: &mut Consumer<Option<Raw>>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut passed_over = 0;
        let mut look = interval(waiting::POLL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lines = Vec::new();
        while self.count < self.count_max {
            let batch = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                _ = look.tick() => {
                    self.waiting.look(consumer.setback(), &self.progress);
                    continue;
                }
                batch = consumer.next_batch() => batch,
            };
            let batch = match batch {
                None => break,
                Some(Ok(batch)) => batch,
                Some(Err(error)) if error.is_fatal() => return Err(error.into()),
                Some(Err(error)) => {
                    self.progress
                        .suspend(|| anstream::eprintln!("warning: {error}"));
                    passed_over += 1;
                    continue;
                }
            };
            let left = usize::try_from(self.count_max - self.count).unwrap_or(usize::MAX);
            let mut count = self.count;
            for (offset, record) in batch.records().take(left) {
                self.format.write(
                    &mut lines,
                    batch.partition,
                    batch.content_type(),
                    offset,
                    &record,
                )?;
                count += 1;
            }
            // Written batch by batch, so that whoever reads sees each as soon as it is here.
            lines = write(lines, self.progress.clone()).await?;
            self.count = count;
            self.progress.set_position(count);
        }
        if passed_over > 0 {
            bail!("some records could not be read and were passed over, see the warnings above");
        }
        Ok(())
    }
}

/// Writes lines to standard output, and returns the memory. On a thread for what blocks: whoever
/// reads may stall, and that must not keep the command from hearing of anything else.
async fn write(mut lines: Vec<u8>, progress: ProgressBar) -> Result<Vec<u8>> {
    spawn_blocking(move || {
        let mut out = io::stdout().lock();
        let mut write = || out.write_all(&lines).and_then(|()| out.flush());
        // Elsewhere than on a terminal, lines and progress are not in each other's way.
        if io::stdout().is_terminal() {
            progress.suspend(write)?;
        } else {
            write()?;
        }
        lines.clear();
        Ok(lines)
    })
    .await?
}
