//! What stands at the end of an unfinished command line.

use clap::{Arg, Args as _, Command};

use crate::{arguments::Arguments, connect::Connection};

/// What a name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Topic,
    Plugin,
    Broker,
    Profile,
}

/// Arguments that are names: the command, the id of its argument, and what it names.
const NAMES: [(&[&str], &str, Kind); 17] = [
    (&["topic", "describe"], "name", Kind::Topic),
    (&["topic", "alter"], "name", Kind::Topic),
    (&["topic", "delete"], "name", Kind::Topic),
    (&["produce"], "topic", Kind::Topic),
    (&["consume"], "topic", Kind::Topic),
    (&["plugin", "bind"], "topic", Kind::Topic),
    (&["plugin", "bind"], "plugin", Kind::Plugin),
    (&["plugin", "unbind"], "topic", Kind::Topic),
    (&["plugin", "unbind"], "plugin", Kind::Plugin),
    (&["plugin", "describe"], "name", Kind::Plugin),
    (&["plugin", "upgrade"], "name", Kind::Plugin),
    (&["plugin", "rollback"], "name", Kind::Plugin),
    (&["plugin", "remove"], "name", Kind::Plugin),
    (&["cluster", "drain"], "broker", Kind::Broker),
    (&["cluster", "remove"], "broker", Kind::Broker),
    (&["profile", "use"], "name", Kind::Profile),
    (&["profile", "remove"], "name", Kind::Profile),
];

/// The flag whose value is the name of a profile, wherever it stands.
const PROFILE_FLAG: &str = "profile";

/// A name that somebody has begun to write.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    /// As far as it is written.
    pub(super) begun: String,
    /// Flags that say which cluster to ask, with their values.
    pub(super) connection: Vec<String>,
}

/// What is to be completed, if it is a name.
pub(super) fn wanted(words: &[String]) -> Option<Wanted> {
    let mut program = Arguments::program();
    // Only then an argument can say where it stands.
    program.build();
    let mut flags = Connection::augment_args(Command::new("connection"));
    flags.build();
    let (begun, before) = words.split_last()?;
    let mut before = before.iter().skip(1);
    let (mut command, mut path, mut positionals) = (&program, Vec::new(), 0);
    let mut connection = Vec::new();
    let kind = 'kind: {
        while let Some(word) = before.next() {
            if let Some(flag) = word.strip_prefix("--") {
                let name = flag.split('=').next().unwrap_or(flag);
                let ours = with_value(&flags, name);
                if ours.is_some() {
                    connection.push(word.clone());
                }
                if name.len() < flag.len() || with_value(command, name).or(ours).is_none() {
                    continue;
                }
                // To bash, the sign is a word of its own.
                let value = before.next();
                let value = if value.is_some_and(|word| word == "=") {
                    before.next()
                } else {
                    value
                };
                match value {
                    Some(value) if ours.is_some() => connection.push(value.clone()),
                    Some(_) => {}
                    None => break 'kind (name == PROFILE_FLAG).then_some(Kind::Profile),
                }
            } else if let Some(below) = below(command, word, positionals) {
                command = below;
                path.push(below.get_name());
            } else if !word.starts_with('-') {
                positionals += 1;
            }
        }
        let argument = command.get_positionals().nth(positionals)?;
        kind_of(&path, argument.get_id().as_str())
    };
    Some(Wanted {
        kind: kind?,
        begun: begun.trim_start_matches('=').to_owned(),
        connection,
    })
}

fn kind_of(path: &[&str], id: &str) -> Option<Kind> {
    let mut names = NAMES.iter();
    let found = names.find(|(command, argument, _)| *command == path && *argument == id);
    found.map(|(_, _, kind)| *kind)
}

fn below<'c>(command: &'c Command, word: &str, positionals: usize) -> Option<&'c Command> {
    command.find_subcommand(word).filter(|_| positionals == 0)
}

/// The flag of that name, or with that other name, if it has a value.
fn with_value<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    let is_so = |argument: &&Arg| {
        let others = argument.get_visible_aliases().unwrap_or_default();
        argument.get_long() == Some(name) || others.contains(&name)
    };
    let found = command.get_arguments().find(is_so)?;
    Some(found).filter(|argument| argument.get_action().takes_values())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Option<Wanted> {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        wanted(&words)
    }

    #[test]
    fn what_is_begun_is_told_by_where_it_stands() {
        for (line, kind, begun) in [
            ("flumen topic describe or", Kind::Topic, "or"),
            ("flumen topic delete ", Kind::Topic, ""),
            ("flumen produce --key-json id or", Kind::Topic, "or"),
            ("flumen --output json consume ", Kind::Topic, ""),
            ("flumen plugin bind orders js", Kind::Plugin, "js"),
            ("flumen plugin unbind --timeout 1s a ", Kind::Plugin, ""),
            ("flumen plugin rollback js", Kind::Plugin, "js"),
            ("flumen cluster drain --wait 11", Kind::Broker, "11"),
            ("flumen cluster remove -y ", Kind::Broker, ""),
            ("flumen profile use st", Kind::Profile, "st"),
            ("flumen topic list --profile st", Kind::Profile, "st"),
            ("flumen topic list --profile = st", Kind::Profile, "st"),
            ("flumen --profile st", Kind::Profile, "st"),
        ] {
            let wanted = of(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((wanted.kind, &*wanted.begun), (kind, begun), "{line}");
        }
        for line in [
            "flumen",
            "flumen ",
            "flumen top",
            "flumen topic ",
            "flumen topic create or",
            "flumen topic describe orders ",
            "flumen produce orders fi",
            "flumen topic describe --output ",
            "flumen consume orders --from ",
            "flumen plugin deploy a",
            "flumen nothing describe a",
        ] {
            assert!(of(line).is_none(), "{line}");
        }
    }

    #[test]
    fn flags_that_say_which_cluster_to_ask_are_kept() {
        for (line, flags) in [
            ("flumen --profile x topic describe o", "--profile x"),
            ("flumen topic describe --profile=x o", "--profile=x"),
            (
                "flumen consume --brokers a:1 --ca f --count 3 --token t o",
                "--brokers a:1 --ca f --token t",
            ),
        ] {
            assert_eq!(of(line).unwrap().connection.join(" "), flags, "{line}");
        }
    }

    #[test]
    fn every_argument_that_is_a_name_is_there() {
        let mut program = Arguments::program();
        program.build();
        for (path, id, _) in NAMES {
            let command = path
                .iter()
                .try_fold(&program, |command, name| command.find_subcommand(name));
            let mut arguments = command.unwrap().get_positionals();
            assert!(arguments.any(|a| a.get_id() == id), "{path:?} {id}");
        }
    }
}
