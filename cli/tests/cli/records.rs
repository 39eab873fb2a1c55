//! Records with all that they have, as lines of JSON.

use std::{fs, process::Stdio};

use serde_json::{Value, json};

use crate::support::User;

/// All records of a topic, as JSON.
fn all_of(user: &User, topic: &str) -> String {
    let consume = ["consume", topic, "--from", "beginning", "--until-end"];
    let lines = user.run(&[&consume[..], &["--format", "json"]].concat());
    lines.ok()
}

#[test]
fn a_topic_is_copied_with_all_that_its_records_have() {
    let user = User::new();
    let _broker = user.start_broker();
    for topic in ["from", "to"] {
        user.run(&["topic", "create", topic, "--partitions", "3"])
            .ok();
    }
    let record = |fields: Value| fields.to_string() + "\n";
    let written: Vec<_> = [
        json!({"key": "a", "value": {"n": 1}, "headers": [["h", "1"], ["h", {"base64": "/wA="}]]}),
        json!({"key": {"base64": "gA=="}, "value": {"base64": "//4A"}, "partition": 1}),
        json!({"key": "a", "value": null, "timestamp": "2026-01-31T12:00:00.123Z"}),
        json!({"value": "text", "timestamp": 0, "partition": 2}),
        json!({"value": null, "value_encoding": "json", "content_type": "application/json", "partition": 0}),
        json!({"value": "\"", "content_type": "postcard; type=A", "partition": 2}),
        json!({"value": "last", "partition": 2}),
    ]
    .map(record)
    .into();
    let produce = |topic| ["produce", topic, "--format", "json", "--output", "json"];
    let summary = user.run_with_input(&produce("from"), &written.concat());
    assert_eq!(summary.json()["records"], 7);

    let first = all_of(&user, "from");
    let rows: Vec<Value> = first
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let with = |field: &str, value: Value| rows.iter().find(|row| row[field] == value).unwrap();
    let bytes = with("value", json!({"base64": "//4A"}));
    assert_eq!(bytes["value_encoding"], "base64");
    assert_eq!(bytes["key"], json!({"base64": "gA=="}));
    let tombstone = with("timestamp", json!("2026-01-31T12:00:00.123Z"));
    assert_eq!(
        (&tombstone["key"], &tombstone["value"]),
        (&json!("a"), &Value::Null)
    );
    assert_eq!(
        with("content_type", json!("postcard; type=A"))["value"],
        "\""
    );
    let of_partition = |number| {
        let rows = rows.iter().filter(move |row| row["partition"] == number);
        rows.map(|row| &row["value"]).collect::<Vec<_>>()
    };
    // Also where another content type lies between.
    assert_eq!(of_partition(2), ["text", "\"", "last"]);

    fs::write(user.path("copy"), &first).unwrap();
    let copied = user.run(&[&produce("to")[..], &["copy"]].concat()).json();
    assert_eq!(copied["records"], 7);
    let sorted = |lines: &str| {
        let mut lines: Vec<_> = lines.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&all_of(&user, "to")), sorted(&first));
}

#[test]
fn one_command_copies_a_topic_into_another_and_its_keys_choose_the_partitions_if_told_so() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "wide", "--partitions", "4"])
        .ok();
    user.run(&["topic", "create", "narrow"]).ok();
    let lines: Vec<_> = (0..100).map(|n| format!("{n}:{n}\n")).collect();
    let produce = ["produce", "wide", "--key-separator", ":"];
    user.run_with_input(&produce, &lines.concat()).ok();

    let copied = user.run_with_input(
        &["produce", "narrow", "--format", "json"],
        &all_of(&user, "wide"),
    );
    let said = copied.fails(1);
    assert!(said.contains("its only partition is 0"), "{said}");

    let consume = ["consume", "wide", "--from", "beginning", "--until-end"];
    let mut source = user
        .command()
        .args(consume)
        .args(["--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let copied = user
        .command()
        .args(["produce", "narrow", "--format", "json", "--repartition"])
        .stdin(source.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    assert!(source.wait().unwrap().success());
    assert!(all_of(&user, "narrow").lines().count() >= 100);
}

#[test]
fn a_line_that_is_no_record_ends_the_command_and_what_was_sent_before_is_stored() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "orders"]).ok();
    let produce = ["produce", "orders", "--format", "json", "--output", "json"];
    let lines = "{\"value\":1}\n{\"key\":\"a\",\"value\":2}\n{\"id\":3}\n{\"value\":4}\n";
    let outcome = user.run_with_input(&produce, lines);
    assert_eq!(outcome.code, Some(1));
    for part in [
        "line 3: it is not a record: unknown field `id`",
        "of 2 records sent to topic orders, 2 are stored",
        "a record is an object such as",
    ] {
        assert!(outcome.stderr.contains(part), "{outcome:?}");
    }
    let summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        (&summary["records"], &summary["first_failed_line"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(all_of(&user, "orders").lines().count(), 2);
}

#[test]
fn a_record_may_be_longer_as_json_than_it_is() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "long"]).ok();
    let text = "\u{1}".repeat(3 << 20);
    let line = json!({ "value": text }).to_string();
    assert!(line.len() > 16 << 20);
    let produce = ["produce", "long", "--format", "json", "--output", "json"];
    let summary = user.run_with_input(&produce, &line).json();
    assert_eq!(
        (&summary["records"], &summary["bytes"]),
        (&json!(1), &json!(3 << 20))
    );
}

#[test]
fn flags_that_stand_against_lines_of_json_are_refused() {
    let user = User::new();
    for (flags, reason) in [
        (
            &["--format", "json", "--key-json", "id"][..],
            "each record has a key of its own",
        ),
        (&["--repartition"], "--repartition needs --format json"),
        (
            &["--format", "json", "--repartition", "--partition", "1"],
            "cannot be used with",
        ),
    ] {
        let said = user.run(&[&["produce", "a"], flags].concat()).fails(2);
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn the_summary_tells_also_of_a_command_that_does_not_get_so_far_as_to_send() {
    let user = User::new();
    let summary_of = |flags: &[&str], reason: &str| {
        let produce = ["produce", "orders", "--output", "json"];
        let outcome = user.run_with_input(&[&produce[..], flags].concat(), "a\n");
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let told = outcome.stderr.contains("nothing was sent to topic orders");
        assert!(told && outcome.stderr.contains(reason), "{outcome:?}");
        let summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(
            [&summary["topic"], &summary["records"], &summary["failed"]],
            [&json!("orders"), &json!(0), &json!(0)]
        );
        assert_eq!(summary["first_failed_line"], 1);
        let error = summary["error"].as_str().unwrap();
        assert!(error.contains(reason), "{error}");
    };
    summary_of(&["absent"], "cannot open absent");
    summary_of(&[], "no profile is chosen");
    let broker = user.start_broker();
    summary_of(&[], "orders does not exist");
    summary_of(&["absent"], "cannot open absent");
    drop(broker);
    summary_of(&["--timeout", "300ms"], "did not answer");
    let wrong = user.run(&["produce", "orders", "--output", "json", "--brokers", "a:1"]);
    assert_eq!((wrong.code, &*wrong.stdout), (Some(2), ""));
}
