//! Flags of the connection that stand before the command: `flumen --profile staging topic list`.
//!
//! They belong to the commands that talk to brokers, and only these list them in their help.
//! clap's own global flags would be on every command, where some mean something else, as in
//! `flumen dev --profile NAME`. So they are moved behind the command before clap reads the line,
//! and are taken, or refused, as if they had been written there.

use std::ffi::OsString;

use clap::{Args as _, Command};

use crate::connect::Connection;

/// The command line with such flags moved behind the command. A line that names no command that
/// there is comes back without them: what is wrong with it is the command.
pub(super) fn moved_behind(root: &Command, line: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let connection = Connection::augment_args(Command::new("connection"));
    let mut words = line;
    let mut kept: Vec<_> = words.next().into_iter().collect();
    let mut moved = Vec::new();
    let mut command = root;
    while let Some(word) = words.next() {
        let word = in_full(word);
        let text = word.to_str().unwrap_or_default();
        if let Some((name, has_value)) = flag(text) {
            let is_moved = takes_value(&connection, name);
            let value_follows = !has_value && (is_moved || takes_value(root, name));
            let to = if is_moved { &mut moved } else { &mut kept };
            to.push(word);
            to.extend(value_follows.then(|| words.next()).flatten());
            continue;
        }
        let goes_on = text.starts_with('-') && text != "--";
        let found = command.find_subcommand(&word);
        kept.push(word);
        match found {
            Some(found) => command = found,
            None if goes_on => continue,
            None => break,
        }
        if !command.has_subcommands() {
            kept.append(&mut moved);
            break;
        }
    }
    kept.extend(words);
    kept
}

/// The word, `--timeout` by the name that has the same meaning behind every command.
fn in_full(word: OsString) -> OsString {
    let rest = word
        .to_str()
        .and_then(|text| text.strip_prefix("--timeout"));
    match rest.filter(|rest| rest.is_empty() || rest.starts_with('=')) {
        Some(rest) => format!("--request-timeout{rest}").into(),
        None => word,
    }
}

/// The name in `--name` or `--name=value`, and whether the value stands with it.
fn flag(text: &str) -> Option<(&str, bool)> {
    let text = text.strip_prefix("--").filter(|name| !name.is_empty())?;
    match text.split_once('=') {
        Some((name, _)) => Some((name, true)),
        None => Some((text, false)),
    }
}

fn takes_value(command: &Command, name: &str) -> bool {
    let mut arguments = command.get_arguments();
    arguments.any(|a| a.get_long() == Some(name) && a.get_action().takes_values())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Arguments;

    fn moved(line: &str) -> String {
        let root = Arguments::program();
        let words = line.split(' ').map(OsString::from);
        let moved = moved_behind(&root, words);
        let moved: Vec<_> = moved.iter().map(|word| word.to_str().unwrap()).collect();
        moved.join(" ")
    }

    #[test]
    fn flags_of_the_connection_are_moved_behind_the_command_and_no_others() {
        for (line, expected) in [
            (
                "flumen --profile x topic list",
                "flumen topic list --profile x",
            ),
            (
                "flumen topic --profile=x list --output json",
                "flumen topic list --profile=x --output json",
            ),
            (
                "flumen --output json --brokers a:1 topic --ca ca.pem create --token t orders",
                "flumen --output json topic create --brokers a:1 --ca ca.pem --token t orders",
            ),
            (
                "flumen --profile topic produce orders",
                "flumen produce --profile topic orders",
            ),
            ("flumen --profile x dev", "flumen dev --profile x"),
            (
                "flumen --timeout 5s topic --timeout=6s list --timeout 7s",
                "flumen topic list --request-timeout 5s --request-timeout=6s --timeout 7s",
            ),
            (
                "flumen topic list --profile x",
                "flumen topic list --profile x",
            ),
            ("flumen --version", "flumen --version"),
        ] {
            assert_eq!(moved(line), expected, "{line}");
        }
    }

    #[test]
    fn a_line_without_a_command_is_left_to_be_judged_by_that() {
        for (line, expected) in [
            ("flumen --profile x topc list", "flumen topc list"),
            ("flumen --profile x topic", "flumen topic"),
            ("flumen --profile x topic --help", "flumen topic --help"),
            ("flumen --profile", "flumen"),
            ("flumen --profile x -- topic list", "flumen -- topic list"),
        ] {
            assert_eq!(moved(line), expected, "{line}");
        }
    }
}
