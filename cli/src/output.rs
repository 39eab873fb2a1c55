//! Results as text or JSON. Data goes to stdout, talk and progress to stderr.

use std::{
    fmt::Display,
    io::{self, BufWriter, IsTerminal, Write},
    time::Duration,
};

use anyhow::Result;
use comfy_table::{Table, presets};
use flumen_protocol::size::Size;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use crate::failure::is_broken_pipe;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    #[default]
    Text,
    /// One JSON value, for programs
    Json,
}

impl OutputFormat {
    /// Prints a result: `value` as JSON, or what `text` writes. That nobody reads it is no failure, and
    /// hides none: the command goes on to its own end.
    pub(crate) fn print<T: Serialize + ?Sized>(
        self,
        value: &T,
        text: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        match self.write(value, text) {
            Err(error) if is_broken_pipe(&error) => Ok(()),
            printed => printed,
        }
    }

    fn write<T: Serialize + ?Sized>(
        self,
        value: &T,
        text: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        match self {
            Self::Text => text(&mut out)?,
            Self::Json => {
                if io::stdout().is_terminal() {
                    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
                } else {
                    serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
                }
                writeln!(out)?;
            }
        }
        out.flush()?;
        Ok(())
    }

    /// Prints that something was done: a sentence, or an object of what was done and to what,
    /// such as `{"action": "created", "topic": "orders"}`.
    pub(crate) fn done<T: Serialize>(self, action: &str, object: &T, sentence: &str) -> Result<()> {
        #[derive(Serialize)]
        struct Done<'a, T> {
            action: &'a str,
            #[serde(flatten)]
            object: &'a T,
        }
        self.print(&Done { action, object }, |out| {
            Ok(writeln!(out, "{sentence}")?)
        })
    }
}

/// A table of what people read: no frames, so that it can be cut and pasted.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding(COLUMN_PADDING);
    }
    table
}

/// Blanks before and behind what stands in a column.
const COLUMN_PADDING: (u16, u16) = (0, 2);

/// Writes a table without blanks at the ends of lines.
pub(crate) fn write_table(out: &mut dyn Write, table: &Table) -> Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// `name: value` lines with the values below each other.
pub(crate) fn write_fields(out: &mut dyn Write, fields: &[(&str, &dyn Display)]) -> Result<()> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    for (name, value) in fields {
        writeln!(out, "{:width$} {value}", format!("{name}:"))?;
    }
    Ok(())
}

/// A progress line on stderr; nothing when that is no terminal.
pub(crate) fn progress(total: Option<u64>, unit: &str) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    let position = match total {
        Some(_) => "{bar:30} {human_pos} of {human_len}",
        None => "{spinner} {human_pos}",
    };
    let template = format!("{{msg}} {position} {unit} {{elapsed}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A time in milliseconds since the epoch, in the local time zone.
pub(crate) fn time(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(timestamp) => timestamp
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S%:z")
            .to_string(),
        Err(_) => format!("{ms} ms"),
    }
}

/// A number of bytes, rounded for people: `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    Size(bytes).to_string()
}

/// A value, or a dash where there is none.
pub(crate) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A count with separators between thousands.
pub(crate) fn count(count: u64) -> String {
    indicatif::HumanCount(count).to_string()
}

/// A count with its noun: `1 record`, `2,000 records`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}
