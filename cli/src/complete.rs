//! Completing names that only a cluster knows: topics, plugins, brokers, and profiles.
//!
//! The scripts that `flumen completions` prints ask the program itself where a name may stand:
//!
//! ```text
//! shell: flumen topic describe or<Tab>
//!   └─ flumen __complete bash flumen topic describe or
//!        └─ `line`: a topic that begins with "or" → `names`: ask the cluster → "orders"
//! ```
//!
//! Somebody waits with a hand on the keyboard: whatever goes wrong, nothing is said, and no name is
//! offered.

mod line;
mod names;
mod script;

use std::{
    ffi::OsString,
    fmt::Write as _,
    io::{self, Write as _},
};

use self::names::Candidate;
pub(crate) use self::script::script;

/// The first word of a question of a shell; no command of that name is in any help.
pub(crate) const COMMAND: &str = "__complete";

/// Answers a shell: `words` are its name, and the words of the line up to the cursor.
pub(crate) fn answer(mut words: impl Iterator<Item = OsString>) {
    let shell = words.next().unwrap_or_default();
    let words: Vec<_> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let Some(wanted) = line::wanted(&words) else {
        return;
    };
    let mut text = String::new();
    for candidate in names::beginning_as(&wanted) {
        let Candidate { name, about } = candidate;
        let _ = match shell.to_str() {
            // A colon parts a name from what is said of it.
            Some("zsh") => writeln!(text, "{}:{about}", name.replace(':', "\\:")),
            Some("fish") => writeln!(text, "{name}\t{about}"),
            _ => writeln!(text, "{name}"),
        };
    }
    // A shell that asks no more is no failure.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
