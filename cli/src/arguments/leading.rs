//! Flags of the connection that stand before the command: `flumen --profile staging topic list`.
//!
//! They belong to the commands that talk to brokers, and only these list them in their help.
//! clap's own global flags would be on every command, where some mean something else, as in
//! `flumen dev --profile NAME`. So they are moved behind the command before clap reads the line,
//! and are taken, or refused, as if they had been written there.

use std::ffi::OsString;

use clap::{Arg, Args as _, Command};

use crate::connect::Connection;

/// The command line with such flags moved behind the command. A line that names no command that
/// there is comes back without them: what is wrong with it is the command.
///
/// # Errors
/// What to say of a flag without a value; behind it stands nothing, another flag, or the command.
pub(super) fn moved_behind(
    root: &Command,
    line: impl Iterator<Item = OsString>,
) -> Result<Vec<OsString>, String> {
    let mut connection = Connection::augment_args(Command::new("connection"));
    // Only then an argument can say how it is written.
    connection.build();
    let mut words = line;
    let mut kept: Vec<_> = words.next().into_iter().collect();
    let mut moved = Vec::new();
    // The flags with the values that stand apart from them.
    let mut values: Vec<(String, OsString)> = Vec::new();
    let mut command = root;
    let mut is_complete = false;
    // The word where no command was found.
    let mut unknown = None;
    while let Some(word) = words.next() {
        let word = in_full(word);
        let text = word.to_str().unwrap_or_default();
        if let Some((name, has_value)) = flag(text) {
            if let Some(argument) = with_value(&connection, name) {
                let flag = argument.to_string();
                moved.push(word);
                if !has_value {
                    let value = words.next().filter(|value| !is_flag(value));
                    let value = value.ok_or_else(|| format!("a value is required for '{flag}'"))?;
                    moved.push(value.clone());
                    values.push((flag, value));
                }
            } else {
                let value_follows = !has_value && with_value(root, name).is_some();
                kept.push(word);
                kept.extend(value_follows.then(|| words.next()).flatten());
            }
            continue;
        }
        let goes_on = text.starts_with('-') && text != "--";
        let found = command.find_subcommand(&word);
        kept.push(word.clone());
        match found {
            Some(found) => command = found,
            None if goes_on => continue,
            None => {
                unknown = Some(word);
                break;
            }
        }
        if !command.has_subcommands() {
            kept.append(&mut moved);
            is_complete = true;
            break;
        }
    }
    kept.extend(words);
    // Only a line that makes sense without the value has its command there.
    let taken = values.iter().find(|(_, value)| {
        let named = command.find_subcommand(value);
        named.is_some_and(|named| {
            let unknown = unknown.as_ref();
            unknown.is_none_or(|word| named.find_subcommand(word).is_some())
        })
    });
    let is_judged = is_complete || kept.iter().any(asks_for_help);
    if let Some((flag, value)) = taken.filter(|_| !is_judged) {
        let value = value.display();
        return Err(format!(
            "a value is required for '{flag}', and {value} behind it is the command"
        ));
    }
    Ok(kept)
}

/// Such a line is answered whatever else is on it.
fn asks_for_help(word: &OsString) -> bool {
    let asking = ["--help", "-h", "--version", "-V", "help"];
    word.to_str().is_some_and(|word| asking.contains(&word))
}

fn is_flag(word: &OsString) -> bool {
    let text = word.to_str().unwrap_or_default();
    text.len() > 1 && text.starts_with('-')
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

/// The flag of that name, if it has a value.
fn with_value<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    let mut arguments = command.get_arguments();
    arguments.find(|a| a.get_long() == Some(name) && a.get_action().takes_values())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Arguments;

    fn try_moved(line: &str) -> Result<Vec<OsString>, String> {
        let root = Arguments::program();
        moved_behind(&root, line.split(' ').map(OsString::from))
    }

    fn moved(line: &str) -> String {
        let moved = try_moved(line).unwrap();
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
            ("flumen --profile dev topc list", "flumen topc list"),
            ("flumen --profile dev --help", "flumen --help"),
            ("flumen --profile dev -h", "flumen -h"),
            ("flumen --profile dev --version", "flumen --version"),
            ("flumen --profile dev -V", "flumen -V"),
            ("flumen --profile dev help topic", "flumen help topic"),
            ("flumen --profile x topic", "flumen topic"),
            ("flumen --profile x topic --help", "flumen topic --help"),
            ("flumen --profile x -- topic list", "flumen -- topic list"),
        ] {
            assert_eq!(moved(line), expected, "{line}");
        }
    }

    #[test]
    fn a_flag_without_a_value_is_told_of_whatever_stands_behind_it() {
        for (line, expected) in [
            ("flumen --profile", "'--profile <NAME|FILE>'"),
            ("flumen topic --profile", "'--profile <NAME|FILE>'"),
            (
                "flumen --brokers --output json topic list",
                "'--brokers <HOST:PORT,…>'",
            ),
            (
                "flumen --profile topic list",
                "'--profile <NAME|FILE>', and topic behind it is the command",
            ),
            (
                "flumen --profile status",
                "'--profile <NAME|FILE>', and status behind it is the command",
            ),
        ] {
            let error = try_moved(line).unwrap_err();
            let expected = format!("a value is required for {expected}");
            assert_eq!(error, expected, "{line}");
        }
    }
}
