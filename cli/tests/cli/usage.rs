//! How the program answers those who use it, without a broker.

use std::{collections::BTreeSet, fs, path::Path};

use crate::support::User;

/// What every command says of itself.
const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");

/// A profile and an authority with which a client gets as far as connecting.
fn write_profile(user: &User) {
    let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = authority.cert.pem();
    fs::write(user.path("ca.pem"), &pem).unwrap();
    let profile = format!("brokers = [\"profile:x\"]\ntoken = \"t\"\nca = \"\"\"\n{pem}\"\"\"\n");
    fs::write(user.path("p.toml"), profile).unwrap();
}

#[test]
fn wrong_usage_ends_with_exit_code_2_and_says_what_is_wrong() {
    let user = User::new();
    write_profile(&user);
    for (arguments, expected) in [
        (&["no-such-command"][..], "no-such-command"),
        (&["topic", "create"], "NAME"),
        (&["topic", "create", "a b"], "cannot be a name"),
        (
            &["topic", "create", "a", "--partitions", "0"],
            "a whole number from 1 to 100000",
        ),
        (
            &["topic", "create", "a", "--retention-age", "7 parsecs"],
            "such as 100ms or 7d",
        ),
        (&["topic", "alter", "a"], "nothing to change"),
        (
            &["topic", "create", "a", "--partitions", "-1"],
            "a whole number from 1 to 100000",
        ),
        (
            &["cluster", "replication-factor", "-1"],
            "a whole number from 1 to 7",
        ),
        (
            &["topic", "create", "a", "--retention-age", "0s"],
            "or forever",
        ),
        (
            &["topic", "create", "a", "--retention-size", "0B"],
            "or unlimited",
        ),
        (&["topic", "create", "a", "--retention-size", "10G"], "GiB"),
        (
            &["topic", "create", "a", "--retention-age", "1y"],
            "h, d or w",
        ),
        (&["cluster", "token", "--ttl", "90d"], "1s to 30d"),
        (&["cluster", "token", "--ttl", "0s"], "1s to 30d"),
        (&["produce", "a", "--key-json", ""], "the name of a field"),
        (
            &["plugin", "upgrade", "a", "a.wasm", "--version", ""],
            "a version is not empty",
        ),
        (
            &["topic", "list", "--log", "nonsense"],
            "neither a level, which is error, warn",
        ),
        (&["topic", "list", "--log", "bogus="], "neither a level"),
        (&["produce", "a", "--header", "x"], "NAME=VALUE"),
        (
            &["consume", "a", "--from", "soon"],
            "beginning, end, an offset",
        ),
        (
            &["topic", "create", "a", "--partitions", "many"],
            "a whole number from 1 to 100000",
        ),
        (
            &["topic", "create", "a", "--segment-size", "1B"],
            "64 KiB to 2 GiB",
        ),
        (
            &["plugin", "bind", "a", "b", "--timeout", "2h"],
            "1ms to 1min",
        ),
        (
            &["plugin", "bind", "a", "b", "--memory", "1KiB"],
            "64 KiB to 1 GiB",
        ),
        (
            &["plugin", "test", "a.wasm", "--timeout", "0s"],
            "1ms to 1min",
        ),
        (
            &["plugin", "bind", "a", "b", "--on-error", "retry"],
            "dead-letter=TOPIC",
        ),
        (&["status", "--brokers", "localhost:1"], "--ca"),
        (
            &[
                "status",
                "--brokers",
                "box",
                "--ca",
                "ca.pem",
                "--token",
                "t",
            ],
            "write host:port, such as box:4650",
        ),
        (
            &["status", "--brokers", "a:1", "--profile", "b"],
            "--profile cannot be used with --brokers",
        ),
        (&["status", "--ca", "ca.pem"], "--ca needs --brokers"),
        (&["status", "--cert", "a.pem"], "belong together"),
        (
            &["status", "--cert", "a", "--key", "b", "--token", "c"],
            "one credential is enough",
        ),
        (&["status", "--profile", ""], "--profile is empty"),
        (&["status", "--brokers", ""], "--brokers is empty"),
        (&["status", "--token", ""], "--token is empty"),
        (&["status", "--profile", "a b"], "cannot be a name"),
        (&["profile", "use", "a b"], "cannot be a name"),
        (&["profile", "remove", "a b"], "cannot be a name"),
        (&["profile", "use", "./a.toml"], "flumen profile add NAME"),
        (&["dev", "--profile", "a.toml"], "taken for a file"),
        (
            &["--profile"],
            "a value is required for '--profile <NAME|FILE>'",
        ),
        (
            &["--profile", "topic", "list"],
            "topic behind it is the command",
        ),
        (
            &["serve", "--wal-sync", "sometimes"],
            "--wal-sync: \"sometimes\" is no sync policy",
        ),
        (
            &["serve", "--wal-segment-bytes", "1KiB"],
            "between 1MiB and 1GiB",
        ),
        (
            &["serve", "--wal-segment-bytes", "1MiB"],
            "at least 43MiB, so that a batch of limits.batch_bytes_max, which is 16MiB, fits",
        ),
        (
            &["serve", "--wal-bytes-max", "64MiB"],
            "at least 4 times wal.segment_bytes",
        ),
        (&["serve", "--log", "what=ever="], "--log"),
        (&["bench", "produce", "--record-size", "0"], "--record-size"),
        (&["cluster", "drain", "1", "--timeout", "1min"], "--wait"),
        (
            &["cluster", "drain", "1", "--wait", "--timeout", "soon"],
            "such as 100ms or 7d",
        ),
        (&["topic", "list", "--timeout", "0s"], "above 0"),
        (
            &["topic", "list", "--timeout", "soon"],
            "such as 100ms or 7d",
        ),
        (
            &["cluster", "replication-factor", "0"],
            "a whole number from 1 to 7",
        ),
    ] {
        let said = user.run(arguments).fails(2);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_failure_ends_with_exit_code_1_and_says_what_to_do() {
    let user = User::new();
    let said = user.run(&["topic", "list"]).fails(1);
    assert!(said.contains("flumen dev"), "{said}");
    let said = user.run(&["profile", "use", "nowhere"]).fails(1);
    assert!(said.contains("nowhere.toml"), "{said}");
    let said = user.run(&["serve", "--config", "absent.toml"]).fails(1);
    assert!(
        said.contains("cannot read the configuration file absent.toml"),
        "{said}"
    );
    let said = user.run(&["plugin", "test", "absent.wasm"]).fails(1);
    assert!(
        said.contains("cannot read the plugin absent.wasm"),
        "{said}"
    );
    fs::write(user.path("text.wasm"), "text").unwrap();
    let said = user.run(&["plugin", "test", "text.wasm"]).fails(1);
    assert!(said.contains("text.wasm cannot be used"), "{said}");
}

#[test]
fn a_broker_that_does_not_answer_is_waited_for_as_long_as_was_asked_for() {
    let user = User::new();
    // It is there, and takes no notice of what comes.
    let mute = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(user.path("ca.pem"), authority.cert.pem()).unwrap();
    let connection = ["--brokers", &address, "--ca", "ca.pem", "--token", "t"];
    for command in [
        &["topic", "list", "--timeout"][..],
        &["topic", "create", "a", "--request-timeout"],
        &["plugin", "list", "--timeout"],
        &[
            "plugin",
            "bind",
            "a",
            "b",
            "--timeout",
            "1s",
            "--request-timeout",
        ],
        &["consume", "a", "--timeout"],
    ] {
        let said = user
            .run(&[command, &["100ms"], &connection].concat())
            .fails(1);
        assert!(said.contains("within 100ms"), "{command:?}: {said}");
    }
}

#[test]
fn a_flag_wins_over_the_variables_of_what_it_stands_against() {
    let user = User::new();
    write_profile(&user);
    // No address has a port, so that the error shows which one was taken.
    let said = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut command = user.command();
        command.args(["topic", "list"]).args(flags);
        command.envs(variables.iter().copied());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    let direct = [
        ("FLUMEN_BROKERS", "variable:x"),
        ("FLUMEN_CA", "ca.pem"),
        ("FLUMEN_TOKEN", "t"),
    ];
    let profile = [("FLUMEN_PROFILE", "p.toml")];
    let flags = ["--brokers", "flag:x", "--ca", "ca.pem", "--token", "t"];
    for (variables, flags, taken) in [
        (
            &direct[..],
            &["--profile", "p.toml"][..],
            "broker profile:x",
        ),
        (&profile, &flags, "broker flag:x"),
        (&direct, &flags, "broker flag:x"),
        (&direct, &["--brokers", "flag:x"], "broker flag:x"),
        (&direct, &[], "broker variable:x"),
        (&profile, &[], "broker profile:x"),
        (
            &[("FLUMEN_CERT", "absent.pem"), ("FLUMEN_KEY", "absent.pem")],
            &flags,
            "broker flag:x",
        ),
        (
            &[&direct[..], &profile].concat(),
            &[],
            "nor FLUMEN_PROFILE with FLUMEN_BROKERS",
        ),
    ] {
        let said = said(variables, flags);
        assert!(said.contains(taken), "{variables:?} {flags:?}: {said}");
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let user = User::new();
    write_profile(&user);
    fs::write(user.path("flumen.toml"), "shards = 2000").unwrap();
    let reference = fs::read_to_string(REFERENCE).unwrap();
    let variables: BTreeSet<_> = reference
        .split("[env: ")
        .skip(1)
        .filter_map(|rest| rest.split(['=', ']']).next())
        .collect();
    for name in ["FLUMEN_OUTPUT", "FLUMEN_REQUEST_TIMEOUT", "FLUMEN_WAL_SYNC"] {
        assert!(variables.contains(name), "{variables:?}");
    }
    for (arguments, code, said) in [
        (&["profile", "list"][..], 0, ""),
        (&["topic", "list"], 1, "flumen profile use"),
        (&["topic", "list", "--profile", "p.toml"], 1, "profile:x"),
        (&["consume", "t", "--profile", "p.toml"], 1, "profile:x"),
        (&["produce", "t", "--profile", "p.toml"], 1, "profile:x"),
        (&["serve", "--config", "flumen.toml"], 2, "shards is 2000"),
        (&["dev", "--data-dir", "flumen.toml"], 1, "flumen.toml"),
        (&["bench", "produce", "--profile", "a.toml"], 1, "a.toml"),
        // Not so a flag, and help has all variables.
        (&["serve", "--join", ""], 2, "--join is empty"),
        (&["serve", "--help"], 0, "[env: FLUMEN_OUTPUT=]"),
    ] {
        let mut command = user.command();
        command.args(arguments);
        command.envs(variables.iter().map(|name| (name, "")));
        let output = command.output().unwrap();
        let all = [output.stdout, output.stderr].concat();
        let all = String::from_utf8(all).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(all.contains(said), "{arguments:?}: {all}");
    }
}

#[test]
fn a_setting_is_taken_from_the_flag_then_the_variable_then_the_file() {
    let user = User::new();
    // None of them is in range, so that the error shows which one was taken.
    fs::write(user.path("flumen.toml"), "shards = 2000").unwrap();
    let shards = |variable: Option<&str>, flag: Option<&str>| {
        let mut command = user.command();
        command.args(["serve", "--config", "flumen.toml"]);
        if let Some(value) = variable {
            command.env("FLUMEN_SHARDS", value);
        }
        if let Some(value) = flag {
            command.args(["--shards", value]);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(shards(None, None).contains("shards is 2000"));
    assert!(shards(Some("3000"), None).contains("shards is 3000"));
    assert!(shards(Some("3000"), Some("4000")).contains("shards is 4000"));
    assert!(shards(Some("many"), None).contains("FLUMEN_SHARDS: \"many\""));
}

#[test]
fn a_setting_of_another_type_ends_with_exit_code_2_and_names_its_line() {
    let user = User::new();
    fs::write(user.path("flumen.toml"), "shards = 4\ndata_dir = 3\n").unwrap();
    let said = user.run(&["serve", "--config", "flumen.toml"]).fails(2);
    for part in [
        "flumen.toml",
        "line 2",
        "data_dir = 3",
        "a text in quotes: PATH",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = user.run(&["completions", shell]).ok();
        assert!(
            script.contains("produce") && script.contains("batch-records"),
            "{shell}"
        );
    }
}

/// Texts of help, of the program and of every command below it, as they stand in the
/// repository. `FLUMEN_UPDATE_DOCS=1` writes them anew.
#[test]
fn the_reference_of_commands_is_up_to_date_and_every_command_shows_examples() {
    let user = User::new();
    let mut page = String::from(
        "# Commands\n\nWritten by a test from `--help`; to bring it up to date, run\n\
         `FLUMEN_UPDATE_DOCS=1 cargo test -p flumen --test cli`.\n",
    );
    let mut waiting = vec![Vec::new()];
    while let Some(command) = waiting.pop() {
        let mut arguments = command.clone();
        arguments.push("--help".to_owned());
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let help = user.run(&arguments).ok();
        let below = subcommands(&help);
        assert!(
            help.contains("Examples:") || !below.is_empty(),
            "{command:?} has no examples"
        );
        let name = ["flumen".to_owned()]
            .into_iter()
            .chain(command.clone())
            .collect::<Vec<_>>();
        let section = [
            "\n## ",
            &name.join(" "),
            "\n\n```text\n",
            &tidy(&help),
            "\n```\n",
        ];
        page.push_str(&section.concat());
        for name in below.into_iter().rev() {
            waiting.push(command.iter().cloned().chain([name]).collect());
        }
    }
    let path = Path::new(REFERENCE);
    if std::env::var_os("FLUMEN_UPDATE_DOCS").is_some() {
        fs::write(path, &page).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == page,
        "docs/commands.md is out of date; run \
         `FLUMEN_UPDATE_DOCS=1 cargo test -p flumen --test cli`"
    );
}

fn subcommands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .map(str::to_owned)
        .collect()
}

fn tidy(help: &str) -> String {
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}

#[test]
fn a_log_setting_that_nothing_fits_stops_the_start_wherever_it_stands() {
    let user = User::new();
    fs::write(user.path("c.toml"), "log = \"nonsense\"\n").unwrap();
    let dir = user.data_dir();
    let serve = ["serve", "--config", "c.toml", "--data-dir"];
    let said = user
        .run(&[&serve[..], &[dir.to_str().unwrap()]].concat())
        .fails(2);
    assert!(said.contains("\"nonsense\" is neither a level"), "{said}");
    assert!(!dir.exists());
}

#[test]
fn a_variable_that_no_command_knows_is_warned_of_with_the_one_that_was_meant() {
    let user = User::new();
    let mut list = user.command();
    list.args(["profile", "list"]);
    let said = |list: &mut std::process::Command| {
        let output = list.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!said(&mut list).contains("warning"));
    let said = said(list.env("FLUMEN_WAL_SYNCH", "always"));
    assert!(
        said.contains("warning: the variable FLUMEN_WAL_SYNCH is set")
            && said.contains("did you mean FLUMEN_WAL_SYNC?"),
        "{said}"
    );
}
