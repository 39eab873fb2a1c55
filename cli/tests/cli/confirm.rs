//! Questions before something is destroyed, which only a person at a terminal is asked.
#![cfg(target_os = "linux")]

use std::{io::Write as _, process::Stdio};

use crate::support::{User, has_program};

/// What `flumen …` says on a terminal on which somebody types `typed`, and its exit code.
fn on_a_terminal(user: &User, line: &str, typed: &str) -> (String, Option<i32>) {
    let program = env!("CARGO_BIN_EXE_flumen");
    let of_user = user.command();
    let mut command = std::process::Command::new("script");
    for (name, value) in of_user.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut terminal = command
        .args(["-qec", &format!("'{program}' {line}"), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = terminal.stdin.take().unwrap();
    keyboard.write_all(typed.as_bytes()).unwrap();
    // It stays plugged in: a terminal whose input ends is another thing.
    let output = terminal.wait_with_output().unwrap();
    drop(keyboard);
    let said = String::from_utf8(output.stdout).unwrap();
    (said, output.status.code())
}

#[test]
fn a_person_is_asked_before_a_topic_or_a_broker_is_gone_for_good() {
    if !has_program("script") {
        // Past the test runner, which keeps what `eprintln!` prints to itself.
        let said = b"\nskipped: questions on a terminal: there is no `script` to make one with\n";
        std::io::stderr().write_all(said).unwrap();
        return;
    }
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "orders", "--partitions", "2"])
        .ok();
    user.run_with_input(&["produce", "orders"], "a\nb\n").ok();
    let question = "Delete topic orders for good, with 2 partitions and all of its records (2 in";
    for answer in ["n\n", "\n", "orders\n"] {
        let (said, code) = on_a_terminal(&user, "topic delete orders", answer);
        assert!(said.contains(question), "{said}");
        assert!(said.contains("nothing was done"), "{said}");
        assert_eq!(code, Some(1), "{said}");
    }
    user.run(&["topic", "describe", "orders"]).ok();
    let (said, code) = on_a_terminal(&user, "topic delete orders", "y\n");
    assert!(said.contains("deleted topic orders"), "{said}");
    assert_eq!(code, Some(0));

    user.run(&["topic", "create", "orders"]).ok();
    let (said, code) = on_a_terminal(&user, "topic delete orders --yes", "");
    assert!(!said.contains("for good") && code == Some(0), "{said}");

    let (said, code) = on_a_terminal(&user, "topic delete ordres", "");
    assert!(said.contains("does not exist") && code == Some(1), "{said}");
    let (said, code) = on_a_terminal(&user, "cluster remove 127.0.0.1", "no\n");
    let asked = said.contains("is active and has 16 replicas. Remove it for good?");
    assert!(asked && code == Some(1), "{said}");
    user.run(&["status"]).ok();
}

#[test]
fn nobody_is_asked_where_there_is_no_terminal() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "orders"]).ok();
    let said = user.run_with_input(&["topic", "delete", "orders"], "").ok();
    assert_eq!(said, "deleted topic orders\n");
}
