//! Lines of a file or of standard input, read on a thread of their own: neither can be read
//! without blocking.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use flumen_protocol::size::Size;
use tokio::sync::mpsc;

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) text: Bytes,
}

/// Lines handed over at once, if so many are there.
const CHUNK_LINES: usize = 1_000;

/// Chunks that may wait.
const CHUNKS_WAITING_MAX: usize = 16;

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Lines as they come, several at a time.
#[derive(Debug)]
pub(crate) struct Lines(mpsc::Receiver<Result<Vec<Line>>>);

impl Lines {
    /// Opens a file, or standard input, of lines of so many bytes at most.
    pub(crate) fn open(path: Option<PathBuf>, line_bytes_max: usize) -> Result<Self> {
        let (input, name): (Box<dyn Read + Send>, _) = match path {
            Some(path) if path != Path::new("-") => {
                let name = path.display().to_string();
                let file = File::open(&path).with_context(|| format!("cannot open {name}"))?;
                (Box::new(file), name)
            }
            _ => (Box::new(io::stdin()), "standard input".to_owned()),
        };
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || read(input, line_bytes_max, &name, &sender))
            .context("cannot start a thread that reads lines")?;
        Ok(Self(receiver))
    }

    /// The next lines; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Vec<Line>>> {
        self.0.recv().await
    }
}

fn read(
    input: impl Read,
    line_bytes_max: usize,
    name: &str,
    sender: &mpsc::Sender<Result<Vec<Line>>>,
) {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    let mut number = 0;
    loop {
        let chunk = read_chunk(&mut input, line_bytes_max, &mut number);
        let chunk = chunk.with_context(|| format!("cannot read {name}"));
        let is_last = chunk.as_ref().map_or(true, Vec::is_empty);
        let is_empty = chunk.as_ref().is_ok_and(Vec::is_empty);
        if is_empty || sender.blocking_send(chunk).is_err() || is_last {
            return;
        }
    }
}

/// The lines that are there, but at least one. None only at the end.
fn read_chunk(
    input: &mut BufReader<impl Read>,
    line_bytes_max: usize,
    number: &mut u64,
) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    while lines.len() < CHUNK_LINES {
        let mut text = Vec::new();
        // One more than is allowed tells a line that is too long, and the line end.
        let limit = line_bytes_max as u64 + 2;
        let read = Read::by_ref(input)
            .take(limit)
            .read_until(b'\n', &mut text)?;
        if read == 0 {
            break;
        }
        *number += 1;
        if text.last() == Some(&b'\n') {
            text.pop();
            if text.last() == Some(&b'\r') {
                text.pop();
            }
        }
        if text.len() > line_bytes_max {
            bail!(
                "line {number} has more than the {} that a record may have",
                Size::of(line_bytes_max)
            );
        }
        lines.push(Line {
            number: *number,
            text: text.into(),
        });
        if !input.buffer().contains(&b'\n') {
            break;
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use flumen_protocol::limits::RECORD_BYTES_MAX;

    use super::*;

    fn all(input: &[u8]) -> Result<Vec<Bytes>> {
        let mut input = BufReader::new(input);
        let (mut number, mut all) = (0, Vec::new());
        loop {
            let chunk = read_chunk(&mut input, RECORD_BYTES_MAX, &mut number)?;
            if chunk.is_empty() {
                return Ok(all);
            }
            all.extend(chunk.into_iter().map(|line| line.text));
        }
    }

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        assert_eq!(all(b"a\n\nb \r\nc").unwrap(), ["a", "", "b ", "c"]);
        assert!(all(b"").unwrap().is_empty());
        let many = "x\n".repeat(CHUNK_LINES * 2 + 1);
        assert_eq!(all(many.as_bytes()).unwrap().len(), CHUNK_LINES * 2 + 1);
    }

    #[test]
    fn a_line_as_long_as_a_record_may_be_is_taken_and_a_longer_one_is_not() {
        let mut line = vec![b'x'; RECORD_BYTES_MAX];
        line.push(b'\n');
        assert_eq!(all(&line).unwrap()[0].len(), RECORD_BYTES_MAX);
        line.insert(0, b'x');
        let error = all(&line).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
