//! What `flumen produce` says while it has to wait, and when it is told to stop meanwhile.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
};

use serde_json::Value;

use crate::support::User;

/// `flumen produce live`, with its input still open.
fn produce(user: &User, more: &[&str]) -> (Child, ChildStdin) {
    let mut child = user
        .command()
        .args(["produce", "live", "--output", "json"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

/// Waits until a record is there that was produced.
fn until_stored(user: &User) {
    let consume = ["consume", "live", "--from", "beginning", "--count", "1"];
    user.run(&consume).ok();
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.unwrap().success());
}

/// Its exit code, the summary that it prints, and what it says.
fn end(child: Child) -> (Option<i32>, Value, String) {
    let output = child.wait_with_output().unwrap();
    let summary = serde_json::from_slice(&output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), summary, said)
}

#[test]
fn a_signal_says_that_all_that_was_read_is_stored() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "live"]).ok();
    for (name, code, told) in [("INT", 130, "Ctrl-C"), ("TERM", 143, "SIGTERM")] {
        let (child, mut stdin) = produce(&user, &[]);
        stdin.write_all(b"a line\n").unwrap();
        until_stored(&user);
        signal(&child, name);
        let (ended, summary, said) = end(child);
        assert_eq!(ended, Some(code), "{said}");
        assert_eq!(
            (&summary["records"], &summary["failed"]),
            (&1.into(), &0.into())
        );
        let expected = format!(
            "stopped by {told} before all was done: of 1 record sent to topic live, 1 is stored"
        );
        assert!(said.contains(&expected), "{said}");
        assert!(
            summary["error"].as_str().unwrap().contains(told),
            "{summary}"
        );
        user.run(&["topic", "delete", "live"]).ok();
        user.run(&["topic", "create", "live"]).ok();
    }
}

#[test]
fn a_broker_that_is_gone_is_told_of_and_ctrl_c_says_what_is_not_known_to_be_stored() {
    let user = User::new();
    let broker = user.start_broker();
    user.run(&["topic", "create", "live"]).ok();
    let (mut child, mut stdin) = produce(&user, &[]);
    stdin.write_all(b"stored\n").unwrap();
    until_stored(&user);
    drop(broker);
    stdin.write_all(b"waits\n").unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("trying again: ") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    signal(&child, "INT");
    stderr.read_to_string(&mut said).unwrap();
    let (code, summary, _) = end(child);
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(
        (&summary["records"], &summary["failed"]),
        (&1.into(), &1.into())
    );
    assert_eq!(summary["first_failed_line"], 2, "{summary}");
    for part in [
        "stopped by Ctrl-C",
        "of 2 records sent to topic live, 1 is stored",
        "the first that is not stored is line 2",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("line 2: line 2"), "{said}");
}

#[test]
fn a_record_that_cannot_be_delivered_fails_after_the_time_out_that_was_asked_for() {
    let user = User::new();
    let broker = user.start_broker();
    user.run(&["topic", "create", "live"]).ok();
    let (child, mut stdin) = produce(&user, &["--timeout", "1s"]);
    stdin.write_all(b"stored\n").unwrap();
    until_stored(&user);
    drop(broker);
    stdin.write_all(b"waits\n").unwrap();
    let (code, summary, said) = end(child);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(summary["first_failed_line"], 2, "{summary}");
    assert!(said.contains(" 1s"), "{said}");
}

#[test]
fn a_consumer_says_for_which_broker_it_waits_and_that_it_does_no_more() {
    let user = User::new();
    let broker = user.start_broker();
    user.run(&["topic", "create", "live"]).ok();
    user.run_with_input(&["produce", "live"], "first\n").ok();
    let consume = ["consume", "live", "--from", "beginning", "--count", "2"];
    let mut child = user
        .command()
        .args(consume)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    broker.signal("STOP");
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("trying again: ") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    broker.signal("CONT");
    while !said.contains("records can be read") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    user.run_with_input(&["produce", "live"], "second\n").ok();
    stderr.read_to_string(&mut said).unwrap();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "first\nsecond\n");
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(said.matches("trying again: ").count(), 1, "{said}");
    assert!(said.contains("trying again: broker 127.0.0.1:"), "{said}");
}
