//! What `flumen consume` does when nobody reads what it prints.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::support::{Broker, User, wait_for};

/// More lines than a pipe holds.
const LINES: usize = 2_000;

/// A broker with more records than a pipe holds.
fn broker_with_records(user: &User) -> Broker {
    let broker = user.start_broker();
    user.run(&["topic", "create", "long"]).ok();
    let lines = "0123456789".repeat(10) + "\n";
    user.run_with_input(&["produce", "long"], &lines.repeat(LINES))
        .ok();
    broker
}

/// `flumen consume long`, of which the first line was read and no more will be.
fn stalled(user: &User, more: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = user
        .command()
        .args(["consume", "long", "--from", "beginning"])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::with_capacity(1, child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    (child, stdout)
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.unwrap().success());
}

/// Its exit code, and what it said.
fn end(mut child: Child) -> (Option<i32>, String) {
    wait_for("the command ends", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

#[test]
fn a_signal_ends_it_although_nobody_reads_what_it_prints() {
    let user = User::new();
    let _broker = broker_with_records(&user);
    for (more, name, code) in [
        (&[][..], "INT", 0),
        (&[], "TERM", 0),
        (&["--count", "5000"], "INT", 130),
        (&["--count", "5000"], "TERM", 143),
    ] {
        let (child, _stdout) = stalled(&user, more);
        signal(&child, name);
        let (ended, said) = end(child);
        assert_eq!(ended, Some(code), "{more:?} {name}: {said}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once_although_nobody_reads_what_it_prints() {
    let user = User::new();
    let _broker = broker_with_records(&user);
    let (child, _stdout) = stalled(&user, &[]);
    signal(&child, "INT");
    signal(&child, "TERM");
    let (code, said) = end(child);
    // Which of the two it hears last is not told.
    assert!(matches!(code, Some(130 | 143)), "{code:?}: {said}");
}
