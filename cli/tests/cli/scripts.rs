//! What docs/scripting.md promises to scripts.

use std::{fs, io::BufRead as _, io::BufReader, path::Path, process::Stdio};

use serde_json::{Value, json};

use crate::support::User;

/// Fields that scripts may rely on: those that the page names.
fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scripting.md");
    fs::read_to_string(path).unwrap()
}

/// Asserts that a value keeps to the page.
#[track_caller]
fn assert_as_promised(value: &Value) {
    match value {
        Value::Array(values) => values.iter().for_each(assert_as_promised),
        Value::Object(fields) => {
            for (name, value) in fields {
                let is_named = page().contains(&format!("`{name}`"));
                assert!(is_named, "docs/scripting.md does not name {name}");
                if name.ends_with("_at") || name == "timestamp" {
                    assert_is_time(value);
                }
                if name.ends_with("_ms") && !value.is_null() {
                    assert!(value.is_u64(), "{name} is {value}");
                }
                if !["value", "headers"].contains(&name.as_str()) {
                    assert_as_promised(value);
                }
            }
        }
        _ => {}
    }
}

/// `2026-01-31T12:00:00.000Z`.
#[track_caller]
fn assert_is_time(value: &Value) {
    let text = value.as_str().unwrap();
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{text}");
}

#[test]
fn every_command_says_in_json_what_it_did_and_to_what() {
    let user = User::new();
    user.write_filter();
    let _broker = user.start_broker();
    let config = r#"{"field":"n","op":">=","value":0}"#;
    let mut outputs = Vec::new();
    for (line, expected) in [
        (
            &["topic", "create", "orders", "--partitions", "2"][..],
            json!({"action": "created", "topic": "orders"}),
        ),
        (
            &["topic", "alter", "orders", "--retention-age", "forever"],
            json!({"action": "altered", "topic": "orders", "config": {"retention_age_ms": null}}),
        ),
        (
            &["plugin", "deploy", "keep", "filter.wasm"],
            json!({"action": "deployed", "plugin": "keep", "bindings": []}),
        ),
        (
            &[
                "plugin",
                "bind",
                "orders",
                "keep",
                "--config",
                config,
                "--timeout",
                "10s",
                "--on-error",
                "skip",
            ],
            json!({
                "action": "bound", "topic": "orders", "plugin": "keep", "hook": "produce",
                "config": config, "on_error": "skip", "timeout_ms": 10_000,
                "memory_bytes_max": 16 * 1024 * 1024,
            }),
        ),
        (&["topic", "describe", "orders"], json!({"topic": "orders"})),
        (
            &["plugin", "describe", "keep"],
            json!({"plugin": "keep", "world": "filter"}),
        ),
        (&["status"], json!({"topics": 1, "partitions": 2})),
        (
            &["plugin", "upgrade", "keep", "filter.wasm"],
            json!({"action": "upgraded", "plugin": "keep"}),
        ),
        (
            &["plugin", "rollback", "keep"],
            json!({"action": "rolled_back", "plugin": "keep", "version": "0.0.0"}),
        ),
        (
            &["plugin", "unbind", "orders", "keep"],
            json!({"action": "unbound", "topic": "orders", "plugin": "keep"}),
        ),
        (
            &["plugin", "remove", "keep"],
            json!({"action": "removed", "plugin": "keep"}),
        ),
        (
            &["profile", "use", "dev-data"],
            json!({"action": "selected", "profile": "dev-data"}),
        ),
        (
            &["topic", "delete", "orders"],
            json!({"action": "deleted", "topic": "orders"}),
        ),
        (
            &["profile", "remove", "dev-data"],
            json!({"action": "removed", "profile": "dev-data"}),
        ),
    ] {
        let output = user.run(&[line, &["--output", "json"]].concat()).json();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&output[name], value, "{line:?}: {output}");
        }
        assert_as_promised(&output);
        outputs.push(output);
    }
    let topic = &outputs[4];
    assert_eq!(topic["partitions"][1]["partition"], 1);
    let binding = &topic["bindings"][0];
    assert_eq!(
        (
            &binding["plugin"],
            &binding["on_error"],
            &binding["failed_calls"]
        ),
        (&"keep".into(), &"skip".into(), &0.into())
    );
    assert_eq!(outputs[5]["bindings"], topic["bindings"]);
}

#[test]
fn lists_records_and_summaries_keep_to_the_page() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "orders"]).ok();
    let produce = ["produce", "orders", "--key-json", "id", "--output", "json"];
    let summary = user.run_with_input(&produce, "{\"id\":1.50}\n").json();
    assert_as_promised(&summary);
    assert_eq!(summary["first_failed_line"], Value::Null);
    let consume = ["consume", "orders", "--from", "beginning", "--until-end"];
    let record = user
        .run(&[&consume[..], &["--output", "json"]].concat())
        .json();
    assert_as_promised(&record);
    assert_eq!(record["key"], "1.50");
    for list in ["topic", "profile", "plugin"] {
        let rows = user.run(&[list, "list", "--output", "json"]).json();
        assert_as_promised(&rows);
    }

    let outcome = user.run_with_input(&produce, "{\"id\":2}\n{\"id\":null}\n");
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("line 2: its field \"id\" is null"),
        "{outcome:?}"
    );
    let summary: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_as_promised(&summary);
    assert_eq!(
        (&summary["records"], &summary["first_failed_line"]),
        (&1.into(), &2.into())
    );
}

#[test]
fn status_tells_the_shards_of_data_and_the_catalog_apart() {
    let user = User::new();
    let _broker = user.start_broker();
    let status = user.run(&["status", "--output", "json"]).json();
    assert_eq!(status["shards"].as_array().unwrap().len(), 16);
    assert_eq!(status["catalog"]["leader"], status["broker"]);
    let text = user.run(&["status"]).ok();
    assert!(
        text.contains("shards:") && text.contains("catalog:"),
        "{text}"
    );
}

#[test]
fn a_broker_has_its_address_and_zone_beside_its_id_wherever_it_leads_or_has_a_copy() {
    let user = User::new();
    let file = user.data_dir().join("client.toml");
    let _broker = user.start(&["serve", "--bootstrap", "--zone", "east"], &file);
    let run = |line: &[&str]| {
        let with_profile = ["--profile", file.to_str().unwrap()];
        user.run(&[line, &with_profile].concat())
    };
    run(&["topic", "create", "orders"]).ok();
    let status = run(&["status", "--output", "json"]).json();
    let (id, address) = (&status["broker"], status["address"].as_str().unwrap());
    let name = format!("{id} ({address}, east)");
    for line in [
        &["status"][..],
        &["topic", "describe", "orders"],
        &["cluster", "describe"],
    ] {
        let text = run(line).ok();
        assert!(text.contains(&name), "{line:?}: {text}");
    }
    let topic = run(&["topic", "describe", "orders", "--output", "json"]).json();
    assert_as_promised(&topic);
    let partition = &topic["partitions"][0];
    assert_eq!(
        (&partition["leader"], &partition["leader_address"]),
        (id, &address.into())
    );
    let copy = json!({"broker": id, "address": address, "zone": "east", "voter": true});
    assert_eq!(partition["replicas"], json!([copy]));
}

#[test]
fn a_signal_before_the_end_that_was_asked_for_is_told_by_the_exit_code() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "live"]).ok();
    for (end, signal, code) in [
        (None, "INT", 0),
        (Some("5"), "INT", 130),
        (Some("5"), "TERM", 143),
    ] {
        let mut command = user.command();
        command.args(["consume", "live", "--from", "beginning"]);
        if let Some(count) = end {
            command.args(["--count", count]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        user.run_with_input(&["produce", "live"], "now\n").ok();
        // With its first line it is known to listen to signals.
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        let sent = std::process::Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.contains("of 5"), code != 0, "{said}");
    }
}

#[test]
fn a_name_that_is_not_there_comes_with_the_one_that_was_meant() {
    let user = User::new();
    user.write_filter();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "orders"]).ok();
    user.run(&["plugin", "deploy", "json-filter", "filter.wasm"])
        .ok();
    for (line, meant) in [
        (&["topic", "describe", "ordres"][..], "did you mean orders?"),
        (&["topic", "delete", "order"], "did you mean orders?"),
        (&["consume", "Orders"], "did you mean orders?"),
        (&["produce", "ordrs"], "did you mean orders?"),
        (
            &["plugin", "bind", "orders", "json-fliter"],
            "did you mean json-filter?",
        ),
        (
            &["plugin", "bind", "oders", "json-filter"],
            "did you mean orders?",
        ),
        (
            &["plugin", "describe", "jsonfilter"],
            "did you mean json-filter?",
        ),
        (
            &["status", "--profile", "dev-dta"],
            "did you mean dev-data?",
        ),
        (&["profile", "use", "dev-date"], "did you mean dev-data?"),
    ] {
        let said = user.run(line).fails(1);
        assert!(said.contains(meant), "{line:?}: {said}");
    }
    let said = user.run(&["topic", "describe", "payments"]).fails(1);
    assert!(!said.contains("did you mean"), "{said}");
}

#[test]
fn sizes_and_partitions_are_told_in_words_of_people() {
    let user = User::new();
    let _broker = user.start_broker();
    assert_eq!(
        user.run(&["topic", "create", "one"]).ok(),
        "created topic one with 1 partition\n"
    );
    let said = user
        .run_with_input(&["produce", "one", "--partition", "1"], "x\n")
        .fails(1);
    assert!(said.contains("its only partition is 0"), "{said}");
    let said = user.run(&["consume", "one", "--partition", "7"]).fails(1);
    assert!(said.contains("its only partition is 0"), "{said}");
    let long = "x".repeat(8 * 1024 * 1024 + 1) + "\n";
    let said = user.run_with_input(&["produce", "one"], &long).fails(1);
    assert!(said.contains("8 MiB"), "{said}");
}

#[test]
fn a_failure_is_one_also_where_nobody_reads_what_is_printed() {
    let user = User::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut produce = user.command();
    produce.args(["produce", "orders", "--output", "json"]);
    let output = produce.stdout(writer).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no profile is chosen"), "{said}");
}
