//! What a run of `flumen produce` came to.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Error, Result};
use flumen_client::SendError;
use flumen_protocol::topic::TopicName;
use serde::Serialize;

use super::receipts::Receipts;
use crate::{
    failure::{self, Interrupted},
    output::{self, OutputFormat},
    stop::Signal,
};

/// What was sent, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) sent: u64,
    pub(super) bytes: u64,
    pub(super) receipts: Receipts,
    /// The line that could not be sent at all.
    pub(super) line_not_taken: Option<u64>,
    /// Whether the input has ended.
    pub(super) all_read: bool,
}

/// Tells that it did not get so far as to send, and why. What was asked for in the wrong way has no
/// summary.
pub(super) fn print_not_begun(topic: &TopicName, error: Error, output: OutputFormat) -> Result<()> {
    if failure::is_usage(&error) {
        return Err(error);
    }
    let nothing = Outcome {
        line_not_taken: Some(1),
        ..Outcome::default()
    };
    let mut summary = Summary::new(topic, &nothing, Duration::ZERO);
    if output == OutputFormat::Json {
        summary.error = Some(failure::describe(&error));
        output.print(&summary, |_| Ok(()))?;
    }
    Err(error.context(format!("nothing was sent to topic {topic}")))
}

#[derive(Debug, Serialize)]
pub(super) struct Summary {
    topic: String,
    /// Records that are durable, or that a plugin took.
    records: u64,
    /// Records that were refused or are lost.
    failed: u64,
    /// How many of those that failed may be durable all the same.
    unknown: u64,
    /// The first line of the input that is not stored. Lines after it may be.
    first_failed_line: Option<u64>,
    /// The line that a plugin blames; all lines of its batch failed with it.
    line_at_fault: Option<u64>,
    /// Why the first line failed.
    error: Option<String>,
    bytes: u64,
    elapsed_ms: u64,
    records_per_second: f64,
}

impl Summary {
    pub(super) fn new(topic: &TopicName, outcome: &Outcome, elapsed: Duration) -> Self {
        let Receipts {
            stored,
            failed,
            unknown,
            ..
        } = outcome.receipts;
        let first = outcome.receipts.first.as_ref();
        Self {
            topic: topic.to_string(),
            records: stored,
            failed,
            unknown,
            first_failed_line: first.map(|first| first.line).or(outcome.line_not_taken),
            line_at_fault: first.and_then(|first| first.line_at_fault),
            error: None,
            bytes: outcome.bytes,
            elapsed_ms: elapsed.as_millis() as u64,
            records_per_second: stored as f64 / elapsed.as_secs_f64().max(f64::EPSILON),
        }
    }

    /// Tells it; an error if a line failed or could not be read or sent, or if a signal came
    /// before all were.
    pub(super) fn print(
        mut self,
        outcome: Outcome,
        sent: Result<()>,
        signal: Option<Signal>,
        output: OutputFormat,
    ) -> Result<()> {
        let failed = match (outcome.receipts.first, sent) {
            (Some(first), _) => {
                let line = first.line_at_fault.unwrap_or(first.line);
                let error = in_lines(first.error, first.line_at_fault.is_some());
                Some(Error::from(error).context(format!("line {line}")))
            }
            (None, Err(error)) => Some(error),
            (None, Ok(())) => None,
        };
        let (error, told) = match (failed, signal) {
            (None, None) => return self.print_success(output),
            (None, Some(_)) if outcome.all_read => return self.print_success(output),
            (failed, Some(signal)) => {
                let mut so_far = format!("before all was done: {}", self.so_far(outcome.sent));
                if let Some(error) = failed {
                    so_far = failure::describe(&error.context(so_far));
                }
                let error = Error::from(Interrupted { signal, so_far });
                (error.to_string(), error)
            }
            (Some(error), None) => (
                format!("{error:#}"),
                error.context(self.failure(outcome.sent)),
            ),
        };
        if output == OutputFormat::Json {
            self.error = Some(error);
            output.print(&self, |_| Ok(()))?;
        }
        Err(told)
    }

    fn print_success(&self, output: OutputFormat) -> Result<()> {
        output.print(self, |out| {
            Ok(writeln!(
                out,
                "{}, {}, in {:.1} s to topic {} ({} records/s)",
                output::counted(self.records, "record"),
                output::bytes(self.bytes),
                self.elapsed_ms as f64 / 1e3,
                self.topic,
                output::count(self.records_per_second as u64),
            )?)
        })
    }

    fn failure(&self, sent: u64) -> String {
        format!("not every line is stored: {}", self.so_far(sent))
    }

    /// What became of the lines that were sent.
    fn so_far(&self, sent: u64) -> String {
        let are = |count: u64| {
            let verb = if count == 1 { "is" } else { "are" };
            format!("{} {verb}", output::count(count))
        };
        let mut text = format!(
            "of {} sent to topic {}, {} stored",
            output::counted(sent, "record"),
            self.topic,
            are(self.records),
        );
        let lost = self.failed - self.unknown;
        if lost > 0 {
            let _ = write!(text, ", {} not", are(lost));
        }
        if self.unknown > 0 {
            let unknown = output::count(self.unknown);
            let _ = write!(text, ", {unknown} may be");
        }
        if let Some(line) = self.first_failed_line {
            let _ = write!(text, "; the first that is not stored is line {line}");
            match self.line_at_fault {
                Some(fault) if fault != line => {
                    let _ = write!(text, ", whose batch failed because of line {fault}");
                }
                _ => {}
            }
        }
        text
    }
}

/// The error without the number of the record in its batch, where the line is known instead.
fn in_lines(mut error: SendError, line_is_known: bool) -> SendError {
    if let SendError::Rejected {
        record: Some(record),
        text,
        ..
    } = &mut error
        && line_is_known
    {
        *text = text.replacen(&format!("cannot take record {record}"), "cannot take it", 1);
    }
    error
}
